"""Square crops of images of any shape."""

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
