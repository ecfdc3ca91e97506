"""Editing: some cells of an image are known, the others are generated (paper section 4.3).

Known codes enter the cache in one prefill, after the class, and the schedule covers the unknown
cells only. Inpainting, outpainting and class-conditional editing differ in the mask and the label.

Dims: B images, H×W pixels, h×w grid, N = h·w cells, M unknown cells, K = N - M known ones.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lpd_jax.errors import InputError
from lpd_jax.generation import groups
from lpd_jax.generation.loop import fill_in, generate_codes
from lpd_jax.generation.plan import Plan
from lpd_jax.generation.sampling import SamplingRule
from lpd_jax.models.decoder import Decoder


def rectangle(size: tuple[int, int], box: Sequence[float]) -> np.ndarray:
    """A mask that is True inside a box; `~rectangle(...)` asks for everything around it.

    Args:
        size: (H, W) in pixels, or (h, w) in cells.
        box: top, left, bottom, right. Shares of the sides if none is above 1, else whole numbers
            of the unit of `size`; bottom and right are not part of the box.

    Returns:
        bool [H, W].

    Raises:
        InputError: the box is not four such numbers, is empty, or leaves the image.
    """
    edges = np.asarray(box, float)
    if edges.shape != (4,) or (edges.max() > 1 and (edges % 1).any()):
        raise InputError(
            f"box {tuple(box)} must be four numbers (top, left, bottom, right): all of them "
            "shares of the sides from 0 to 1, or all of them whole pixels."
        )
    if edges.max() <= 1:
        edges = edges * np.tile(size, 2)
    top, left, bottom, right = np.rint(edges).astype(int)
    if not (0 <= top < bottom <= size[0] and 0 <= left < right <= size[1]):
        raise InputError(
            f"box {tuple(box)} is empty or leaves the image of {size[0]}x{size[1]}; give top < "
            "bottom and left < right inside it."
        )
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def unknown_cells(
    mask: np.ndarray, count: int, grid: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """The cells that a mask asks to generate: bool [B, N].

    Args:
        mask: True where to generate. Pixels [H, W] or [B, H, W], where one pixel is enough for
            its cell, or cells [h, w] or [B, h, w]; one mask serves all images.
        count: B.
        grid: (h, w).
        size: (H, W), multiples of the grid.

    Raises:
        InputError: another shape, or values other than True and False (or 1 and 0).
    """
    try:
        mask = np.asarray(mask)
    except ValueError:
        raise InputError("the masks must all be of one shape.") from None
    if mask.ndim not in (2, 3) or mask.shape[-2:] not in (size, grid):
        raise InputError(
            f"the mask has shape {mask.shape}; it must be [{size[0]}, {size[1]}] in pixels or "
            f"[{grid[0]}, {grid[1]}] in cells, with one more axis for a mask per image."
        )
    if mask.ndim == 3 and len(mask) != count:
        raise InputError(
            f"{len(mask)} masks were given for {count} images; give one for each, or one for all."
        )
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        raise InputError(
            "the mask holds values other than 0 and 1; make it True where to generate, such as "
            "mask > 127."
        )
    height, width = (side // cells for side, cells in zip(mask.shape[-2:], grid, strict=True))
    cells = mask.astype(bool).reshape(-1, grid[0], height, grid[1], width).any(axis=(2, 4))
    return np.broadcast_to(cells.reshape(len(cells), -1), (count, math.prod(grid)))


def by_count(unknown: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """For each M that occurs, the rows int [P] of bool [B, N] that have M unknown cells."""
    counts = unknown.sum(axis=1)
    for count in np.unique(counts).tolist():
        yield count, np.flatnonzero(counts == count)


def same_count(unknown: np.ndarray) -> int:
    """M of bool [B, N], for a program that takes all rows at once.

    Raises:
        InputError: the rows differ in it, or it is 0.
    """
    counts = unknown.sum(axis=1)
    if counts.min() < 1 or counts.min() != counts.max():
        raise InputError(
            f"the masks ask for {counts.min()} to {counts.max()} cells an image; to watch an edit, "
            "mask as many cells in every image, at least one (without watching, any will do)."
        )
    return int(counts[0])


def group_sizes(num_unknown: int, num_tokens: int, steps: int, kind: str) -> tuple[int, ...]:
    """Group sizes for M of N cells, sum M: as many cells a step as `steps` give the whole image.

    Args:
        num_unknown: M, 0 to N; 0 has no groups.
        num_tokens: N.
        steps: of a whole image; M cells get ceil(steps M / N).
        kind: "cosine" or "uniform".

    Raises:
        InputError: steps or kind is not possible for a whole image.
    """
    groups.group_sizes(num_tokens, steps, kind)
    if not num_unknown:
        return ()
    return groups.group_sizes(num_unknown, num_steps(num_unknown, num_tokens, steps), kind)


def num_steps(num_unknown: int, num_tokens: int, steps: int) -> int:
    """Steps for M of N cells, ceil(steps M / N), where a whole image gets `steps`."""
    return -(-steps * num_unknown // num_tokens)


def orders_of_unknown(
    order: Any,
    keys: jax.Array,
    unknown: jax.Array,
    grid: tuple[int, int],
    group_sizes: tuple[int, ...],
) -> jax.Array:
    """Orders of the unknown cells, given that the others are there: int32 [B, M].

    Args:
        order: one of `lpd_jax.generation.orders`, or orders int32 [B, N] of whole images, from
            which the known cells are left out.
        keys: typed keys [B].
        unknown: bool [B, N], M of them in each row.
        grid: (h, w).
        group_sizes: static, sum M.
    """
    if not isinstance(order, jax.Array):
        return jax.vmap(lambda key, row: order.draw(key, grid, group_sizes, ~row))(keys, unknown)
    known = ~jnp.take_along_axis(unknown, order, axis=1)
    unknown_first = jnp.argsort(known, axis=1, stable=True)[:, : sum(group_sizes)]
    return jnp.take_along_axis(order, unknown_first, axis=1)


def regenerate(
    decoder: Decoder,
    params: Any,
    codes: jax.Array,
    unknown: jax.Array,
    labels: jax.Array,
    orders: jax.Array,
    keys: jax.Array,
    plan: Plan,
    rule: SamplingRule,
) -> jax.Array:
    """Codes int32 [B, N] with the unknown ones generated and the others as they were.

    Args:
        decoder, params: the network.
        codes: int32 [B, N], raster order; what the unknown cells hold is not looked at.
        unknown: bool [B, N], M of them in each row.
        labels: int32 [B].
        orders: int32 [B, M], from `orders_of_unknown`.
        keys: typed keys [B] of the tokens.
        plan: over M generated and K known tokens; static.
        rule: guidance and sampling. Known tokens count as generated for the guidance schedule.
    """
    known = known_tokens(codes, unknown, plan.num_known)
    generated = generate_codes(decoder, params, labels, orders, keys, plan, rule, known)
    return fill_in(codes, orders, generated)


def known_tokens(
    codes: jax.Array, unknown: jax.Array, num_known: int
) -> tuple[jax.Array, jax.Array] | None:
    """Codes and raster positions of the known cells, each int32 [B, K]; None where K is 0."""
    if not num_known:
        return None
    positions = jnp.argsort(unknown, axis=1, stable=True)[:, :num_known].astype(jnp.int32)
    return jnp.take_along_axis(codes, positions, axis=1), positions
