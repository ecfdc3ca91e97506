"""One report of a run as JSON for programs, Markdown for reviews, HTML and a table for people."""

import base64
import html
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from lpd_jax import storage

MEANINGS = {
    "tokenizer.psnr_db": "held-out images after encode and decode, dB (higher is better)",
    "tokenizer.codebook_usage": "share of the codebook that the images use",
    "classifier.heldout_accuracy": "the judge's accuracy on real held-out images",
    "samples.steps": "sequential steps per generated image",
    "samples.class_accuracy": "generated images that the judge sees as the class asked for",
    "samples.frechet": "Fréchet distance to held-out images in gray pixels (lower is better)",
    "samples.frechet_full_steps": "the same with one token per step",
    "frechet_floor": "Fréchet distance between two sets of real images of the same size",
    "samples.near_copies": "share of generated images nearly equal to a training image",
    "samples.near_copies_heldout": "the same share of real held-out images",
}

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:left}"
    "tr:nth-child(even){background:#f4f4f4}td:nth-child(2){text-align:right}"
    "img{max-width:100%;image-rendering:pixelated}figure{margin:2rem 0}"
)


def write_report(
    directory: storage.Where, report: Mapping[str, Any], pictures: Mapping[str, storage.Path]
) -> storage.Path:
    """Writes `report.json`, `report.md` and `report.html` (self-contained) into `directory`.

    Args:
        directory: created when absent.
        report: nested figures, JSON data; `MEANINGS` explains the usual ones.
        pictures: caption -> PNG or GIF file, in the order shown.

    Returns:
        Path of the HTML page.
    """
    directory = storage.path(directory)
    page = directory / "report.html"
    files = {
        directory / "report.json": json.dumps(report, indent=2) + "\n",
        directory / "report.md": _markdown(report, pictures, directory),
        page: _html(report, pictures),
    }
    for file, text in files.items():
        storage.write_text(file, text)
    return page


def table(report: Mapping[str, Any]) -> str:
    """The explained figures of `report`, aligned for a terminal."""
    rows = [(key, _show(value)) for key, value in _flat(report) if key in MEANINGS]
    key_width = max((len(key) for key, _ in rows), default=0)
    value_width = max((len(value) for _, value in rows), default=0)
    return "\n".join(
        f"{key:{key_width}}  {value:>{value_width}}  {MEANINGS[key]}" for key, value in rows
    )


def _flat(report: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in report.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _show(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rows(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [(key, _show(value), MEANINGS.get(key, "")) for key, value in _flat(report)]


def _markdown(
    report: Mapping[str, Any], pictures: Mapping[str, storage.Path], directory: storage.Path
) -> str:
    lines = ["# Report", "", "| figure | value | meaning |", "|---|---:|---|"]
    lines += [f"| `{key}` | {value} | {meaning} |" for key, value, meaning in _rows(report)]
    for caption, file in pictures.items():
        link = pathlib.Path(os.path.relpath(file, directory)).as_posix().replace(" ", "%20")
        lines += ["", f"## {caption}", "", f"![{caption}]({link})"]
    return "\n".join(lines) + "\n"


def _html(report: Mapping[str, Any], pictures: Mapping[str, storage.Path]) -> str:
    cells = (map(html.escape, row) for row in _rows(report))
    rows = "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>\n" for row in cells)
    figures = "".join(
        f'<figure><figcaption>{html.escape(caption)}</figcaption><img src="{_embed(file)}" '
        f'alt="{html.escape(caption)}"></figure>\n'
        for caption, file in pictures.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Report</title>\n'
        f"<style>{STYLE}</style>\n<h1>Report</h1>\n{figures}<table>\n"
        f"<tr><th>figure</th><th>value</th><th>meaning</th></tr>\n{rows}</table>\n</html>\n"
    )


def _embed(file: storage.Path) -> str:
    kind = file.suffix.lstrip(".").lower()
    return f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
