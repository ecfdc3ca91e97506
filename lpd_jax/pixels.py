"""Images as arrays: to what networks see, and cells of them covered or copied.

B images, H x W pixels, h x w token cells; h divides H and w divides W.
"""

import numpy as np


def to_unit(image):
    """uint8 [..., 3] in [0, 255] -> float32 in [-1, 1], what the networks see; NumPy or jax."""
    return image.astype("float32") / 127.5 - 1


def hide_unknown(images: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Covers the cells that are not generated yet with a gray checkerboard, one tile per cell.

    Args:
        images: uint8 [B, H, W, 3].
        known: bool [B, h, w].
    """
    rows, columns = np.indices(known.shape[1:])
    checker = np.where((rows + columns) % 2, 150, 170).astype(np.uint8)
    cover = np.broadcast_to(_to_pixels(checker, images), images.shape)
    return paste(cover, images, known)


def paste(images: np.ndarray, patches: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Images uint8 [B, H, W, 3], but `patches` in the marked cells, bool [B, h, w]."""
    return np.where(_to_pixels(cells, images), patches, images)


def _to_pixels(cells: np.ndarray, images: np.ndarray) -> np.ndarray:
    """[..., h, w] -> [..., H, W, 1] by repetition, with the H and W of `images`."""
    height, width = (images.shape[1 + axis] // cells.shape[axis - 2] for axis in range(2))
    return cells.repeat(height, axis=-2).repeat(width, axis=-1)[..., None]
