"""From config sections to the typed values that everything below this floor takes."""

import dataclasses
from typing import Any

import grain
import jax
import numpy as np
from ml_collections import ConfigDict

from lpd_jax import parallel, storage
from lpd_jax.data import sources
from lpd_jax.errors import InputError
from lpd_jax.generation import groups, orders, schedule
from lpd_jax.generation.sampling import SamplingRule, sampling_rule
from lpd_jax.models.tokenizer import Tokenizer, TokenizerConfig
from lpd_jax.sampler import Sampler, Samples
from lpd_jax.training.loop import LoopConfig
from lpd_jax.training.optimizer import OptimizerConfig


def images(config: ConfigDict, split: str):
    """The image source named by `config.source`."""
    match config.source:
        case "digits":
            return sources.Digits(split, config.size)
        case "folder":
            return sources.Folder(config.path, split, config.size)
        case "tfds":
            return sources.TfdsImages(config.path, split, config.size)
    raise InputError(f"data.source={config.source!r} must be 'digits', 'folder' or 'tfds'.")


def labelled_images(config: ConfigDict, split: str) -> tuple[np.ndarray, np.ndarray]:
    """All images uint8 [M, S, S, 3] and labels int [M] of a split of `images`."""
    source = images(config, split)
    batch = next(iter(grain.MapDataset.source(source).batch(len(source))))
    return batch["image"], batch["label"]


def mesh(config: ConfigDict) -> jax.sharding.Mesh:
    """The device mesh of `config.mesh`, for training and encoding."""
    return parallel.make_mesh(parallel.MeshConfig(**config.mesh))


def sample_mesh(config: ConfigDict) -> jax.sharding.Mesh:
    """The device mesh of `config.sample_mesh`, for everything that generates images."""
    return parallel.make_mesh(parallel.MeshConfig(**config.sample_mesh))


def rules(config: ConfigDict) -> parallel.Rules:
    """Logical axis rules: the default ones, with those of `config.rules` in their place."""
    chosen = dict(parallel.RULES) | {
        k: tuple(v) if isinstance(v, list) else v for k, v in config.get("rules", {}).items()
    }
    return tuple(chosen.items())


def loop(config: ConfigDict) -> LoopConfig:
    """The fields of a training section that say how long and how often."""
    return LoopConfig(**_pick(LoopConfig, config))


def lasting(config: ConfigDict) -> dict[str, Any]:
    """The fields of a training section that decide what is learned, not how often it is shown."""
    rhythm = {field.name for field in dataclasses.fields(LoopConfig)} - {"steps"}
    return {name: value for name, value in config.to_dict().items() if name not in rhythm}


def optimizer(config: ConfigDict) -> OptimizerConfig:
    """The fields of a training section that AdamW takes."""
    return OptimizerConfig(**_pick(OptimizerConfig, config))


def tokenizer(config: ConfigDict) -> Tokenizer:
    """A tokenizer of the shape in `config.tokenizer`."""
    return Tokenizer(TokenizerConfig(**config.tokenizer))


def group_sizes(config: ConfigDict, num_tokens: int) -> tuple[int, ...]:
    """Group sizes of a section with `group_sizes` (given) or `steps` and `group_schedule`."""
    if config.group_sizes:
        groups.check_group_sizes(tuple(config.group_sizes), num_tokens)
        return tuple(config.group_sizes)
    return groups.group_sizes(num_tokens, config.steps, config.group_schedule)


def grid(config: ConfigDict, stride: int | None = None) -> tuple[int, int]:
    """Rows and columns of codes of an image of `data.size` pixels.

    `stride` is that of the tokenizer at hand, the config's when there is none.
    """
    stride = stride or TokenizerConfig(**config.tokenizer).stride
    if config.data.size % stride:
        raise InputError(
            f"data.size={config.data.size} is not a multiple of {stride}, the stride of the "
            "tokenizer; change data.size."
        )
    return (config.data.size // stride,) * 2


def order(config: ConfigDict):
    """The generation order named by `config.order`, with the thresholds of its section.

    With `config.order_file`, the orders of that file instead: int32 [images, N], the i-th for
    image i.
    """
    if config.order_file:
        return schedule.read_orders(config.order_file)
    return orders.named(config.order, config.proximity, config.repulsion)


def sampling(config: ConfigDict) -> SamplingRule:
    """Guidance and sampling of `config.sample`."""
    return sampling_rule(**{f.name: config[f.name] for f in dataclasses.fields(SamplingRule)})


def sampling_defaults(config: ConfigDict) -> dict[str, Any]:
    """What `model.json` says of how the model is sampled: fields of `config.sample`, JSON data."""
    names = ("steps", "group_sizes", "group_schedule", "order", "proximity", "repulsion")
    rule = (field.name for field in dataclasses.fields(SamplingRule))
    return {name: config.sample[name] for name in (*names, *rule)}


def sampler(config: ConfigDict, workdir: storage.Where) -> Sampler:
    """The sampler of the models in `workdir` (or in `config.checkpoint`, when that is given)."""
    return Sampler.load(
        config.checkpoint or workdir,
        sample_mesh(config),
        rules(config),
        config.sample.dtype,
        config.sample.quantize,
        config.sample.params,
    )


def generate(
    config: ConfigDict,
    section: ConfigDict,
    trained: Sampler,
    labels: np.ndarray,
    orders_given: np.ndarray | None = None,
    progress: bool = False,
) -> Samples:
    """Images of `labels` as a sample section says; `orders_given` [B, N] replace its order."""
    return trained.sample(
        labels,
        group_sizes(section, trained.decoder.config.num_tokens),
        order(section) if orders_given is None else orders_given,
        sampling(section),
        seed=config.seed,
        batch_size=section.batch_size,
        segments=section.segments,
        progress=progress and jax.process_index() == 0,
    )


def steps_of(config: ConfigDict, num_tokens: int) -> np.ndarray:
    """int32 [R, N]: step of each generated token, for the schedules that training draws from."""
    return np.stack(
        [
            groups.step_of(groups.group_sizes(num_tokens, steps, config.group_schedule))
            for steps in config.schedules
        ]
    )


def _pick(kind: type, config: ConfigDict) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in config.items() if name in names}
