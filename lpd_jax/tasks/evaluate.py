"""Task: judges generated images, those of a folder or .npz, or a tokenizer; writes the report.

    python -m lpd_jax evaluate --config=lpd_256:XL --workdir=runs/xl --checkpoint=weights/xl \\
        --config.evaluate.inception=weights-inception-2015-12-05-6726825d.pth \\
        --config.evaluate.reference=VIRTUAL_imagenet256_labeled.npz

With weights of Inception-v3: FID, sFID, inception score, precision and recall. Without: a judge
that is fitted to images of config.data. --config.evaluate.what=tokenizer: rFID, PSNR, SSIM and
LPIPS of what it makes of held-out images. docs/evaluation.md has every convention.
"""

import json
import logging
import platform
from importlib import metadata
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lpd_jax import storage
from lpd_jax.errors import InputError
from lpd_jax.evaluation import report, scores
from lpd_jax.evaluation.figures import DIGITS_BARS
from lpd_jax.evaluation.published import published
from lpd_jax.tasks import build, judging, measuring, reconstructing, results, scoring
from lpd_jax.tasks.workdir import alone, claim, plain, read_seconds, timed, writing
from lpd_jax.viz import images as pictures

_LOG = logging.getLogger(__name__)


def run(config: ConfigDict, workdir: storage.Where) -> dict:
    """Judges images under the sampling settings of the config; prints and returns the report.

    Every model and set of settings has a directory in `workdir/report` with its
    `report.{json,md,html}`; those in `workdir/report` itself are the newest evaluation's.

    Raises:
        InputError: a setting, the data, the weights or the reference do not fit the images.
    """
    workdir = storage.path(workdir)
    of_tokenizer = config.evaluate.what == "tokenizer"
    about = {} if config.evaluate.images or of_tokenizer else build.about(config, workdir)
    with timed(workdir, "evaluate"):
        if of_tokenizer:
            figures, images, directory = reconstructing.run(config, workdir)
        elif config.evaluate.images or config.evaluate.num_images or config.evaluate.inception:
            figures, images, directory = _many(config, workdir, about)
        else:
            judging.check_data(config, about["image_size"])
            figures, images, settings = judging.by_heldout(config, workdir, about)
            directory = workdir / "report" / results.name(settings, config.evaluate.steps)
            claim(directory, settings, config)
    full = {
        **({"tokenizer": _tokenizer_figures(config, workdir)} if about else {}),
        **figures,
        "seconds": read_seconds(workdir),
        "device": _device(),
        "versions": {name: metadata.version(name) for name in ("jax", "flax", "optax", "numpy")},
        "seed": config.seed,
        "bars": DIGITS_BARS if config.data.source == "digits" else {},
        "model": about.get("identity", ""),
    }
    likelihood = scoring.newest(workdir, about["identity"]) if about else None
    if likelihood:
        full["likelihood"] = json.loads((likelihood / scoring.LIKELIHOOD).read_text())
    if jax.process_index() == 0:
        sheet = directory / "generated.png"
        with writing(directory):
            pictures.save_png(pictures.grid(images, 20, max(1, 64 // images.shape[1])), sheet)
            for place in (directory, workdir / "report"):
                shown = _pictures(workdir, sheet, likelihood) if about else {"Images": sheet}
                page = report.write_report(place, full, shown)
        print(f"\n{report.table(full)}\n\nreport: {page}")
    return full


def _device() -> str:
    return f"{jax.devices()[0].device_kind} x {jax.device_count()} ({platform.machine()})"


def _tokenizer_figures(config: ConfigDict, workdir: storage.Path) -> dict[str, Any]:
    """What `train_tokenizer` measured; a converted tokenizer has no figures, and says so."""
    file = storage.path(config.checkpoint or workdir) / "tokenizer/figures.json"
    if not file.is_file():
        return {"absent": "the tokenizer was not trained here, so that nothing was measured"}
    return json.loads(file.read_text())


def _many(
    config: ConfigDict, workdir: storage.Path, about: dict[str, Any]
) -> tuple[dict[str, Any], np.ndarray, storage.Path]:
    """Figures of any number of images, some of them, and the directory of the evaluation."""
    chosen = config.evaluate
    section = judging.section(config, chosen.steps)
    if chosen.images:
        source = measuring.given(chosen.images, config.sample.batch_size)
    else:
        if not chosen.num_images:
            raise InputError(
                "evaluate.num_images=0: with evaluate.inception, say how many images to generate, "
                "--config.evaluate.num_images=50000 for figures that compare with published ones."
            )
        load = measuring.loader(config, workdir)
        source = measuring.generated(config, about, section, chosen.num_images, load)
    directory = workdir / "report" / source.name
    with alone(directory):
        claim(directory, source.settings, config)
        if chosen.inception:
            figures = _by_network(config, workdir, about, source, section)
        else:
            judging.check_data(config, source.size)
            names = about.get("class_names", [])
            figures = judging.by_units(config, source, directory, names)
        figures["evaluation"] = _evaluation(config, source, section, about)
        return figures, measuring.shown(source, directory), directory


def _by_network(
    config: ConfigDict,
    workdir: storage.Path,
    about: dict[str, Any],
    source: measuring.Source,
    section: ConfigDict,
) -> dict[str, Any]:
    """Figures of Inception-v3, each with what it means."""
    chosen, directory = config.evaluate, workdir / "report" / source.name
    of, found, reference = measuring.network(chosen.inception), None, {}
    if chosen.reference:  # whether it fits shows before hours of work
        batch_size = config.sample.batch_size
        how = (source.size, workdir, batch_size, source.classes)
        found = measuring.real(chosen.reference, of, *how)
        own = found.reference
        reference = {"name": own.name, "sha256": own.sha256, "count": own.count}
    else:
        _LOG.warning("evaluate: without evaluate.reference there is no FID; only inception scores")
    units = measuring.features(source, of, directory, chosen.keep)
    values = measuring.figures(units, found, of, workdir)
    row = None
    if about:
        row = published(source.size[0], about["config"], section, source.count)
    told = scores.described(
        values, of.identity, reference.get("sha256", ""), row.figures if row else {}
    )
    return told | {
        "weights": {"name": of.name, "sha256": of.identity},
        "reference": reference,
        "published_config": row.config if row else "",
    }


def _evaluation(
    config: ConfigDict, source: measuring.Source, section: ConfigDict, about: dict[str, Any]
) -> dict[str, Any]:
    """How the images came about, beside the figures."""
    found = {"count": source.count, "size": list(source.size), "kept": config.evaluate.keep}
    if not about:
        return found | {"images": config.evaluate.images}
    return found | {
        "checkpoint": about["identity"],
        "checkpoint_steps": about.get("steps"),
        "classes": f"{about['config']['num_classes']}, all alike, in their order",
        "rounding": measuring.ROUNDING,
        "sampling": plain(section),
    }


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
