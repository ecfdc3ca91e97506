"""What the figures of a run are called, mean, and are held to.

A report is nested: {"samples": {"steps": 10}} has the figure "samples.steps".
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Figure:
    """How one figure is shown.

    Attributes:
        name: for people.
        meaning: one line.
        unit: "%" shows a share in [0, 1] in per cent; "dB"; ".2f" and the like fix the digits; ""
            is a plain number.
        real: key of the same figure of real images, what a perfect generator has.
        at_most: whether a bar for it is an upper one.
        error, published: keys of its standard error, and of what the paper has.
    """

    name: str
    meaning: str
    unit: str = ""
    real: str = ""
    at_most: bool = False
    error: str = ""
    published: str = ""


def _inception(key: str, name: str, meaning: str, unit: str = ".2f") -> dict[str, Figure]:
    """An entry of `FIGURES`: a figure with an error, and what the paper has where it has one."""
    own = Figure(name, meaning, unit, error=f"{key}.error", published=f"{key}.published")
    return {f"{key}.value": own}


# Group -> key in the report -> how it is shown.
FIGURES: dict[str, dict[str, Figure]] = {
    "tokenizer": {
        "tokenizer.psnr_db": Figure("PSNR", "held-out images after encode and decode", "dB"),
        "tokenizer.codebook_usage": Figure(
            "codebook used", "share of the codebook that the images use", "%"
        ),
    },
    "samples": {
        "samples.steps": Figure("steps", "sequential steps per generated image"),
        "samples.count": Figure("images", "generated, one per held-out image, of its class"),
        "samples.class_accuracy": Figure(
            "class accuracy",
            "images that a classifier of real images sees as the class asked for",
            "%",
            real="classifier.heldout_accuracy",
        ),
        "samples.class_accuracy_full_steps": Figure(
            "class accuracy, full steps",
            "the same with one code per step",
            "%",
            real="classifier.heldout_accuracy",
        ),
        "samples.frechet": Figure(
            "Fréchet distance",
            "to held-out images in gray pixels, lower is better",
            real="frechet_floor",
            at_most=True,
        ),
        "samples.frechet_full_steps": Figure(
            "Fréchet distance, full steps",
            "the same with one code per step",
            real="frechet_floor",
            at_most=True,
        ),
        "samples.frechet_ratio": Figure(
            "Fréchet over floor",
            "the distance over that between two sets of real images",
            at_most=True,
        ),
        "samples.frechet_vgg": Figure(
            "Fréchet distance, VGG16",
            "to held-out images in features of VGG16",
            real="samples.frechet_vgg_floor",
            at_most=True,
        ),
        "samples.frechet_vgg_ratio": Figure(
            "Fréchet over floor, VGG16",
            "the distance over that between two sets of real images",
            at_most=True,
        ),
        "samples.frechet_few_to_full": Figure(
            "Fréchet, few over full steps",
            "what the parallel steps cost: 1 is nothing",
            at_most=True,
        ),
        "samples.near_copies": Figure(
            "near copies",
            "images nearly equal to a training image",
            "%",
            real="samples.near_copies_heldout",
            at_most=True,
        ),
    },
    "generated images": {
        "evaluation.count": Figure("images", "generated or given, all of which are judged"),
        **_inception("fid", "FID", "Fréchet distance to the reference, lower is better"),
        **_inception("sfid", "sFID", "the same of spatial features"),
        **_inception("inception_score", "inception score", "10 shuffled splits, higher is better"),
        **_inception("inception_score_adm", "inception score, ADM", "consecutive splits of 5,000"),
        **_inception("precision", "precision", "share of generated among real images", ".4f"),
        **_inception("recall", "recall", "share of real among generated images", ".4f"),
    },
    "reconstructions": {
        "reconstruction.count": Figure("images", "held-out images after encode and decode"),
        **_inception("rfid", "rFID", "Fréchet distance of reconstructions to the images"),
        "reconstruction.psnr_db": Figure("PSNR", "mean over the images", "dB"),
        "reconstruction.ssim": Figure("SSIM", "structural similarity, 1 is equal", ".4f"),
        "reconstruction.lpips": Figure("LPIPS", "VGG16, lower is better", ".4f"),
    },
}

# What the digits of `configs/digits.py` are held to. Other data have no bar but real images.
DIGITS_BARS = {
    "tokenizer.psnr_db": 26.0,
    "tokenizer.codebook_usage": 0.8,
    "samples.class_accuracy": 0.97,
    "samples.frechet_ratio": 2.5,
    "samples.frechet_few_to_full": 1.15,
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table of figures, as texts; `verdict` is "good", "short" or ""."""

    name: str
    value: str
    real: str
    bar: str
    verdict: str
    meaning: str
    error: str = ""
    published: str = ""


def rows(report: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Group -> the figures of `FIGURES` that are in the report.

    `report["bars"]`, key -> number, is what they are held to; it may be missing.
    """
    flat, bars = dict(flatten(report)), report.get("bars", {})
    groups = {
        group: [_row(key, figure, flat, bars) for key, figure in known.items() if key in flat]
        for group, known in FIGURES.items()
    }
    return {group: found for group, found in groups.items() if found}


def _row(key: str, figure: Figure, flat: Mapping[str, Any], bars: Mapping[str, float]) -> Row:
    value, bar, verdict = flat[key], "", ""
    if key in bars:
        bar = f"{'≤' if figure.at_most else '≥'} {show(bars[key], figure.unit)}"
        if known(value):
            good = value <= bars[key] if figure.at_most else value >= bars[key]
            verdict = "good" if good else "short"
    real = show(flat[figure.real], figure.unit) if figure.real in flat else ""
    error, published = (
        show(flat[key], figure.unit) if known(flat.get(key)) else ""
        for key in (figure.error, figure.published)
    )
    shown = show(value, figure.unit)
    return Row(figure.name, shown, real, bar, verdict, figure.meaning, error, published)


def known(value: Any) -> bool:
    """Whether a figure could be measured: neither None nor NaN."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def ratio(value: float, of: float) -> float:
    """`value / of`, NaN where `of` is 0, as between images that are all the same."""
    return value / of if of else math.nan


def show(value: Any, unit: str = "") -> str:
    """A figure rounded for reading; "-" where there is none."""
    if not known(value):
        return "-"
    if unit == "%":
        return f"{100 * value:.1f} %"
    if unit == "dB":
        return f"{value:.1f} dB"
    if unit.startswith("."):
        return f"{value:{unit}}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def flatten(report: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every figure; what has a table of its own is left out."""
    for key, value in report.items():
        if prefix == "" and key in ("classes", "bars", "likelihood"):
            continue
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
