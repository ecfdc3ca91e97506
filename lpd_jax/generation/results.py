"""What generation and editing return.

Dims: B images, H×W pixels, h×w grid, N = h·w cells, M generated cells (N less the known ones).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import struct

from lpd_jax.generation.groups import step_of


@struct.dataclass
class Samples:
    """Generated images and how they came about.

    Attributes:
        images: uint8 [B, H, W, 3].
        codes: int32 [B, N], raster order.
        orders: int32 [B, N], generation position -> raster index; [B, M] of an edit.
        steps: int32 [B, N], the pass that generated each token, where images have groups of their
            own (`confident`); else None. The passes that an image took are its last one and 1.
    """

    images: Any
    codes: Any
    orders: Any
    steps: Any = None


@dataclasses.dataclass(frozen=True)
class Batch:
    """The part of a batch of `Samples` that one process holds.

    Every row of a batch is in the `Batch` of exactly one process.

    Attributes:
        rows: int [P], ascending: which of the images that were asked for these are, from 0.
        images: uint8 [P, H, W, 3].
        codes: int32 [P, N], raster order.
        orders: int32 [P, N], generation position -> raster index.
    """

    rows: np.ndarray
    images: np.ndarray
    codes: np.ndarray
    orders: np.ndarray


@dataclasses.dataclass(frozen=True)
class Partial:
    """Images on their way.

    Attributes:
        step: steps done; 0 is what was known from the start.
        images: uint8 [B, H, W, 3].
        known: bool [B, N], the cells that are there.
    """

    step: int
    images: np.ndarray
    known: np.ndarray


@dataclasses.dataclass(frozen=True)
class Edits:
    """Edited images and how they came about.

    Attributes:
        images: uint8 [B, H, W, 3].
        codes: int32 [B, N], raster order.
        step_map: int32 [B, h, w], the step at which a cell was generated; -1 where it was kept.
    """

    images: np.ndarray
    codes: np.ndarray
    step_map: np.ndarray


def join_edits(
    parts: Sequence[tuple[np.ndarray, tuple[int, ...], Samples]], grid: tuple[int, int]
) -> Edits:
    """Edits of all images from those of some: rows int [P], group sizes and `Samples` of P rows."""
    count, num_tokens = sum(len(rows) for rows, _, _ in parts), math.prod(grid)
    images = np.empty((count, *parts[0][2].images.shape[1:]), np.uint8)
    codes = np.empty((count, num_tokens), np.int32)
    step_map = np.full((count, num_tokens), -1, np.int32)
    for rows, sizes, part in parts:
        images[rows], codes[rows] = part.images, part.codes
        if sizes:
            step_map[rows[:, None], part.orders] = step_of(sizes)
    return Edits(images, codes, step_map.reshape(-1, *grid))
