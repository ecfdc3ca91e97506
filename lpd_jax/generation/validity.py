"""Which orders the locality-aware rule can produce: its reading in NumPy, as a check on the others.

Dims: B orders, h×w grid, N = h·w cells, M generated cells, S steps.

The rule is random in the order of ties only, so a pick is valid if and only if some order of the
ties leads to it. Ties within a step are ordered once, but the picks so far never contradict a later
choice among the cells that are left; each pick can therefore be checked given the picks before it.
Written from the paper's description and independent of `locality`: it shares no code with it.
"""

import numpy as np

from lpd_jax.generation.groups import check_group_sizes, step_of


def first_violation(
    orders: np.ndarray,
    grid: tuple[int, int],
    group_sizes: tuple[int, ...],
    *,
    proximity: float,
    repulsion: float,
    known: np.ndarray | None = None,
    scored: bool = True,
) -> np.ndarray:
    """Generation position of the first pick the rule cannot have made: int[B]; -1 where valid.

    Args:
      orders: int[B, M], generation position → raster index, in pick order inside each group.
      grid: (h, w).
      group_sizes: S ints, sum M.
      proximity: score from which a cell is near.
      repulsion: Chebyshev distance within which near picks of a step exclude each other.
      known: bool[N], cells that are context from the start; none by default.
      scored: False if the rule ignored the scores.

    Raises:
      InputError: group sizes with an empty group, or that do not sum to M.
    """
    orders = np.asarray(orders)
    batch, generated = orders.shape
    check_group_sizes(group_sizes, generated)
    row, col = (axis.ravel() for axis in np.indices(grid))
    taken = np.zeros((batch, row.size), bool) if known is None else np.tile(known, (batch, 1))
    violation = np.full(batch, -1)
    last = len(group_sizes) - 1
    for position, step in enumerate(step_of(group_sizes)):
        if position == 0 or step != step_of(group_sizes)[position - 1]:
            score = _scores(taken.reshape(-1, *grid)) if scored else np.zeros(taken.shape)
            near = score >= proximity
            open_ = near & ~taken
            gap = np.full(taken.shape, np.inf)
            first = True
        allowed = _allowed(open_, taken, near, score, gap, first, step == last)
        cell = orders[:, position]
        inside = (cell >= 0) & (cell < row.size)
        cell = np.where(inside, cell, 0)
        possible = inside & np.take_along_axis(allowed, cell[:, None], 1)[:, 0]
        violation[(violation < 0) & ~possible] = position
        down, across = np.abs(row - row[cell][:, None]), np.abs(col - col[cell][:, None])
        taken |= (down == 0) & (across == 0)
        open_ &= ~((down <= repulsion) & (across <= repulsion)) & ~taken
        gap = np.minimum(gap, down**2 + across**2)
        first = False
    return violation


def _allowed(open_, taken, near, score, gap, first, last):
    """Cells the next pick may be: bool[B, N]."""
    left = ~taken
    by_score = _best(open_, score)
    if last:
        apart = left
    elif first:
        return np.where(open_.any(1, keepdims=True), by_score, left)
    else:
        apart = _best(left, gap)
    far = apart & ~near
    apart = _best(np.where(far.any(1, keepdims=True), far, apart), score)
    return np.where(open_.any(1, keepdims=True), by_score, apart)


def _best(among, value):
    """The cells of `among` with the largest value: bool[B, N]."""
    value = np.where(among, value, -np.inf)
    return among & (value == value.max(1, keepdims=True))


def _scores(taken):
    """Sum of 1/distance over the taken 8-neighbours of each cell: float64[B, N]."""
    h, w = taken.shape[1:]
    around = np.pad(taken, ((0, 0), (1, 1), (1, 1))).astype(int)
    side, diagonal = (
        sum(around[:, y : y + h, x : x + w] for y in range(3) for x in range(3) if odd(y, x))
        for odd in (lambda y, x: (y + x) % 2 == 1, lambda y, x: (y, x) != (1, 1) and (y + x) % 2 == 0)
    )
    return (side + diagonal / np.sqrt(2)).reshape(len(taken), -1)
