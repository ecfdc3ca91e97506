"""From config sections to the typed values that everything below this floor takes."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lpd_jax import checkpoint, distributed, parallel, storage
from lpd_jax.errors import InputError
from lpd_jax.generation import field, groups, mixture, orders, schedule
from lpd_jax.generation.results import Batch
from lpd_jax.generation.sampling import SamplingRule, sampling_rule
from lpd_jax.models.tokenizer import Tokenizer, TokenizerConfig
from lpd_jax.sampler import Sampler, Samples
from lpd_jax.sampler.checks import labels as check_labels
from lpd_jax.tasks.inputs import SOURCES as SOURCES
from lpd_jax.tasks.inputs import check_source as check_source
from lpd_jax.tasks.inputs import class_names as class_names
from lpd_jax.tasks.inputs import images as images
from lpd_jax.tasks.inputs import labelled_images as labelled_images
from lpd_jax.tasks.inputs import source as source
from lpd_jax.tasks.inputs import workers as workers
from lpd_jax.trained import belong
from lpd_jax.training.loop import LoopConfig
from lpd_jax.training.objectives import DrawOrder, uniform_order
from lpd_jax.training.optimizer import OptimizerConfig


def labels(values: Sequence[int | str] | str, names: Sequence[str], num_classes: int) -> list[int]:
    """Numbers of the classes that a section names or numbers; none when it names none.

    Raises:
        InputError: there is no such class.
    """
    values = [values] if isinstance(values, str) else list(values)
    return check_labels(values, names, num_classes, True).tolist() if values else []


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
    """Group sizes of a section with `group_sizes` (given) or `steps` and `group_schedule`.

    Raises:
        InputError: they do not fit, or the file of the schedule has no such number of steps.
    """
    sizes = tuple(config.group_sizes)
    if not sizes:
        return scheduled_sizes(config.group_schedule, config.steps, num_tokens)
    groups.check_group_sizes(sizes, num_tokens)
    return sizes


def scheduled_sizes(kind: str, steps: int, num_tokens: int) -> tuple[int, ...]:
    """Group sizes of "cosine", "uniform" or a file of fit_schedule. Raises as `group_sizes`."""
    if kind in groups.KINDS:
        return groups.group_sizes(num_tokens, steps, kind)
    sizes = fitted_sizes(kind, steps)
    groups.check_group_sizes(sizes, num_tokens)
    return sizes


def fitted_sizes(file: str, steps: int) -> tuple[int, ...]:
    """Group sizes of that many steps in a file that the task fit_schedule wrote.

    One token a step needs no fit.

    Raises:
        InputError: it is no such file, or has no such number of steps.
    """
    try:
        found = json.loads(storage.path(file).read_text())
        sizes = {int(number): tuple(row["group_sizes"]) for number, row in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"sample.group_schedule={file!r} is no file of fit_schedule ({storage.brief(error)})."
        ) from error
    if steps in map(sum, sizes.values()):
        return (1,) * steps
    if steps not in sizes:
        raise InputError(
            f"{file} has group sizes for {', '.join(map(str, sizes))} steps, not for {steps}; fit "
            f"them with --config.fit_schedule.steps={steps}."
        )
    return sizes[steps]


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
    image i. With `config.order_field`, that of the field in that file.
    """
    if config.order_file:
        return schedule.read_orders(config.order_file)
    if config.order_field:
        measured = field.read(config.order_field)
        return orders.Field(*field.fixed_point(measured, config.field_context))
    if config.order == "confident":
        return orders.confident(config.confidence_threshold, config.confidence_noise)
    return orders.named(config.order, config.proximity, config.repulsion)


def sampling(config: ConfigDict) -> SamplingRule:
    """Guidance and sampling of `config.sample`."""
    return sampling_rule(**{f.name: config[f.name] for f in dataclasses.fields(SamplingRule)})


def sampling_defaults(config: ConfigDict) -> dict[str, Any]:
    """What `model.json` says of how the model is sampled: fields of `config.sample`, JSON data."""
    names = ("steps", "group_sizes", "group_schedule", "order", "proximity", "repulsion")
    rule = (field.name for field in dataclasses.fields(SamplingRule))
    found = {name: config.sample[name] for name in (*names, *rule)}
    if found["group_schedule"] not in groups.KINDS:  # a file stays where it is
        sizes = found["group_sizes"] or fitted_sizes(found["group_schedule"], found["steps"])
        found |= {"group_sizes": sizes, "group_schedule": "cosine"}
    return found


