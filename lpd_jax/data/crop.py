"""Square crops of images of any shape."""

from typing import Any

import numpy as np
from PIL import Image


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Resizes the short side to `size` pixels and cuts the middle square.

    Halves with a box filter while the short side is at least `2 * size`, then resizes with a
    bicubic filter: the crop of ADM (Dhariwal and Nichol, 2021) on which published FIDs rest, bit
    for bit the official `util/crop.py`. Images smaller than `size` are enlarged.
    """
    while min(image.size) >= 2 * size:
        image = image.resize([side // 2 for side in image.size], Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in image.size)
    return image.crop((left, top, left + size, top + size))


def record(image: Image.Image, size: int, label: int, index: int) -> dict[str, Any]:
    """A record of a source of images: the centre of one, and whether it is smaller than that.

    `image` uint8 [size, size, 3], `label` int32, `index` int64, `enlarged` bool.
    """
    return {
        "image": np.asarray(center_crop(image, size)),
        "label": np.int32(label),
        "index": np.int64(index),
        "enlarged": np.bool_(min(image.size) < size),
    }
