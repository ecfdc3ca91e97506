"""Grids, strips and animations of images, with Pillow.

B images, S steps, H x W pixels, h x w token cells.
"""

import functools
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from lpd_jax import storage
from lpd_jax.pixels import hide_unknown as hide_unknown
from lpd_jax.pixels import paste as paste

GAP = 2
LABEL_HEIGHT = 18
FONT_SIZE = 13


def grid(
    images: np.ndarray, columns: int, scale: int = 1, labels: Sequence[str] | None = None
) -> Image.Image:
    """Images side by side on white, row by row, labels above.

    Args:
        images: uint8 [B, H, W, 3].
        columns: images in a row.
        scale: each pixel becomes a square of `scale` pixels.
        labels: B texts, cut to the width of an image; a row of empty ones takes no room.
    """
    height, width = (side * scale for side in images.shape[1:3])
    labels = [""] * len(images) if labels is None else labels
    starts = range(0, len(images), columns)
    heads = [LABEL_HEIGHT * any(labels[i : i + columns]) for i in starts]
    tops = np.cumsum([GAP] + [head + height + GAP for head in heads]).tolist()
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, tops[-1]), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        row, column = divmod(i, columns)
        x, y = GAP + column * (width + GAP), tops[row]
        if label:
            draw.text((x, y), _fitting(label, width), fill="black", font=_font())
        tile = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(tile, (x, y + heads[row]))
    return sheet


def strip(
    frames: np.ndarray, columns: int = 10, scale: int = 1, labels: Sequence[str] | None = None
) -> Image.Image:
    """How images appear: one row per image, one column per step, the last step always shown.

    Args:
        frames: uint8 [S, B, H, W, 3].
        columns: at most this many steps, evenly spread.
        scale: see `grid`.
        labels: S short texts, "1" to "S" by default.
    """
    steps = len(frames)
    shown = np.unique(np.linspace(0, steps - 1, min(columns, steps)).round().astype(int))
    labels = [str(step + 1) for step in range(steps)] if labels is None else labels
    images = frames[shown].swapaxes(0, 1).reshape(-1, *frames.shape[2:])
    heads = [labels[step] for step in shown] + [""] * (len(images) - len(shown))
    return grid(images, len(shown), scale, heads)


def save_png(
    image: Image.Image, path: storage.Where, text: Mapping[str, str] | None = None
) -> storage.Path:
    """Writes a PNG file, its directory first when absent.

    Args:
        image: the picture.
        path: where.
        text: text chunks to put into it, by keyword (1 to 79 letters of Latin-1); Pillow reads
            them back as `Image.open(path).text`.
    """
    chunks = PngInfo()
    for keyword, value in (text or {}).items():
        chunks.add_itxt(keyword, value)
    with storage.whole(path) as file:
        image.save(file, format="PNG", pnginfo=chunks)
    return storage.path(path)


def save_gif(
    frames: Sequence[Image.Image], path: storage.Where, seconds: float = 0.2
) -> storage.Path:
    """Writes an endless animation: `seconds` per frame, ten times that for the last."""
    pause = round(1000 * seconds)
    with storage.whole(path) as file:
        frames[0].save(
            file,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=[pause] * (len(frames) - 1) + [10 * pause],
            loop=0,
        )
    return storage.path(path)


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which has the letters of most alphabets; Pillow's own lacks even accents."""
    import matplotlib  # for its data directory, and only where a picture has text

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", FONT_SIZE)


def _fitting(label: str, width: int) -> str:
    """As much of `label` as `width` pixels hold."""
    # Some file systems store "é" as an "e" and an accent, which would be drawn side by side.
    label = unicodedata.normalize("NFC", label)
    if _font().getlength(label) <= width:
        return label
    cuts = (f"{label[:end].rstrip()}…" for end in range(len(label) - 1, 0, -1))
    return next((cut for cut in cuts if _font().getlength(cut) <= width), "")
