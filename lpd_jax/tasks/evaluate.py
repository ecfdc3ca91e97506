"""Task: judges generated images against real ones, without any downloaded network."""

import platform
from importlib import metadata

import jax
import numpy as np
from ml_collections import ConfigDict

from lpd_jax import distributed, storage
from lpd_jax.evaluation import report
from lpd_jax.evaluation.figures import DIGITS_BARS, ratio
from lpd_jax.evaluation.judge import fit_judge
from lpd_jax.sampler import Sampler
from lpd_jax.tasks import build
from lpd_jax.tasks.workdir import claim, plain, read_json, read_seconds, timed
from lpd_jax.viz import images as pictures


def run(config: ConfigDict, workdir: storage.Where) -> dict:
    """Writes `workdir/report/report.{json,md,html}`; returns the report."""
    workdir = storage.path(workdir)
    tokenizer_figures = read_json(
        workdir / "tokenizer/figures.json",
        f"there are no figures of a tokenizer in {workdir}; run train_tokenizer first.",
    )
    sampler = build.sampler(config, workdir)
    directory = workdir / "report"
    with timed(workdir, "evaluate"):
        figures, images = _judge(config, sampler, directory)
    full = {
        "tokenizer": tokenizer_figures,
        **figures,
        "seconds": read_seconds(workdir),
        "device": f"{jax.devices()[0].device_kind} x {jax.device_count()} ({platform.machine()})",
        "versions": {name: metadata.version(name) for name in ("jax", "flax", "optax", "numpy")},
        "seed": config.seed,
        "bars": DIGITS_BARS if config.data.source == "digits" else {},
    }
    if jax.process_index() == 0:
        sheet = directory / "generated.png"
        pictures.save_png(pictures.grid(images[:100], 20, max(1, 64 // images.shape[1])), sheet)
        report.write_report(directory, full, _pictures(workdir, sheet))
    return full


def _judge(
    config: ConfigDict, sampler: Sampler, directory: storage.Path
) -> tuple[dict, np.ndarray]:
    """Figures of the classifier, of images in `evaluate.steps` steps and of one code per step."""
    judge = fit_judge(*(build.labelled_images(config.data, s) for s in ("train", "heldout")))
    labels = judge.heldout_labels
    num_tokens = sampler.decoder.config.num_tokens
    few, full = (
        _generate(config, sampler, labels, steps, directory)
        for steps in (config.evaluate.steps, num_tokens)
    )
    frechet, frechet_full = judge.frechet(few), judge.frechet(full)
    floor = judge.frechet_floor(len(few))
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
        "classes": judge.by_class(few, labels, sampler.class_names),
    }
    return figures, few


def _generate(
    config: ConfigDict, sampler: Sampler, labels: np.ndarray, steps: int, directory: storage.Path
) -> np.ndarray:
    """One image per held-out image, of its class; made once for each set of settings."""
    section = config.sample.copy_and_resolve_references()
    section.update(steps=steps, group_sizes=(), labels=(), count=len(labels))
    settings = {"seed": config.seed, "sample": section, "checkpoint": config.checkpoint}
    cache = claim(directory / f"{steps}steps", settings) / "images.npz"
    if not cache.is_file():
        samples = build.generate(config, section, sampler, labels, progress=True)
        with distributed.first_process_first(cache.parent.name):
            if jax.process_index() == 0:
                with storage.whole(cache) as file:
                    np.savez_compressed(file, images=samples.images, codes=samples.codes)
    with storage.local(cache) as file:
        return np.load(file)["images"]


def _pictures(workdir: storage.Path, sheet: storage.Path) -> dict[str, storage.Path]:
    """Caption -> picture, for those that exist."""
    newest = sorted((workdir / "samples").glob("*/samples.png"), key=storage.modified)
    found = {"Generated images": sheet}
    if newest:
        found |= {
            "One of each class": newest[-1],
            "How they appear, step by step": newest[-1].with_name("strip.png"),
            "The same, animated": newest[-1].with_name("generation.gif"),
            "Order of generation": newest[-1].with_name("order.png"),
        }
    found |= {
        "Training of the decoder": workdir / "decoder/curves.png",
        "Held-out images and what the tokenizer makes of them": workdir
        / "tokenizer/reconstructions.png",
        "Training of the tokenizer": workdir / "tokenizer/curves.png",
        "Use of the codebook": workdir / "tokenizer/codebook.png",
    }
    return {caption: file for caption, file in found.items() if file.is_file()}