def about(config: ConfigDict, workdir: storage.Where) -> dict[str, Any]:
    """What `model.json` says of the decoder to sample from, with `identity`; loads no parameters.

    `identity` is 16 hex digits that change when the decoder or its tokenizer is trained again.
    As process 0 sees it; all processes call it.

    Raises:
        InputError: there is none, or no tokenizer beside it, or they do not belong together.
    """
    place = storage.path(config.checkpoint or workdir)

    def read() -> dict[str, Any]:
        decoder = checkpoint.read_model_json(place / "decoder/model", "decoder")
        tokenizer = checkpoint.read_model_json(place / "tokenizer/model", "tokenizer")
        if not belong(decoder, tokenizer):
            raise InputError(
                f"the decoder in {place} was trained on codes of another tokenizer; train it again "
                "or put back the tokenizer that it belongs to."
            )
        identity = decoder.get("fingerprint") or _identity(place / "decoder/model")
        both = f"{identity} {tokenizer['fingerprint']}".encode()
        stride = TokenizerConfig(**tokenizer["config"]).stride
        return decoder | {
            "identity": hashlib.sha256(both).hexdigest()[:16],
            "image_size": [side * stride for side in decoder["config"]["grid"]],
        }

    return distributed.decided(read)


def _identity(model: storage.Path) -> str:
    """Of a model that was written before models had fingerprints.

    Orbax draws the names of the files that it writes, so they tell one writing from another, also
    after a copy.
    """
    # Level by level: a bucket has no recursive listing.
    levels = ("*", "*/*", "*/*/*")
    found = (file for level in levels for file in (model / "params").glob(level))
    names = sorted(str(file).removeprefix(str(model)) for file in found)
    text = "\n".join([(model / "model.json").read_text(), *names])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def deciding(section: ConfigDict) -> dict[str, Any]:
    """The fields of a sample section that decide an image of a given label, index and seed.

    The others say which images, or how they are computed. Of a file its content counts.
    """
    others = ("labels", "count", "batch_size", "segments")
    fields = {name: value for name, value in section.to_dict().items() if name not in others}
    if section.group_schedule not in groups.KINDS:
        fields["group_schedule"] = storage.path(section.group_schedule).read_text()
    if section.order_file:
        fields["order_file"] = hashlib.sha256(order(section).tobytes()).hexdigest()[:16]
    if section.order_field:
        measured = field.read(section.order_field)
        fields["order_field"] = hashlib.sha256(measured.tobytes()).hexdigest()[:16]
    return fields


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
    progress: bool = False,
) -> Samples:
    """Images of `labels` as a sample section says, in every process."""
    return trained.sample(labels, **_how(config, section, trained, progress))


def batches(
    config: ConfigDict,
    section: ConfigDict,
    trained: Sampler,
    labels: np.ndarray,
    progress: bool = False,
    orders_given: np.ndarray | None = None,
    **more: Any,
) -> Iterator[Batch]:
    """`generate` in batches, of which each process gets its own part (`Sampler.batches`).

    `orders_given` int [images, N] replace the order of the section; `more` goes to the sampler.
    """
    how = _how(config, section, trained, progress) | more
    if orders_given is not None:
        how["order"] = orders_given
    return trained.batches(labels, **how)


def _how(config, section, trained, progress) -> dict[str, Any]:
    """Arguments of a sampler, as a sample section says."""
    return {
        "group_sizes": group_sizes(section, trained.decoder.config.num_tokens),
        "order": order(section),
        "rule": sampling(section),
        "seed": config.seed,
        "batch_size": section.batch_size,
        "segments": section.segments,
        "progress": progress and jax.process_index() == 0,
    }


def steps_of(config: ConfigDict, num_tokens: int) -> np.ndarray:
    """int32 [R, N]: step of each generated token, for the schedules that training draws from."""
    return np.stack(
        [
            groups.step_of(groups.group_sizes(num_tokens, steps, config.group_schedule))
            for steps in config.schedules
        ]
    )


def training_order(config: ConfigDict, grid: tuple[int, int]) -> DrawOrder:
    """What draws the orders of the examples, as the section `train` says.

    Raises:
        InputError: there is no such order, or the weights are not shares of them.
    """
    names = tuple(config.orders)
    if not names:
        raise InputError("train.orders is empty; name at least one order, such as random.")
    shares = mixture.check_weights(config.order_weights, names)
    chosen = [orders.named(name, config.proximity, config.repulsion) for name in names]
    if set(names) == {"random"}:
        return uniform_order
    return mixture.mixture(chosen, shares, grid)


def _pick(kind: type, config: ConfigDict) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in config.items() if name in names}
