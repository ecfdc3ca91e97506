"""The whole config, checked before the first step of a task: what it names can be built.

No arrays, no data, no networks: types and ranges, by building every typed value of the config.
"""

import contextlib
import difflib
from collections.abc import Iterator

from ml_collections import ConfigDict

from lpd_jax import checks, storage
from lpd_jax.errors import InputError
from lpd_jax.generation import editing, groups, orders
from lpd_jax.models.decoder import DecoderConfig
from lpd_jax.parallel import MeshConfig
from lpd_jax.quantize import MODES
from lpd_jax.tasks import build, tokenizer_parts

# Whole numbers, and the least that each may be.
_LEAST = {
    "data.size": 1,
    "reading.processes": 0,
    "reading.threads": 1,
    "train_tokenizer.steps": 1,
    "train_tokenizer.batch_size": 1,
    "train_tokenizer.log_every": 1,
    "train_tokenizer.save_every": 1,
    "train_tokenizer.keep": 1,
    "train_tokenizer.keep_every": 0,
    "train_tokenizer.eval_every": 0,
    "train_tokenizer.eval_images": 0,
    "train_tokenizer.sheet_every": 0,
    "train_tokenizer.fid_every": 0,
    "encode.batch_size": 1,
    "encode.shard_size": 1,
    "train.steps": 1,
    "train.batch_size": 1,
    "train.log_every": 1,
    "train.save_every": 1,
    "train.keep": 1,
    "train.keep_every": 0,
    "train.accumulate": 1,
    "train.loss_chunk": 0,
    "sample.count": 1,
    "sample.steps": 1,
    "sample.batch_size": 1,
    "sample.segments": 1,
    "edit.count": 1,
    "gallery.per_class": 1,
    "demo.port": 0,
    "demo.images": 1,
    "demo.upload_mb": 1,
    "orders.count": 1,
    "evaluate.steps": 1,
    "evaluate.num_images": 0,
    "evaluate.real_images": 2,
    "reference.pool3": 0,
    "search.num_images": 10,
    "likelihood.draws": 1,
    "likelihood.images": 0,
    "attention.images": 0,
    "fit_schedule.images": 0,
    "fit_schedule.rounds": 1,
    "fit_order.images": 0,
    "convert.heads": 0,
}
# Tasks whose models have the sizes that the config says; others take them from a model directory.
_OF_THIS_CONFIG = ("pipeline", "train_tokenizer", "encode", "orders")
_READ_IMAGES = ("pipeline", "train_tokenizer", "encode", "evaluate", "ablate", "reference")


def config(config: ConfigDict, task: str) -> None:
    """Returns if a task can start with this config, as far as the config alone can tell.

    Args:
        config: of an experiment.
        task: name of the task; what it does not use is checked too, as far as it is data.

    Raises:
        InputError: names the first field that cannot be, and what it may be.
    """
    checks.seed(config.seed, "seed")
    for field, least in _LEAST.items():
        section, name = field.split(".")
        checks.whole(field, config[section][name], least)
    _data(config, task)
    for section in ("mesh", "sample_mesh"):
        for name, size in config[section].items():
            if checks.whole(f"{section}.{name}", size, -1) == 0:
                raise InputError(f"{section}.{name}=0 must be at least 1, or -1 for what is left.")
        MeshConfig(**config[section])
    with _in("tokenizer"):
        network = build.tokenizer(config).config
    of_this_config = task in _OF_THIS_CONFIG and not (task == "encode" and config.checkpoint)
    grid = build.grid(config) if of_this_config else (1, 1)
    with _in("decoder"):
        DecoderConfig(grid=grid, vocab_size=network.codebook_size, **config.decoder)
    num_tokens = grid[0] * grid[1] if of_this_config else None
    _training(config, num_tokens if task == "pipeline" else None)
    _sampling(config, num_tokens if task in ("pipeline", "orders") else None)
    if task == "pipeline":
        _pipeline(config, num_tokens)
    _likelihood(config)
    checks.number("demo.seconds", config.demo.seconds, 1)
    _evaluation(config)
    if task == "edit" and not config.edit.mask:
        # In shares of the sides; whether pixels are inside an image, its model says.
        with _in("edit.box"):
            editing.rectangle((2**10, 2**10), config.edit.box)


