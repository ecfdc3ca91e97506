"""Square crops of images of any shape."""

import math
from typing import Any

import numpy as np
from PIL import Image


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Resizes the short side to `size` pixels and cuts the middle square.

    Halves with a box filter while the short side is at least `2 * size`, then resizes with a
    bicubic filter: the crop of ADM (Dhariwal and Nichol, 2021) on which published FIDs rest, bit
    for bit the official `util/crop.py`. Images smaller than `size` are enlarged.
    """
    image = _resized(image, size)
    left, top = ((side - size) // 2 for side in image.size)
    return image.crop((left, top, left + size, top + size))


def random_crop(
    image: Image.Image, size: int, least: float, rng: np.random.Generator
) -> Image.Image:
    """Cuts a square of `size` pixels anywhere, from `least` of the short side up to all of it.

    As `center_crop`, but that the short side first becomes any number of pixels from `size` to
    `size / least`. ADM's `random_crop_arr`, with which LlamaGen trains its tokenizers (`least`
    0.8 there).

    Args:
        image: of any shape.
        size: of the square.
        least: in (0, 1].
        rng: draws the size and the place.
    """
    image = _resized(image, int(rng.integers(size, math.ceil(size / least), endpoint=True)))
    left, top = (int(rng.integers(side - size, endpoint=True)) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def _resized(image: Image.Image, short: int) -> Image.Image:
    """The whole image with a short side of that many pixels."""
    while min(image.size) >= 2 * short:
        image = image.resize([side // 2 for side in image.size], Image.Resampling.BOX)
    scale = short / min(image.size)
    return image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)


def record(image: Image.Image, size: int | None, label: int, index: int) -> dict[str, Any]:
    """A record of a source of images: the centre of one, and whether it is smaller than that.

    `image` uint8 [size, size, 3], `label` int32, `index` int64, `enlarged` bool. Without a size
    the image is whole, [H, W, 3].
    """
    return {
        "image": np.asarray(center_crop(image, size) if size else image),
        "label": np.int32(label),
        "index": np.int64(index),
        "enlarged": np.bool_(size and min(image.size) < size),
    }
