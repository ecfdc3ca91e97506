"""Task: fits group sizes to a trained model, by the likelihood of training codes.

    python -m lpd_jax fit_schedule --config=digits --workdir=runs/digits \\
        --config.fit_schedule.steps=4,6,8
    python -m lpd_jax sample --config=digits --workdir=runs/digits --config.sample.steps=6 \\
        --config.sample.group_schedule=runs/digits/schedules/NAME/schedule.json

The sizes are for the order of `config.sample`. Never kept is what costs the fitting codes more than
cosine or uniform sizes do.
"""

import functools
import logging
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from lpd_jax import parallel, storage
from lpd_jax.evaluation.fitting import fitted_sizes, group_costs
from lpd_jax.evaluation.likelihood import Bits
from lpd_jax.generation import groups
from lpd_jax.generation.groups import step_of
from lpd_jax.sampler import draw_orders
from lpd_jax.tasks import build, results, scoring
from lpd_jax.tasks.workdir import digest, done, timed, write_json
from lpd_jax.viz import likelihood as pictures
from lpd_jax.viz import plots

_LOG = logging.getLogger(__name__)
LAST = "schedule.json"  # the file that says that a directory is complete
Sizes = tuple[int, ...]


def run(config: ConfigDict, workdir: storage.Where) -> storage.Path:
    """Fits; returns the file that `sample.group_schedule` takes.

    Raises:
        InputError: a setting is wrong, or the codes are absent or another tokenizer's.
    """
    workdir, section = storage.path(workdir), config.fit_schedule
    about = build.about(config, workdir)
    scoring.check_codes(workdir, about)
    grid = tuple(about["config"]["grid"])
    numbers = section.steps or (min(config.sample.steps, math.prod(grid)),)
    for number in numbers:
        groups.group_sizes(math.prod(grid), number)
    names = (
        *("order", "order_file", "order_field", "field_context", "proximity", "repulsion"),
        *("dtype", "params"),
    )
    settings = {
        "seed": config.seed,
        "model": about["identity"],
        "sample": {name: build.deciding(config.sample)[name] for name in names},
        "fit_schedule": section,
        "steps": numbers,
    }
    name = f"{results.order(config.sample)}-seed{config.seed}-{digest(settings)}"
    directory = workdir / "schedules" / name
    if not done(directory / LAST):
        with timed(workdir, "fit_schedule"):
            found = _fit(config, workdir, grid, numbers)
            if jax.process_index() == 0:
                with results.directory(directory, settings, config, LAST) as partial:
                    _write(partial, found)
    _LOG.info("fit_schedule: --config.sample.group_schedule=%s", directory / LAST)
    return directory / LAST


def _fit(
    config: ConfigDict, workdir: storage.Path, grid: tuple[int, int], numbers: tuple[int, ...]
) -> dict[str, dict[str, Any]]:
    """Number of steps -> its group sizes, and what they and the others cost."""
    section, order = config.fit_schedule, build.order(config.sample)
    mesh, rules = build.mesh(config), build.rules(config)
    bits, count, _ = scoring.prepare(config, workdir, "train", section.images)
    key, indices = jax.random.key(config.seed), np.arange(count, dtype=np.int32)

    @functools.cache
    def drawn(sizes: Sizes) -> np.ndarray:
        if isinstance(order, np.ndarray):
            return order[np.arange(count) % len(order)]
        return jax.device_get(draw_orders(order, key, indices, grid, sizes))

    measured = {}

    def costs(sizes: Sizes) -> np.ndarray:
        """Once for an order that does not depend on its groups: near enough for all of them."""
        drawn_before = drawn(sizes).tobytes()
        if drawn_before not in measured:
            measured[drawn_before] = group_costs(bits, drawn(sizes), sizes)
        return measured[drawn_before]

    found = {}
    with parallel.use(mesh, rules):
        for number in tqdm(numbers, "fit_schedule", unit="number of steps", dynamic_ncols=True):
            known = {k: groups.group_sizes(math.prod(grid), number, k) for k in groups.KINDS}
            sizes, met = fit(bits, drawn, costs, list(known.values()), section.rounds)
            row = {"group_sizes": sizes, "bits_per_token": met[sizes]}
            found[str(number)] = row | {kind: met[own] for kind, own in known.items()}
    return found


def fit(
    bits: Bits,
    drawn: Callable[[Sizes], np.ndarray],
    costs: Callable[[Sizes], np.ndarray],
    begin: list[Sizes],
    rounds: int,
) -> tuple[Sizes, dict[Sizes, float]]:
    """The cheapest group sizes that were met, and the bits per token of all that were.

    Orders that depend on their groups are drawn again for the groups that were fitted, and the
    costs measured again, until nothing is cheaper.

    Args:
        bits: of `likelihood.scorer`, for M images.
        drawn: group sizes -> orders int32 [M, N].
        costs: group sizes -> those of `group_costs` for their orders.
        begin: group sizes to begin with.
        rounds: fits at most.
    """

    @functools.cache
    def cost(sizes: Sizes) -> float:
        return float(bits(drawn(sizes), step_of(sizes)).mean())

    met = {sizes: cost(sizes) for sizes in begin}
    best = min(met, key=met.get)
    for _ in range(rounds):
        fitted = fitted_sizes(costs(best), len(best))
        if fitted in met:
            break
        met[fitted] = cost(fitted)
        if met[fitted] >= met[best]:
            break
        best = fitted
    return best, met


def _write(directory: storage.Path, found: dict[str, dict[str, Any]]) -> None:
    lines = ["| steps | cosine | uniform | chosen | group sizes |", "|---|---|---|---|---|"]
    for number, row in found.items():
        figures = (f"{row[name]:.3f}" for name in (*groups.KINDS, "bits_per_token"))
        sizes = " ".join(map(str, row["group_sizes"]))
        lines.append(f"| {number} | {' | '.join(figures)} | {sizes} |")
    head = "Bits per token of the training codes that the sizes were fitted to.\n\n"
    storage.write_text(directory / "schedule.md", head + "\n".join(lines) + "\n")
    curves = {f"{number} steps": row["group_sizes"] for number, row in found.items()}
    plots.save(pictures.group_sizes(curves), directory / "sizes.png")
    write_json(directory / LAST, found)
