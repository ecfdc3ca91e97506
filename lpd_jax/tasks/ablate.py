"""Task: measures a list of config diffs, each under several seeds, and puts them in one table.

    python -m lpd_jax ablate --config=configs/ablations/orders.py --workdir=runs/digits
    python -m lpd_jax ablate --config=configs/ablations/orders.py --workdir=runs/digits \\
        --config.ablation.only=3

The second form measures one variant, for an array of jobs that share a workdir; whichever ends last
writes the whole table. What is measured already, with the same models and settings, is not measured
again.
"""

import contextlib
import dataclasses
import logging
import math
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from lpd_jax import checkpoint, distributed, storage
from lpd_jax.errors import InputError
from lpd_jax.evaluation import summary
from lpd_jax.evaluation.judge import Judge, fit_judge, look_at
from lpd_jax.generation import orders
from lpd_jax.models.tokenizer import TokenizerConfig
from lpd_jax.sampler import Sampler, draw_orders
from lpd_jax.tasks import build, check, encode, scoring, train, train_tokenizer
from lpd_jax.tasks.workdir import claim, digest, done, plain, read_json, write_json, writing
from lpd_jax.trained import load_tokenizer
from lpd_jax.viz import plots

_LOG = logging.getLogger(__name__)

METRICS = ("class_accuracy", "frechet_ratio", "nll_bits")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One line of an ablation.

    Attributes:
        name: its curve in the plot, its row in the table.
        x: where on the horizontal axis, its column in the table.
        config: the base config with the diff and the seed in it.
        settings: everything that its figures depend on, as JSON data.
        file: where its figures go.
    """

    name: str
    x: Any
    config: ConfigDict
    settings: dict[str, Any]
    file: storage.Path


def run(config: ConfigDict, workdir: storage.Where) -> storage.Path:
    """Measures what is missing and writes the table and the plot of what is there.

    Returns:
        `workdir/ablations/<name>`, with table.csv, table.md, plot.png and results/.

    Raises:
        InputError: the list of variants is wrong, the workdir cannot be written, or the shared
            models are not there and only one variant was asked for.
    """
    if "ablation" not in config:
        raise InputError("this config has no ablation; choose one of configs/ablations/.")
    section, workdir = config.ablation, storage.path(workdir)
    if not -1 <= section.only < len(section.variants):
        raise InputError(
            f"ablation.only={section.only} must be a number from 0 to {len(section.variants) - 1}, "
            "or -1 for all."
        )
    # All of them are read before anything is trained for the first.
    _check(_read_variants(config, workdir), section)
    directory = workdir / "ablations" / section.name
    _prepare(config, workdir)
    model, num_tokens = _shared_model(config, workdir)
    variants = _read_variants(config, workdir, model)
    for variant in variants:
        build.group_sizes(variant.config.sample, num_tokens)
    chosen = variants if section.only < 0 else variants[section.only :: len(section.variants)]
    missing = [variant for variant in chosen if not done(variant.file)]
    if missing:
        claim(directory, {"name": section.name}, config)
        _measure(config, workdir, missing)
    if jax.process_index() == 0:
        _summarise(directory, section, variants)
    return directory


def _read_variants(config: ConfigDict, workdir: storage.Path, model: str = "") -> list[Variant]:
    return [
        read_variant(config, workdir, index, seed, model)
        for seed in config.ablation.seeds  # outermost, so that one that is stopped has whole seeds
        for index in range(len(config.ablation.variants))
    ]


def _shared_model(config: ConfigDict, workdir: storage.Path) -> tuple[str, int]:
    """Identity of what the variants share, and tokens of an image.

    It is the decoder with its tokenizer, or the tokenizer alone of decoders that are to be trained.
    """
    if not config.ablation.retrain:
        about = build.about(config, workdir)
        return about["identity"], math.prod(about["config"]["grid"])
    place = storage.path(config.checkpoint or workdir) / "tokenizer/model"
    about = distributed.decided(lambda: checkpoint.read_model_json(place, "tokenizer"))
    grid = build.grid(config, TokenizerConfig(**about["config"]).stride)
    return about["fingerprint"], math.prod(grid)


def read_variant(
    config: ConfigDict, workdir: storage.Path, index: int, seed: int, model: str = ""
) -> Variant:
    """Variant `index` of `config.ablation` under a seed, with the models of this identity.

    Raises:
        InputError: its diff sets a field that the config does not have, or to another type, or one
            that all variants share.
    """
    section = config.ablation
    name, diff = section.variants[index]
    own = ("sample", "decoder", "train") if section.retrain else ("sample",)
    changed = config.copy_and_resolve_references()
    changed.seed = seed
    for field, value in diff.items():
        if field.partition(".")[0] not in own:
            raise InputError(
                f"variant {index} ({name}) sets {field}, which all variants share: they may differ "
                f"in {', '.join(own)}" + ("." if section.retrain else ", or set ablation.retrain.")
            )
        try:
            changed.update_from_flattened_dict({field: value})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"variant {index} ({name}) sets {field}={value!r}, which the config has no such "
                "field for; the base config lists its fields and their types."
            ) from error
    settings = {"seed": seed, "model": model, "data": changed.data}
    settings["sample"] = build.deciding(changed.sample)
    if section.retrain:
        settings |= {"decoder": changed.decoder, "train": build.lasting(changed.train)}
    settings = plain(settings)
    x = read_field(changed, section.x)
    stem = re.sub(r"[^\w.-]+", "_", f"{name}-{x}-seed{seed}-{digest(settings)}")
    file = workdir / "ablations" / section.name / "results" / f"{stem}.json"
    return Variant(name, x, changed, settings, file)


def read_field(config: ConfigDict, field: str) -> Any:
    """The value of a dotted field.

    Raises:
        InputError: there is no such field.
    """
    value = config
    for part in field.split("."):
        if not isinstance(value, ConfigDict) or part not in value:
            raise InputError(f"ablation.x={field!r} is no field of the config.")
        value = value[part]
    return value


def _check(variants: list[Variant], section: ConfigDict) -> None:
    """Refuses a list in which two are the same to a reader, or one cannot be measured."""
    places = [(variant.name, variant.x, variant.config.seed) for variant in variants]
    if not places:
        raise InputError("ablation.variants and ablation.seeds must each hold at least one.")
    for name, x, seed in places:
        if places.count((name, x, seed)) > 1:
            raise InputError(
                f"two variants are {name!r} at {section.x}={x} with seed {seed}; name one of them "
                "otherwise."
            )
    for variant in variants:
        check.config(variant.config, "sample")


def _prepare(config: ConfigDict, workdir: storage.Path) -> None:
    """Trains what all variants share, unless it is there."""
    source = storage.path(config.checkpoint or workdir)
    needed = ["tokenizer/model/model.json"]
    needed.append("codes/spec.json" if config.ablation.retrain else "decoder/model/model.json")
    absent = distributed.decided(lambda: [n for n in needed if not (source / n).is_file()])
    if not absent:
        return
    if config.checkpoint or config.ablation.only >= 0:
        raise InputError(
            f"{source} has no {absent[0]}, which all variants share; run the pipeline, or this "
            "without ablation.only, before the variants one by one."
        )
    train_tokenizer.run(config, workdir)
    encode.run(config, workdir)
    if not config.ablation.retrain:
        train.run(config, workdir)


def _measure(config: ConfigDict, workdir: storage.Path, missing: list[Variant]) -> None:
    """Writes the figures of each variant."""
    most = config.evaluate.real_images
    splits = (build.labelled_images(config.data, split, most) for split in ("train", "heldout"))
    judge = fit_judge(*splits)
    floor = judge.frechet_floor(len(judge.heldout_labels))
    codes = _codes(config, workdir, judge)
    progress = tqdm(missing, config.ablation.name, unit="variant", dynamic_ncols=True)
    for variant, sampler in _with_models(config, workdir, progress):
        start = time.perf_counter()
        figures = _figures(variant, sampler, judge, codes)
        figures["frechet_ratio"] = figures["frechet"] / floor
        figures["seconds"] = round(time.perf_counter() - start, 2)
        if jax.process_index() == 0:
            about = {"name": variant.name, "x": variant.x, "seed": variant.config.seed}
            with writing(variant.file.parent):
                write_json(variant.file, about | figures | {"settings": variant.settings})


def _with_models(
    config: ConfigDict, workdir: storage.Path, variants: tqdm
) -> Iterator[tuple[Variant, Sampler]]:
    """Each variant with its models, which are trained first when they are the variant's own."""
    if not config.ablation.retrain:
        sampler, loaded = None, None
        for variant in variants:
            section = variant.config.sample
            if loaded != (how := (section.dtype, section.quantize, section.params)):
                sampler, loaded = build.sampler(variant.config, workdir), how
            yield variant, sampler
        return
    for variant in variants:
        directory = _retrained(config, workdir, variant)
        own = variant.config.copy_and_resolve_references()
        own.checkpoint = ""
        yield variant, build.sampler(own, directory)


