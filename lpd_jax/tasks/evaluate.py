"""Task: judges generated images against real ones, without any downloaded network."""

import functools
import json
import math
import platform
from collections.abc import Callable
from importlib import metadata
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lpd_jax import distributed, storage
from lpd_jax.errors import InputError
from lpd_jax.evaluation import report
from lpd_jax.evaluation.figures import DIGITS_BARS, ratio
from lpd_jax.evaluation.judge import Judge, Looks, fit_judge, look_at
from lpd_jax.sampler import Sampler
from lpd_jax.tasks import build, results, scoring
from lpd_jax.tasks.workdir import claim, done, plain, read_seconds, timed, writing
from lpd_jax.viz import images as pictures

SHOWN = 100  # images in the picture of an evaluation


def run(config: ConfigDict, workdir: storage.Where) -> dict:
    """Judges the model under its sampling settings; returns the report.

    Every model and set of settings has a directory in `workdir/report` with its
    `report.{json,md,html}`; those in `workdir/report` itself are the newest evaluation's.

    Raises:
        InputError: a setting, or the data, do not fit the model.
    """
    workdir = storage.path(workdir)
    about = build.about(config, workdir)
    _check_data(config, about)
    with timed(workdir, "evaluate"):
        judge = fit_judge(*(build.labelled_images(config.data, s) for s in ("train", "heldout")))
        figures, images, directory = _judge(config, workdir, about, judge)
    full = {
        "tokenizer": _tokenizer_figures(config, workdir),
        **figures,
        "seconds": read_seconds(workdir),
        "device": f"{jax.devices()[0].device_kind} x {jax.device_count()} ({platform.machine()})",
        "versions": {name: metadata.version(name) for name in ("jax", "flax", "optax", "numpy")},
        "seed": config.seed,
        "bars": DIGITS_BARS if config.data.source == "digits" else {},
        "model": about["identity"],
    }
    if likelihood := scoring.newest(workdir, about["identity"]):
        full["likelihood"] = json.loads((likelihood / scoring.LIKELIHOOD).read_text())
    if jax.process_index() == 0:
        sheet = directory / "generated.png"
        with writing(directory):
            pictures.save_png(pictures.grid(images, 20, max(1, 64 // images.shape[1])), sheet)
            for place in (directory, workdir / "report"):
                report.write_report(place, full, _pictures(workdir, sheet, likelihood))
    return full


def _check_data(config: ConfigDict, about: dict[str, Any]) -> None:
    """Refuses to judge against images of another size."""
    if [config.data.size] * 2 != about["image_size"]:
        raise InputError(
            f"data.size={config.data.size}, and the model makes images of "
            f"{'x'.join(map(str, about['image_size']))} pixels; set data.size to that."
        )


def _tokenizer_figures(config: ConfigDict, workdir: storage.Path) -> dict[str, Any]:
    """What `train_tokenizer` measured; a converted tokenizer has no figures, and says so."""
    file = storage.path(config.checkpoint or workdir) / "tokenizer/figures.json"
    if not file.is_file():
        return {"absent": "the tokenizer was not trained here, so that nothing was measured"}
    return json.loads(file.read_text())


def _judge(
    config: ConfigDict, workdir: storage.Path, about: dict[str, Any], judge: Judge
) -> tuple[dict[str, Any], np.ndarray, storage.Path]:
    """Figures of images in `evaluate.steps` steps and of one code per step.

    Returns:
        Figures, the first of these images, and the directory of the evaluation, claimed.
    """
    labels, load = judge.heldout_labels, functools.cache(lambda: build.sampler(config, workdir))
    (few, shown), (full, _) = (
        _look(config, workdir, about, load, judge, steps)
        for steps in (config.evaluate.steps, math.prod(about["config"]["grid"]))
    )
    frechet, frechet_full = judge.frechet(few), judge.frechet(full)
    floor = judge.frechet_floor(len(labels))
    settings = _settings(config, about, config.evaluate.steps)
    directory = workdir / "report" / results.name(settings, config.evaluate.steps)
    claim(directory, settings, config)
    figures = {
        "classifier": {"heldout_accuracy": judge.heldout_accuracy},
        "samples": {
            "steps": config.evaluate.steps,
            "count": len(labels),
            "class_accuracy": judge.class_accuracy(few, labels),
            "class_accuracy_full_steps": judge.class_accuracy(full, labels),
            "frechet": frechet,
            "frechet_full_steps": frechet_full,
            "frechet_ratio": ratio(frechet, floor),
            "frechet_few_to_full": ratio(frechet, frechet_full),
            "near_copies": judge.near_copies(few),
            "near_copies_heldout": judge.near_copies_heldout(),
            "settings": plain(config.sample),
        },
        "frechet_floor": floor,
        "classes": judge.by_class(few, labels, about["class_names"]),
    }
    return figures, shown, directory


def _section(config: ConfigDict, steps: int) -> ConfigDict:
    """The sample section with another number of steps."""
    section = config.sample.copy_and_resolve_references()
    section.update(steps=steps, group_sizes=())
    return section


def _settings(config: ConfigDict, about: dict[str, Any], steps: int) -> dict[str, Any]:
    section = build.deciding(_section(config, steps))
    settings = {"seed": config.seed, "model": about["identity"], "sample": section}
    return settings | {"data": plain(config.data)}


def _look(
    config: ConfigDict,
    workdir: storage.Path,
    about: dict[str, Any],
    load: Callable[[], Sampler],
    judge: Judge,
    steps: int,
) -> tuple[Looks, np.ndarray]:
    """Looks of one image per held-out image, of its class, and the first images.

    They are made once for each model and set of settings.
    """
    name = results.name(_settings(config, about, steps), steps)
    cache = workdir / "report/looks" / f"{name}.npz"
    if not done(cache):
        section, labels = _section(config, steps), judge.heldout_labels
        batches = build.batches(config, section, load(), labels, progress=True)
        looks, shown = look_at(judge, batches, SHOWN)
        with distributed.first_process_first(name):
            if jax.process_index() == 0:
                with writing(cache.parent), storage.whole(cache) as file:
                    np.savez_compressed(file, shown=shown, **looks._asdict())
    with storage.local(cache) as file, np.load(file) as found:
        return Looks(found["levels"], found["classes"]), found["shown"]


def _pictures(
    workdir: storage.Path, sheet: storage.Path, likelihood: storage.Path | None
) -> dict[str, storage.Path]:
    """Caption -> picture, for those that exist."""
    newest = sorted((workdir / "samples").glob("[!.]*/samples.png"), key=storage.modified)
    found = {"Generated images": sheet}
    if newest:
        found |= {
            "One of each class": newest[-1],
            "How they appear, step by step": newest[-1].with_name("strip.png"),
            "The same, animated": newest[-1].with_name("generation.gif"),
            "Order of generation": newest[-1].with_name("order.png"),
        }
    if likelihood:
        found["Bits per token by order and steps"] = likelihood / "bits.png"
    found |= {
        "Training of the decoder": workdir / "decoder/curves.png",
        "Held-out images and what the tokenizer makes of them": workdir
        / "tokenizer/reconstructions.png",
        "Training of the tokenizer": workdir / "tokenizer/curves.png",
        "Use of the codebook": workdir / "tokenizer/codebook.png",
    }
    return {caption: file for caption, file in found.items() if file.is_file()}