def _data(config: ConfigDict, task: str) -> None:
    source, path = config.data.source, config.data.path
    if source not in build.SOURCES:
        near = difflib.get_close_matches(str(source), build.SOURCES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        choices = ", ".join(map(repr, build.SOURCES))
        raise InputError(f"data.source={source!r} must be one of {choices}{hint}")
    checks.number("reading.bad_share", config.reading.bad_share, 0, 1)
    chosen = config.evaluate
    by_network = task == "evaluate" and chosen.inception and chosen.what == "images"
    elsewhere = by_network or (task == "reference" and config.reference.images)
    if task in _READ_IMAGES and source != "digits" and not path and not elsewhere:
        raise InputError(
            f"data.path is empty, and data.source={source!r} reads images from there; give "
            "--config.data.path=..."
        )


def _likelihood(config: ConfigDict) -> None:
    section = config.likelihood
    for entry in section.orders:
        name, _, kind = entry.partition(":")
        with _in("likelihood.orders"):
            if name != "field":
                orders.named(name)
            if kind not in ("", *groups.KINDS) and not storage.path(kind).is_file():
                raise InputError(
                    f"the groups {kind!r} of {name} must be 'cosine' or 'uniform', or a file of "
                    "fit_schedule."
                )
    for value in section.repulsions:
        checks.number("likelihood.repulsions", value, 0)
    for name in ("likelihood", "fit_schedule"):
        for value in config[name].steps:
            checks.whole(f"{name}.steps", value, 1)
    for name in ("likelihood", "attention"):
        if config[name].split not in ("heldout", "train"):
            raise InputError(f"{name}.split={config[name].split!r} must be 'heldout' or 'train'.")


def _evaluation(config: ConfigDict) -> None:
    values = {
        "evaluate.what": ("images", "tokenizer"),
        "evaluate.keep": ("", "png", "npz"),
        "reference.split": ("train", "heldout", "all"),
    }
    for field, allowed in values.items():
        section, name = field.split(".")
        if config[section][name] not in allowed:
            raise InputError(
                f"{field}={config[section][name]!r} must be one of {', '.join(map(repr, allowed))}."
            )
    chosen = config.evaluate
    paths = {f"evaluate.{name}": chosen[name] for name in ("inception", "reference", "images")}
    paths |= {"evaluate.lpips": chosen.lpips, "reference.images": config.reference.images}
    for field, path in paths.items():
        if path and not storage.path(path).exists():
            raise InputError(f"{field}: there is nothing at {path}.")
    if chosen.images and chosen.keep:
        raise InputError("evaluate.keep is of generated images; leave it out with evaluate.images.")
    _nothing_unused(chosen)
    for name in ("guidances", "temperatures", "repulsions"):
        for value in config.search[name]:
            checks.number(f"search.{name}", value, 0)


def _nothing_unused(chosen: ConfigDict) -> None:
    """Refuses fields of `evaluate` that would be given and change nothing."""
    if chosen.what == "tokenizer":
        unused = [name for name in ("images", "keep", "reference") if chosen[name]]
        if unused:
            raise InputError(
                "evaluate.what=tokenizer judges held-out images of config.data against themselves, "
                f"and keeps none; leave out evaluate.{' and evaluate.'.join(unused)}."
            )
        return
    if chosen.reference and not chosen.inception:
        raise InputError(
            "evaluate.reference holds features of Inception-v3; give its weights too, "
            "--config.evaluate.inception=..., or leave it out."
        )
    if chosen.lpips and chosen.inception:
        raise InputError(
            "evaluate.lpips is of images that are judged without evaluate.inception, or of "
            "evaluate.what=tokenizer; leave one of the two out."
        )
    counted = [name for name in ("lpips", "keep") if chosen[name]]
    if counted and not (chosen.images or chosen.num_images):
        raise InputError(
            f"evaluate.num_images=0: with evaluate.{counted[0]}, say how many images to generate, "
            "such as --config.evaluate.num_images=5000."
        )


def _training(config: ConfigDict, num_tokens: int | None) -> None:
    for name in ("train_tokenizer", "train"):
        with _in(name):
            build.optimizer(config[name])
            build.loop(config[name])
    tokenizer_parts.plan(config)
    section = config.train
    if not 0 <= checks.number("train.label_drop", section.label_drop) < 1:
        raise InputError(f"train.label_drop={section.label_drop} must be in [0, 1).")
    if not 0 <= checks.number("train.ema_decay", section.ema_decay) < 1:
        raise InputError(f"train.ema_decay={section.ema_decay} must be in [0, 1).")
    if not section.schedules:
        raise InputError("train.schedules is empty; give numbers of steps, such as 64,16,8.")
    for steps in section.schedules:
        checks.whole("train.schedules", steps, 1)
    with _in("train.orders"):
        build.training_order(section, (1, 1))
    if num_tokens is not None:
        with _in("train.schedules"):
            build.steps_of(section, num_tokens)


def _sampling(config: ConfigDict, num_tokens: int | None) -> None:
    section = config.sample
    with _in("sample"):
        orders.confident(section.confidence_threshold, section.confidence_noise)
        if section.order != "confident":
            orders.named(section.order, section.proximity, section.repulsion)
        build.sampling(section)
    if section.order_file and not storage.path(section.order_file).is_file():
        raise InputError(
            f"sample.order_file: there is no orders file {section.order_file}; give the path of "
            "an orders JSON file, or leave it empty."
        )
    checks.number("sample.field_context", section.field_context)
    if section.order_field:
        if section.order_file:
            raise InputError("sample has an order_file and an order_field; empty one of them.")
        with _in("sample.order_field"):
            build.order(section)
    for size in section.group_sizes:
        checks.whole("sample.group_sizes", size, 1)
    kind = section.group_schedule
    if kind not in groups.KINDS and not storage.path(kind).is_file():
        raise InputError(
            f"sample.group_schedule={kind!r} must be 'cosine' or 'uniform', or a file of "
            "fit_schedule."
        )
    if kind not in groups.KINDS and not section.group_sizes:
        build.fitted_sizes(kind, section.steps)
    for field, values in (("dtype", ("", "float32", "bfloat16")), ("quantize", ("", *MODES))):
        if section[field] not in values:
            raise InputError(
                f"sample.{field}={section[field]!r} must be {' or '.join(map(repr, values[1:]))}, "
                "or empty."
            )
    if num_tokens is not None:
        with _in("sample"):
            build.group_sizes(section, num_tokens)


def _pipeline(config: ConfigDict, num_tokens: int) -> None:
    """What only the chain knows before it starts: the classes and the grid of its own models."""
    if config.checkpoint:
        raise InputError(
            "the pipeline trains models of its own and takes none from --checkpoint; run its tasks "
            "one by one."
        )
    if config.evaluate.steps > num_tokens:
        raise InputError(
            f"evaluate.steps={config.evaluate.steps} is more than the {num_tokens} tokens of an "
            f"image; choose 1 to {num_tokens}."
        )
    if (names := build.class_names(config)) is not None:
        with _in("sample.labels"):
            build.labels(config.sample.labels, names, len(names))
    if (config.sample.guidance != 1) and config.train.label_drop == 0:
        raise InputError(
            f"sample.guidance={config.sample.guidance} needs a model trained with label dropout, "
            "and train.label_drop=0; set guidance to 1 or label_drop to 0.1."
        )


@contextlib.contextmanager
def _in(section: str) -> Iterator[None]:
    """Says which section a sentence is about, where it does not itself."""
    try:
        yield
    except InputError as error:
        if f"{section}." in str(error) or str(error).startswith(section):
            raise
        raise InputError(f"{section}: {error}") from error
    except (TypeError, ZeroDivisionError) as error:
        raise InputError(f"{section} has a field of the wrong kind ({error}).") from error
