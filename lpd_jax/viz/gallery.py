"""Generated images as one HTML page that needs no other file: a row of thumbnails for each class.

Dims: B images, H x W pixels.
"""

import base64
import dataclasses
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

SIDE = 128  # pixels of a thumbnail, at most

_STYLE = """
body{font:15px/1.4 system-ui,sans-serif;margin:1.5rem;color:#111;background:#fff}
section{border-top:1px solid #bbb;padding:.6rem 0}h2{font-size:1.05rem;margin:.3rem 0}
.row{display:flex;flex-wrap:wrap;gap:4px;align-items:center;margin:.4rem 0}
.row[hidden]{display:none}
h3{font-size:.95rem;width:9rem;margin:0;overflow-wrap:anywhere}small{color:#555;font-weight:normal}
img{background:#eee;image-rendering:pixelated}dl{columns:20rem;margin:.3rem}
dd,dt{display:inline;margin:0}dt{color:#555}dd::after{content:"";display:block}
"""
# A data URI is decoded as soon as it is a source, whatever `loading` says: it becomes one late.
_SCRIPT = """
const seen = new IntersectionObserver(entries => {
  for (const {isIntersecting, target} of entries) if (isIntersecting) {
    target.src = target.dataset.src; seen.unobserve(target);
  }
}, {rootMargin: "500px"});
document.querySelectorAll("img").forEach(image => seen.observe(image));
const choice = document.querySelector("select");
choice.onchange = () => document.querySelectorAll(".row").forEach(row => {
  row.hidden = choice.selectedIndex > 0 && row.dataset.name !== choice.value;
});
choice.onchange();
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """Images of one class.

    Attributes:
        name: of the class.
        images: uint8 [B, H, W, 3], those to show.
        numbers: of each image in its run, B of them.
        total: images of the class that there are, at least B.
    """

    name: str
    images: np.ndarray
    numbers: Sequence[int]
    total: int


@dataclasses.dataclass(frozen=True)
class Result:
    """What one command made.

    Attributes:
        name: of it.
        settings: what made it; shown in this order.
        rows: its images, by class.
    """

    name: str
    settings: Mapping[str, Any]
    rows: Sequence[Row]


def page(title: str, results: Sequence[Result]) -> str:
    """The page: results one below the other, a chooser of the class, images loaded when in view.

    Settings in which the results differ stand beside their names, and all of them behind a click.

    Args:
        title: of the page.
        results: at least one.
    """
    names = dict.fromkeys(row.name for result in results for row in result.rows)
    options = "".join(f"<option>{html.escape(name)}</option>" for name in names)
    differing = {
        key
        for result in results
        for key in result.settings
        if any(other.settings.get(key) != result.settings[key] for other in results)
    }
    body = "".join(_section(result, differing) for result in results)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>\n'
        f"<style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n"
        f"<label>class <select><option>all</option>{options}</select></label>\n"
        "<noscript><p>Images are shown where JavaScript is allowed.</p></noscript>\n"
        f"{body}<script>{_SCRIPT}</script></body></html>\n"
    )


def _section(result: Result, differing: set[str]) -> str:
    own = {key: value for key, value in result.settings.items() if key in differing}
    return (
        f"<section><h2>{html.escape(result.name)}</h2>\n{_settings(own)}"
        f"<details><summary>all settings</summary>{_settings(result.settings)}</details>\n"
        f"{''.join(map(_row, result.rows))}</section>\n"
    )


def _settings(settings: Mapping[str, Any]) -> str:
    pairs = (
        f"<dt>{html.escape(key)}</dt> <dd>{html.escape(str(value))}</dd>\n"
        for key, value in settings.items()
    )
    return f"<dl>{''.join(pairs)}</dl>"


def _row(row: Row) -> str:
    name = html.escape(row.name)
    shown = str(row.total) if row.total == len(row.images) else f"{len(row.images)} of {row.total}"
    pictures = "".join(
        _picture(image, f"{name}, image {number}")
        for image, number in zip(row.images, row.numbers, strict=True)
    )
    head = f"<h3>{name} <small>{shown}</small></h3>"
    return f'<div class="row" data-name="{name}">{head}{pictures}</div>\n'


def _picture(image: np.ndarray, text: str) -> str:
    """An image without a source as yet; small ones are enlarged, and large ones made smaller."""
    picture, file = Image.fromarray(image), io.BytesIO()
    if max(picture.size) > SIDE:
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        picture.save(file, "JPEG", quality=90)
        kind, times = "jpeg", 1
    else:
        picture.save(file, "PNG")
        kind, times = "png", max(1, 96 // max(picture.size))
    width, height = (times * side for side in picture.size)
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<img width="{width}" height="{height}" alt="{text}" title="{text}" '
        f'data-src="data:image/{kind};base64,{data}">'
    )
