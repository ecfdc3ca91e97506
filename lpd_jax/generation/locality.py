"""The locality-aware order (paper section 3.3 and algorithm 1; official orders/lpd_order.py).

Dims: B images, h×w grid, N = h·w cells, M generated cells, S steps.

One step. Every cell not generated yet is scored by the sum of 1/distance over its generated
8-neighbours; equal scores are in random order. *Near* cells, whose score reaches the proximity
threshold, are taken by score, skipping those within Chebyshev distance `repulsion` of a pick of the
same step. If they run out, the rest is taken by farthest-point sampling: the largest distance to
the nearest pick of the step, ties by far before skipped, then score, then random order. A step
without near cells starts from a uniformly random one. The last step takes whatever is left, so it
skips the sampling and keeps the order of the ties. The first step is no exception: all its scores
are zero, so its first cell is uniform.

The work is one pick after another, so speed is in the width of a pick. Arrays have their images
last, where a CPU's vector units and a GPU's warps want them; a cell's claim is one uint32, so that
a pick is a maximum and not an argmax; scores and distances are integers, so that equal is equal.
A pick asks whether any image of the batch has run out of near cells, so every device picks for its
own images: else all devices would wait for each other at each pick.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from lpd_jax import parallel
from lpd_jax.errors import InputError

_NEAR = np.uint32(1 << 31)  # a claim is: near (1 bit), score (6), random (25 - c), cell (c)
_SCORE_SHIFT = 25
_TIE_MASK = np.uint32((1 << _SCORE_SHIFT) - 1)


class Rule(NamedTuple):
    """What an order asks of a cell.

    Attributes:
      proximity: score from which a cell is near; float or float32[], may be traced.
      repulsion: Chebyshev distance within which near picks of a step exclude each other, none
        below 1; float or float32[], may be traced.
      scored: False makes every score zero.
    """

    proximity: float | jax.Array
    repulsion: float | jax.Array
    scored: bool = True


def draw(
    key: jax.Array,
    grid: tuple[int, int],
    group_sizes: tuple[int, ...],
    known: jax.Array,
    rule: Rule,
) -> jax.Array:
    """One order by the rule above; under vmap, a batch of them in one vectorised loop.

    Args:
      key: typed PRNG key.
      grid: (h, w), each at most 256.
      group_sizes: S ints, sum M = number of cells not known.
      known: bool[N], cells that are context from the start.
      rule: thresholds.

    Returns:
      int32[M], generation position → raster index; inside a group in the order of the picks.

    Raises:
      InputError: the grid is larger than 256×256.
    """
    draw_batch = functools.partial(_draw_batch, grid, group_sizes, rule.scored)
    return _batched(draw_batch, grid, rule)(key, known)


def draw_by_step(
    key: jax.Array, grid: tuple[int, int], step_of: jax.Array, rule: Rule
) -> jax.Array:
    """The order that `draw` gives for the groups of `step_of` and no known cells.

    The groups are data here, so that under vmap every order of a batch has its own. Each pick
    scores all cells again, which `draw` does once a step.

    Args:
      key: typed PRNG key.
      grid: (h, w), each at most 256.
      step_of: int32[N], non-decreasing from 0, step of each generation position; may be traced.
      rule: thresholds.

    Returns:
      int32[N], generation position → raster index.

    Raises:
      InputError: the grid is larger than 256×256.
    """
    draw_batch = functools.partial(_draw_batch_by_step, grid, rule.scored)
    return _batched(draw_batch, grid, rule)(key, jnp.asarray(step_of, jnp.int32))


def _batched(draw_batch, grid: tuple[int, int], rule: Rule):
    """(key, array of an image) -> its order; under vmap one call of `draw_batch` for all."""
    if max(grid) > 256:
        raise InputError(
            f"A {grid[0]}x{grid[1]} grid is too large; locality-aware goes to 256x256."
        )

    @custom_vmap
    def orders(key, own, proximity, repulsion):
        return draw_batch(key[None], own[None], proximity[None], repulsion[None])[0]

    @orders.def_vmap
    def _(size, batched, *args):
        batch = (
            x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
            for x, is_batched in zip(args, batched, strict=True)
        )
        return parallel.by_device(draw_batch, tuple(batch)), True

    thresholds = [jnp.asarray(x, jnp.float32) for x in (rule.proximity, rule.repulsion)]
    return lambda key, own: orders(key, own, *thresholds)


def _draw_batch(grid, group_sizes, scored, keys, known, proximity, repulsion):
    """Orders of B images: int32[B, M] from keys [B], known [B, N] and thresholds [B]."""
    reach = _reach(grid, repulsion)
    near_from = _near_from(proximity)
    words = jax.vmap(lambda key: jax.random.bits(key, (len(group_sizes), 2)), out_axes=2)(keys)
    ties = jax.vmap(lambda step_words: _tie_order(grid, step_words))(words)  # [S, N, B]

    def step(carry, inputs):
        order, taken = carry
        start, size, last, flip, tie = inputs
        score = _score(taken, grid) if scored else jnp.zeros(taken.shape, jnp.uint32)
        near = score >= near_from
        claim = jnp.where(near, _NEAR, 0) | score << _SCORE_SHIFT | tie
        gap = _initial_gap(grid, taken, near, tie, last)
        open_claim = jnp.where(near & ~taken, claim, 0)

        def pick(position, carry):
            order, gap, open_claim = carry
            cell, gap, open_claim = _pick(grid, reach, flip, claim, gap, open_claim)
            order = lax.dynamic_update_index_in_dim(order, cell, position, 0)
            return order, gap, open_claim

        order, gap, _ = lax.fori_loop(start, start + size, pick, (order, gap, open_claim))
        return (order, gap == 0), None

    starts = np.cumsum((0, *group_sizes[:-1]), dtype=np.int32)
    last = np.arange(len(group_sizes)) == len(group_sizes) - 1
    order = jnp.zeros((sum(group_sizes), len(keys)), jnp.int32)
    inputs = (starts, np.asarray(group_sizes, np.int32), last, words[:, 1], ties)
    return lax.scan(step, (order, known.T), inputs)[0][0].T


def _draw_batch_by_step(grid, scored, keys, step_of, proximity, repulsion):
    """Orders of B images, each with groups of its own: int32[B, N] from step_of int32[B, N].

    One loop over the picks, in which each image begins its steps where they begin. With the same
    groups and key the order is that of `_draw_batch`: both read the words of a step by its number.
    """
    cells = step_of.shape[1]
    reach, near_from = _reach(grid, repulsion), _near_from(proximity)
    words = jax.vmap(lambda key: jax.random.bits(key, (cells, 2)), out_axes=2)(keys)
    words = jnp.take_along_axis(words, step_of.T[:, None], 0)  # of the step at each position
    begins = jnp.diff(step_of, axis=1, prepend=-1) > 0
    last = step_of == step_of[:, -1:]

    def pick(carry, inputs):
        gap, open_claim, claim = carry
        begin, last, word = inputs
        taken, tie = gap == 0, _tie_order(grid, word)
        score = _score(taken, grid) if scored else jnp.zeros(taken.shape, jnp.uint32)
        near = score >= near_from
        fresh = jnp.where(near, _NEAR, 0) | score << _SCORE_SHIFT | tie
        gap = jnp.where(begin, _initial_gap(grid, taken, near, tie, last), gap)
        open_claim = jnp.where(begin, jnp.where(near & ~taken, fresh, 0), open_claim)
        claim = jnp.where(begin, fresh, claim)
        cell, gap, open_claim = _pick(grid, reach, word[1], claim, gap, open_claim)
        return (gap, open_claim, claim), cell

    blank = jnp.zeros((cells, len(keys)), jnp.uint32)
    start = jnp.ones(blank.shape, _distance_dtype(grid)), blank, blank
    return lax.scan(pick, start, (begins.T, last.T, words))[1].T


def _reach(grid: tuple[int, int], repulsion: jax.Array) -> jax.Array:
    """Squared Chebyshev distance within which near picks exclude each other: [B]."""
    reach = jnp.clip(jnp.floor(repulsion), 0, max(grid)) ** 2
    return reach.astype(_distance_dtype(grid))


def _pick(grid, reach, flip, claim, gap, open_claim):
    """The next cell int32[B], and what is left: `gap`, `open_claim` [N, B] after it.

    Args:
      reach: [B] of `_reach`.
      flip: uint32[B], second word of the step.
      claim: uint32[N, B], of every cell when the step began.
      gap: [N, B], squared distance to the picks of the step; 0 where taken.
      open_claim: uint32[N, B], `claim` of near cells that nothing excludes; 0 elsewhere.
    """
    row, col = (axis.reshape(-1, 1) for axis in np.indices(grid, _distance_dtype(grid)))
    nearest = open_claim.max(0)
    chosen = lax.cond(
        nearest.min() == 0,
        lambda: jnp.where(nearest > 0, nearest, _farthest(gap, claim)),
        lambda: nearest,
    )
    y, x = _unpack(chosen ^ flip, grid)
    down, across = (row - y.astype(row.dtype)) ** 2, (col - x.astype(col.dtype)) ** 2
    gap = jnp.minimum(gap, down + across)
    open_claim = jnp.where(jnp.maximum(down, across) <= reach, 0, open_claim)
    return y * grid[1] + x, gap, open_claim


def _score(taken: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """7·sides + 5·diagonals over the taken 8-neighbours: uint32[N, B], 0..48.

    Sorts and separates sides + diagonals/√2 exactly for counts up to four, which a float sum does
    not: it depends on the order of its terms.
    """
    t = jnp.pad(taken.reshape(*grid, -1).astype(jnp.uint8), ((1, 1), (1, 1), (0, 0)))
    sides = t[:-2, 1:-1] + t[2:, 1:-1] + t[1:-1, :-2] + t[1:-1, 2:]
    diagonals = t[:-2, :-2] + t[:-2, 2:] + t[2:, :-2] + t[2:, 2:]
    return (7 * sides + 5 * diagonals).reshape(taken.shape).astype(jnp.uint32)


def _near_from(proximity: jax.Array) -> jax.Array:
    """Least `_score` whose sides + diagonals/√2 reaches each threshold: uint32[B]; 63 if none."""
    sides, diagonals = np.indices((5, 5), np.uint32).reshape(2, 25, 1)
    reaches = (sides + diagonals / np.sqrt(2)).astype(np.float32) >= proximity
    return jnp.where(reaches, 7 * sides + 5 * diagonals, 63).min(0)


def _tie_order(grid: tuple[int, int], words: jax.Array) -> jax.Array:
    """Random bits over the cell's own bits: uint32[N, B] below 2**25, all different in an image.

    The random bits are a hash of the cell, keyed by two random words per step and a tenth of the
    cost of a random word per cell. The second word flips every bit, those of the cell too, so any
    two cells come in either order with equal chance even where their hashes coincide.
    """
    y_bits, x_bits = _bits(grid)
    row, col = (axis.reshape(-1, 1) for axis in np.indices(grid, np.uint32))
    cell = row << x_bits | col
    own = np.uint32((1 << y_bits + x_bits) - 1)
    return ((_hash(cell ^ words[0]) & ~own | cell) ^ words[1]) & _TIE_MASK


def _hash(x: jax.Array) -> jax.Array:
    """A bijection of uint32 with nearly unbiased avalanche: Wellons' lowbias32."""
    x = (x ^ x >> 16) * np.uint32(0x7FEB352D)
    x = (x ^ x >> 15) * np.uint32(0x846CA68B)
    return x ^ x >> 16


