"""Is an order one that its rule can produce, and are two sets of them alike?

Dims: B orders, h×w grid, N = h·w cells, M generated cells, S steps.

The locality-aware rule is random in the order of ties only, and so is that of a field: a pick is
valid if and only if some order of the ties leads to it. Ties within a step are ordered once, but
the picks so far never contradict a later choice among the cells that are left; each pick can
therefore be checked given the picks before it. This NumPy reading of the rules shares no code with
`locality` or `field`.
"""

import numpy as np

from lpd_jax.generation.groups import check_group_sizes, step_of

_NEIGHBOURS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


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
    steps = step_of(group_sizes)
    firsts = np.diff(steps, prepend=-1) > 0
    for position, (step, first) in enumerate(zip(steps, firsts, strict=True)):
        if first:
            score = _scores(taken.reshape(-1, *grid)) if scored else np.zeros(taken.shape)
            near = score >= proximity
            open_ = near & ~taken
            gap = np.full(taken.shape, np.inf)
        allowed = _allowed(open_, ~taken, near, score, gap, first, step == steps[-1])
        inside = (orders[:, position] >= 0) & (orders[:, position] < row.size)
        cell = np.where(inside, orders[:, position], 0)
        possible = inside & allowed[np.arange(batch), cell]
        violation[(violation < 0) & ~possible] = position
        down, across = np.abs(row - row[cell][:, None]), np.abs(col - col[cell][:, None])
        taken |= (down == 0) & (across == 0)
        open_ &= ~((down <= repulsion) & (across <= repulsion)) & ~taken
        gap = np.minimum(gap, down**2 + across**2)
    return violation


def first_field_violation(
    orders: np.ndarray,
    group_sizes: tuple[int, ...],
    squares: np.ndarray,
    context: int,
    *,
    known: np.ndarray | None = None,
) -> np.ndarray:
    """As `first_violation`, of the rule of `field`.

    Args:
      orders: int[B, M], in pick order inside each group.
      group_sizes: S ints, sum M.
      squares, context: of `field.fixed_point`.
      known: bool[N]; none by default.
    """
    orders, squares = np.asarray(orders), np.asarray(squares, np.int64)
    check_group_sizes(group_sizes, orders.shape[1])
    ends = np.cumsum(group_sizes)
    before = np.flatnonzero(np.zeros(len(squares)) if known is None else known).tolist()
    violation = np.full(len(orders), -1)
    for image, order in enumerate(orders.tolist()):
        for position, cell in enumerate(order):
            begin = max([0, *ends[ends <= position].tolist()])
            there, group = before + order[:begin], order[begin:position]
            score = int(context) * squares[there].sum(0) - 16 * squares[group].sum(0)
            left = np.setdiff1d(np.arange(len(squares)), there + group)
            if cell not in left or score[cell] < score[left].max():
                violation[image] = position
                break
    return violation


def same_distribution(
    a: np.ndarray, b: np.ndarray, *, permutations: int = 2000, seed: int = 0
) -> float:
    """P-value of the hypothesis that two samples of feature vectors share a distribution.

    A max-t permutation test (Westfall and Young): the statistic is the largest absolute difference
    of means over the features, each in units of its pooled standard deviation; its distribution
    comes from permuting the samples, so the level holds for all features together, whatever their
    dependence and shape. Features that are undefined (NaN) or constant are left out.

    Args:
      a: float[A, F], one row per order.
      b: float[B, F].
      permutations: how many, beside the observed one.
      seed: of the permutations.
    """
    both = np.concatenate([a, b]).astype(float)
    both = both[:, ~np.isnan(both).any(0)]
    both = both[:, both.std(0) > 1e-9]
    both = (both - both.mean(0)) / both.std(0)
    rng = np.random.default_rng(seed)
    picks = [np.arange(len(a))] + [
        rng.permutation(len(both))[: len(a)] for _ in range(permutations)
    ]
    largest = np.array([np.abs(both[pick].mean(0)).max() for pick in picks])
    return float((largest >= largest[0] - 1e-12).mean())


def _allowed(open_, left, near, score, gap, first, last):
    """Cells the next pick may be: bool[B, N]; `open_` are near, left and not excluded."""
    if first and not last:
        otherwise = left
    else:
        apart = left if last else _best(left, gap)
        far = apart & ~near
        otherwise = _best(np.where(far.any(1, keepdims=True), far, apart), score)
    return np.where(open_.any(1, keepdims=True), _best(open_, score), otherwise)


def _best(among, value):
    """The cells of `among` with the largest value: bool[B, N]."""
    value = np.where(among, value, -np.inf)
    return among & (value == value.max(1, keepdims=True))


def _scores(taken):
    """Sum of 1/distance over the taken 8-neighbours of each cell: float64[B, N]."""
    h, w = taken.shape[1:]
    around = np.pad(taken, ((0, 0), (1, 1), (1, 1))).astype(int)
    shifted = {(y, x): around[:, 1 + y : 1 + y + h, 1 + x : 1 + x + w] for y, x in _NEIGHBOURS}
    sides = sum(t for (y, x), t in shifted.items() if y * x == 0)
    diagonals = sum(t for (y, x), t in shifted.items() if y * x != 0)
    return (sides + diagonals / np.sqrt(2)).reshape(len(taken), -1)
