"""Distances between sets of images in gray pixels: small images, no downloaded network.

M images, S side in pixels, D = side * side features.
"""

import numpy as np
from PIL import Image

from lpd_jax.errors import InputError


def gray(images: np.ndarray, side: int | None = None) -> np.ndarray:
    """uint8 [M, S, S, 3] -> uint8 [M, D] gray levels, averaged to `side` x `side`.

    `side` is the smaller of 32 and S unless given.
    """
    side = min(32, images.shape[1]) if side is None else side
    pictures = (Image.fromarray(image).convert("L") for image in images)
    small = [picture.resize((side, side), Image.Resampling.BOX) for picture in pictures]
    levels = [np.asarray(picture).ravel() for picture in small]
    return np.stack(levels) if levels else np.empty((0, side * side), np.uint8)


def features(levels: np.ndarray) -> np.ndarray:
    """Gray levels uint8 [M, D] -> float64 [M, D] in [0, 1]; features keep their values."""
    return levels / 255 if levels.dtype == np.uint8 else np.asarray(levels, np.float64)


def frechet_distance(a: np.ndarray, b: np.ndarray, size: int | None = None, seed: int = 0) -> float:
    """Squared Fréchet distance between Gaussians fitted to two sets of features.

    `|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2))` of the covariances A and B (Dowson and
    Landau, 1982). Few samples bias it upwards, so only distances at equal sizes compare.

    The last trace is the sum of the singular values of `X_a X_b^T`, where `X^T X` is a covariance
    and X the centred data: exact for the singular covariances that a square root of a matrix
    product stumbles over.

    Args:
        a, b: features or uint8 levels [M_a, D] and [M_b, D], at least two rows each.
        size: uses this many rows of each, drawn by `seed`; all by default.
    """
    if size is not None:
        rng = np.random.default_rng(seed)
        a, b = (x[rng.permutation(len(x))[:size]] for x in (a, b))
    if min(len(a), len(b)) < 2:
        raise InputError("A Fréchet distance needs at least two images on each side; add images.")
    a, b = features(a), features(b)
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    means = np.square(a.mean(0) - b.mean(0)).sum()
    return float(means + np.square(root_a).sum() + np.square(root_b).sum() - 2 * cross)


def frechet_floor(real: np.ndarray, size: int, splits: int = 8) -> float:
    """Distance between two disjoint sets of `size` real images, averaged over fixed draws.

    What a perfect generator scores against `size` held-out images. `real` is float64 [M, D].

    Raises:
        InputError: fewer than `2 * size` real images.
    """
    if len(real) < 2 * size:
        raise InputError(
            f"{len(real)} real images cannot give two disjoint sets of {size}; compare at most "
            f"{len(real) // 2}."
        )
    draws = [np.random.default_rng(split).permutation(real)[: 2 * size] for split in range(splits)]
    return float(np.mean([frechet_distance(draw[:size], draw[size:]) for draw in draws]))


def near_copies(images: np.ndarray, train: np.ndarray, percentile: float = 1.0) -> float:
    """Share of `images` that are nearly images of the training set.

    A near copy is closer (L2 in pixels) to its nearest training image than all but `percentile`
    per cent of the training images are to theirs. New real images score about `percentile`/100,
    copies score 1, and so do copies that went through a tokenizer whose error is below the
    distance between look-alikes (digits at 32x32: any PSNR above 24 dB).

    Args:
        images: float64 features or uint8 levels [M, D], of which a block is converted at a time.
        train: float64 [M_train, D].
    """
    threshold = np.percentile(_nearest(train, train, skip_self=True), percentile)
    return float(np.mean(_nearest(images, train) < threshold))


def _covariance_root(x: np.ndarray) -> np.ndarray:
    """[M, D] -> R [min(M, D), D] with R^T R the unbiased covariance."""
    root = (x - x.mean(0)) / np.sqrt(len(x) - 1)
    return root if len(x) <= x.shape[1] else np.linalg.qr(root, mode="r")


def _nearest(x: np.ndarray, y: np.ndarray, skip_self: bool = False) -> np.ndarray:
    """Distance [M_x] from each row of x to the nearest row of y, in blocks of 1,024 rows."""
    nearest = []
    for start in range(0, len(x), 1024):
        block = features(x[start : start + 1024])
        squared = np.square(block).sum(1)[:, None] + np.square(y).sum(1) - 2 * block @ y.T
        if skip_self:
            rows = np.arange(len(block))
            squared[rows, start + rows] = np.inf
        nearest.append(np.sqrt(squared.min(1).clip(0)))
    return np.concatenate(nearest)