def _unpack(claim: jax.Array, grid: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Row and column of the cell in the lowest bits: int32[B] each."""
    y_bits, x_bits = _bits(grid)
    y, x = claim >> x_bits & ((1 << y_bits) - 1), claim & ((1 << x_bits) - 1)
    return y.astype(jnp.int32), x.astype(jnp.int32)


def _bits(grid: tuple[int, int]) -> tuple[int, int]:
    return (grid[0] - 1).bit_length(), (grid[1] - 1).bit_length()


def _initial_gap(grid, taken, near, tie, last) -> jax.Array:
    """Squared distance to the picks of a step before its first one: int[N, B], 0 where taken.

    Equal everywhere, which leaves the choice to the ties, but for the random cell that a step
    without near cells starts from. In the last step it is 1, which no distance can lower.
    """
    left = jnp.where(taken, 0, tie)
    starts = (left == left.max(0)) & ~(near & ~taken).any(0)
    gap = jnp.where(last, 1, grid[0] ** 2 + grid[1] ** 2 + starts)
    return jnp.where(taken, 0, gap).astype(_distance_dtype(grid))


def _farthest(gap: jax.Array, claim: jax.Array) -> jax.Array:
    """Claim of the cell with the largest gap; among ties far cells go before near ones: [B]."""
    return jnp.where(gap == gap.max(0), claim ^ _NEAR, 0).max(0)


def _distance_dtype(grid: tuple[int, int]) -> type[np.integer]:
    """The narrowest type that holds squared distances and one more."""
    return np.int16 if grid[0] ** 2 + grid[1] ** 2 < np.iinfo(np.int16).max else np.int32
