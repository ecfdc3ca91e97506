"""The locality-aware order (paper section 3.3, algorithm 1; official orders/lpd_order.py).

Dims: h×w grid, N = h·w cells, M generated cells, S steps. Every function works on one image; vmap
over keys gives a batch.

One step. Every cell not generated yet is scored by the sum of 1/distance over its generated
8-neighbours; ties are in random order. *Near* cells, whose score reaches the proximity threshold,
are taken by score, skipping those within Chebyshev distance `repulsion` of a pick of the same step.
If they run out, the rest is taken by farthest-point sampling: the largest distance to the nearest
pick of this step, ties by far-before-skipped, score, random order. A step with no near cell starts
from a uniformly random one, and the last step, which takes whatever is left, skips the sampling and
keeps the order of the ties.

The first group is a step like any other: all scores are zero, so its first cell is uniform.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_NEAR = np.uint32(1 << 31)  # set in the sort key of near cells
_SCORE_SHIFT = 25  # six bits of score below it


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
    """One order by the rule above.

    Args:
      key: typed PRNG key.
      grid: (h, w), at most 2**16 cells.
      group_sizes: S ints, sum M = number of cells not known.
      known: bool[N], cells that are context from the start.
      rule: thresholds.

    Returns:
      int32[M], generation position → raster index; inside a group in the order of the picks.
    """
    h, w = grid
    row, col = (jnp.asarray(x.ravel(), jnp.int32) for x in np.indices(grid))
    sizes = jnp.asarray(group_sizes, jnp.int32)
    starts = jnp.asarray(np.cumsum((0, *group_sizes[:-1])), jnp.int32)
    near_from = _threshold(rule.proximity)
    reach = jnp.floor(rule.repulsion).astype(jnp.int32)
    far_away = h * h + w * w

    def step(carry, inputs):
        order, taken = carry
        start, size, step_key, last = inputs
        score = _score(taken.reshape(grid)).ravel() if rule.scored else jnp.zeros(h * w, jnp.uint32)
        sort_key, flip = _sort_key(step_key, score, near_from)
        near = ~taken & (score >= near_from)
        lone = (sort_key & ((1 << _SCORE_SHIFT) - 1)) * ~taken
        seed = (lone == lone.max()) & ~near.any() & ~last
        gap = jnp.where(last, 1, far_away + seed) * ~taken
        open_key = jnp.where(near, sort_key, 0)

        def pick(t, carry):
            order, gap, open_key = carry
            nearest = open_key.max()
            farthest = jnp.where(gap == gap.max(), sort_key ^ _NEAR, 0).max()
            cell = _cell(jnp.where(nearest > 0, nearest, farthest), flip, h * w)
            dy, dx = jnp.abs(row - cell // w), jnp.abs(col - cell % w)
            gap = jnp.minimum(gap, dy * dy + dx * dx)
            open_key = jnp.where(jnp.maximum(dy, dx) <= jnp.maximum(reach, 0), 0, open_key)
            return order.at[t].set(cell), gap, open_key

        order, gap, _ = jax.lax.fori_loop(start, start + size, pick, (order, gap, open_key))
        return (order, gap == 0), None

    steps = len(group_sizes)
    order = jnp.zeros(sum(group_sizes), jnp.int32)
    last = jnp.arange(steps) == steps - 1
    inputs = (starts, sizes, jax.random.split(key, steps), last)
    return jax.lax.scan(step, (order, known), inputs)[0][0]


def _score(taken: jax.Array) -> jax.Array:
    """7·sides + 5·diagonals over the taken 8-neighbours: uint32[h, w], 0..48.

    Orders and separates sides + diagonals/√2 exactly for counts up to four, without the rounding
    that makes floats summed in another order unequal.
    """
    t = jnp.pad(taken.astype(jnp.uint32), 1)
    sides = t[:-2, 1:-1] + t[2:, 1:-1] + t[1:-1, :-2] + t[1:-1, 2:]
    diagonals = t[:-2, :-2] + t[:-2, 2:] + t[2:, :-2] + t[2:, 2:]
    return 7 * sides + 5 * diagonals


def _threshold(proximity: jax.Array) -> jax.Array:
    """The smallest `_score` whose sides + diagonals/√2 reaches proximity: uint32[]; 63 if none."""
    sides, diagonals = (np.arange(25) // 5, np.arange(25) % 5)
    reaches = jnp.asarray(sides + diagonals / np.sqrt(2), jnp.float32) >= proximity
    return jnp.where(reaches, jnp.asarray(7 * sides + 5 * diagonals, jnp.uint32), 63).min()


def _sort_key(key: jax.Array, score: jax.Array, near_from: jax.Array):
    """Near bit, score, random bits, cell: uint32[N], all different; and the cells' flip bits.

    Cells are stored xor a random word, so that a tie of the random bits is broken either way with
    equal chance.
    """
    n = score.size
    bits = max(n - 1, 1).bit_length()
    noise_key, flip_key = jax.random.split(key)
    flip = jax.random.bits(flip_key, (), jnp.uint32) & ((1 << bits) - 1)
    noise = jax.random.bits(noise_key, (n,), jnp.uint32) >> (32 - _SCORE_SHIFT) >> bits << bits
    cells = jnp.arange(n, dtype=jnp.uint32) ^ flip
    near = (score >= near_from) * _NEAR
    return near | (score << _SCORE_SHIFT) | noise | cells, flip


def _cell(sort_key: jax.Array, flip: jax.Array, n: int) -> jax.Array:
    return ((sort_key ^ flip) & ((1 << max(n - 1, 1).bit_length()) - 1)).astype(jnp.int32)
