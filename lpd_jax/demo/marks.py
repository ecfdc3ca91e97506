"""From what a person draws, clicks or uploads to the cells of the token grid that are made anew.

Dims: h x w grid, N = h w cells, H x W pixels of the model's images, which h and w divide.
"""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lpd_jax.data.crop import center_crop
from lpd_jax.data.image_files import read_image
from lpd_jax.demo.requests import cell_bucket
from lpd_jax.errors import InputError
from lpd_jax.generation import editing

MOST_PIXELS = 40_000_000  # of an upload, before it is decoded
_DRAWN, _ADDED = np.uint8([255, 127, 14]), np.uint8([0, 158, 115])  # apart for all eyes


def read_upload(file: str | Path) -> Image.Image:
    """An uploaded picture, mode RGB.

    Raises:
        InputError: no image that Pillow reads, or too large a one.
    """
    name = Path(file).name
    try:
        with Image.open(file) as image:
            width, height = image.size
    # Pillow's readers report damage through types of every kind.
    except Exception:
        raise InputError(
            f"{name} is no image that can be read; give a PNG, JPEG or WebP file."
        ) from None
    if width * height > MOST_PIXELS:
        raise InputError(
            f"{name} has {width}x{height} pixels, and {MOST_PIXELS // 10**6} million are the most; "
            "make it smaller."
        )
    return read_image(file, name)


def read_picture(file: str | Path, size: tuple[int, int]) -> np.ndarray:
    """An uploaded picture as an image to edit: uint8 [H, W, 3], cropped as training images are.

    Raises:
        InputError: as `read_upload`.
    """
    return np.asarray(center_crop(read_upload(file), min(size)).resize(size[::-1]))


def read_mask(file: str | Path, size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """Cells bool [h, w] of an uploaded mask: white marks, black does not.

    Raises:
        InputError: as `read_upload`; or nothing in it is white.
    """
    picture = center_crop(read_upload(file).convert("L"), min(size)).resize(size[::-1])
    mask = np.asarray(picture) > 127
    if not mask.any():
        raise InputError(f"{Path(file).name} marks nothing: white is generated, black is kept.")
    return editing.unknown_cells(mask, 1, grid, size).reshape(grid)


def drawn_cells(value: Any, grid: tuple[int, int]) -> np.ndarray:
    """Cells bool [h, w] that are painted over in the editor, one stroke's edge being enough.

    Args:
        value: of `gr.ImageEditor`, its layers uint8 [height, width, 4] of any size; or None.
        grid: (h, w).
    """
    layers = (value or {}).get("layers") or []
    cells = np.zeros(grid, bool)
    for layer in layers:
        layer = np.asarray(layer)
        if layer.ndim != 3 or layer.shape[-1] != 4:
            continue
        rows, columns = np.nonzero(layer[..., 3] > 127)
        height, width = layer.shape[:2]
        cells[rows * grid[0] // height, columns * grid[1] // width] = True
    return cells


def clicked_cell(
    at: tuple[int, int], shown: tuple[int, int], grid: tuple[int, int]
) -> tuple[int, int]:
    """Row and column of the cell at a click.

    Args:
        at: (x, y) in pixels of the picture that is shown.
        shown: (height, width) of it.
        grid: (h, w).
    """
    row, column = at[1] * grid[0] // shown[0], at[0] * grid[1] // shown[1]
    return min(max(row, 0), grid[0] - 1), min(max(column, 0), grid[1] - 1)


def snapped(marked: np.ndarray) -> np.ndarray:
    """Marked cells bool [h, w] with as many more as fill their bucket, the nearest first.

    Raises:
        InputError: none is marked.
    """
    count = int(marked.sum())
    if not count:
        raise InputError("nothing is marked: draw on the image, click cells, or upload a mask.")
    places = np.argwhere(np.ones_like(marked))
    apart = ((places[:, None] - np.argwhere(marked)) ** 2).sum(-1).min(1)
    nearest = np.argsort(apart, kind="stable")[: cell_bucket(count, marked.size)]
    filled = np.zeros(marked.size, bool)
    filled[nearest] = True
    return filled.reshape(marked.shape)


def overlay(image: np.ndarray, marked: np.ndarray, scale: int) -> Image.Image:
    """The image enlarged, with its grid, what is marked in orange and what is added in green.

    Args:
        image: uint8 [H, W, 3].
        marked: bool [h, w].
        scale: a pixel becomes a square of `scale` pixels.
    """
    added = snapped(marked) & ~marked if marked.any() else marked
    shown = image.repeat(scale, 0).repeat(scale, 1).astype(np.float32)
    side = shown.shape[0] // marked.shape[0], shown.shape[1] // marked.shape[1]
    for cells, colour in ((marked, _DRAWN), (added, _ADDED)):
        covered = cells.repeat(side[0], 0).repeat(side[1], 1)
        shown[covered] = 0.45 * shown[covered] + 0.55 * colour
    shown[:: side[0]] = shown[:, :: side[1]] = 128
    return Image.fromarray(shown.astype(np.uint8))