def _retrained(config: ConfigDict, workdir: storage.Path, variant: Variant) -> storage.Path:
    """Directory of a decoder trained with the variant's settings, on the shared codes."""
    source = storage.absolute(config.checkpoint or workdir)
    own = {name: variant.settings[name] for name in ("seed", "decoder", "train")}
    directory = (
        workdir / "ablations/models" / digest({"tokenizer": variant.settings["model"], **own})
    )
    _share(config, source, directory)
    if not done(directory / "decoder/model/model.json"):
        train.run(variant.config, directory, source / "codes")
    return directory


def _share(config: ConfigDict, source: storage.Path, directory: storage.Path) -> None:
    """Puts the shared tokenizer beside a decoder: links, or where buckets have none, a copy."""
    if not (storage.in_bucket(source) or storage.in_bucket(directory)):
        with distributed.first_process_first("share"):
            if jax.process_index() == 0:
                directory.mkdir(parents=True, exist_ok=True)
                for part in ("tokenizer", "codes"):
                    # Another job of an array may do the same at the same time.
                    with contextlib.suppress(FileExistsError):
                        (directory / part).symlink_to(source / part)
    elif not done(directory / "tokenizer/model/model.json"):
        _, params, about = load_tokenizer(source / "tokenizer/model", build.mesh(config))
        checkpoint.save_model(directory / "tokenizer/model", about, params)


