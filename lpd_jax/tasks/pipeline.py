"""Task: the whole chain, from images to a report. The only task that runs others."""

import math

from ml_collections import ConfigDict

from lpd_jax import storage
from lpd_jax.generation import groups
from lpd_jax.tasks import build, check, encode, evaluate, likelihood, sample, train, train_tokenizer

# Of the report's table: seconds on two CPU cores, where all of the task likelihood takes minutes.
_ORDERS = ("locality", "spread", "halton", "random")
_IMAGES, _DRAWS = 200, 2


def run(config: ConfigDict, workdir: storage.Where) -> dict:
    """Runs every task that is not yet done in `workdir`; returns the report.

    Raises:
        InputError: anything in the config cannot be; before the first of them starts.
    """
    check.config(config, "pipeline")
    train_tokenizer.run(config, workdir)
    encode.run(config, workdir)
    train.run(config, workdir)
    sample.run(config, workdir)
    likelihood.run(_few_schedules(config), workdir)
    return evaluate.run(config, workdir)


def _few_schedules(config: ConfigDict) -> ConfigDict:
    """The config with a likelihood table of few schedules.

    One token a step, as the report's samples, and as few as training has seen.
    """
    few = config.copy_and_resolve_references()
    tokens = math.prod(build.grid(config))
    steps = sorted({tokens, config.evaluate.steps, min(config.train.schedules)}, reverse=True)
    few.likelihood.update(
        orders=_ORDERS,
        repulsions=(),
        steps=tuple(steps),
        draws=_DRAWS,
        images=_IMAGES,
        split="heldout",
    )
    if few.sample.group_schedule not in groups.KINDS:
        few.sample.group_schedule = "cosine"  # a fitted one has no other numbers of steps
    return few