def _codes(config: ConfigDict, workdir: storage.Path, judge: Judge) -> dict[str, np.ndarray] | None:
    """Codes of the judge's held-out images; None where there are none."""
    place = storage.path(config.checkpoint or workdir) / "tokenizer/model"
    about = distributed.decided(lambda: checkpoint.read_model_json(place, "tokenizer"))
    found = scoring.heldout_codes(config, workdir, about["fingerprint"])
    if found is None:
        _LOG.info("ablate: no codes of this tokenizer are at hand, so nll_bits is left out")
    elif not np.array_equal(found["label"], judge.heldout_labels):
        raise InputError(
            "the held-out images are not those that were encoded; put them back as they were, or "
            "encode them into a new --workdir."
        )
    return found


def _figures(
    variant: Variant, sampler: Sampler, judge: Judge, codes: dict[str, np.ndarray] | None
) -> dict[str, float | None]:
    """One image for each held-out image, of its class, against the held-out images.

    `nll_bits` is of the codes of the held-out images, each in the order of its generated image;
    None for an order that comes about with the image.
    """
    section, seed, labels = variant.config.sample, variant.config.seed, judge.heldout_labels
    network = sampler.decoder.config
    group_sizes = build.group_sizes(section, network.num_tokens)
    order = build.order(section)
    if not isinstance(order, np.ndarray | orders.Confident):
        # Orders as an array, so that all of them share the program of their group sizes.
        indices, key = jax.numpy.arange(len(labels)), jax.random.key(seed)
        order = jax.device_get(draw_orders(order, key, indices, network.grid, group_sizes))
    given = order if isinstance(order, np.ndarray) else None
    batches = build.batches(variant.config, section, sampler, labels, orders_given=given)
    looks, _ = look_at(judge, batches)
    bits = None
    if codes is not None and given is not None:
        own = order[: len(labels)]
        bits = scoring.nll_bits(sampler, codes, own, group_sizes, section.batch_size)
    return {
        "class_accuracy": judge.class_accuracy(looks, labels),
        "frechet": judge.frechet(looks),
        "nll_bits": bits,
        "count": len(labels),
    }


def _summarise(directory: storage.Path, section: ConfigDict, variants: list[Variant]) -> None:
    """Table and plot of the results that are there."""
    done = [variant.file for variant in variants if variant.file.is_file()]
    found = [read_json(file, f"{file} is gone.") for file in done]
    metrics = [m for m in METRICS if any(result.get(m) is not None for result in found)]
    rows = summary.summarise(found, metrics)
    tables = [summary.markdown_table(rows, metric, section.x) for metric in metrics]
    head = f"# {section.name}\n\n{len(done)} of {len(variants)} results, mean ± standard error.\n\n"
    storage.write_text(directory / "table.md", head + "\n".join(tables))
    storage.write_text(directory / "table.csv", summary.csv_table(rows, metrics, section.x))
    figure = plots.error_bars(rows, metrics, summary.axis(rows), section.x)
    plots.save(figure, directory / "plot.png", dpi=100)
    _LOG.info("ablate: %d of %d results in %s", len(done), len(variants), directory)
