"""Which cells of an image depend on each other, as a model itself says.

Of a random order, the bits of the cells that are left before and after one more is known: the
difference is what that cell says about each of them in this context. Its mean over images and
contexts of all sizes is an estimate of the mutual information of two cells given some of the
others, which is what a group loses that holds both.

Dims: M images, h×w grid, N = h·w cells.
"""

import numpy as np

from lpd_jax.evaluation.likelihood import Bits


def pairwise(bits: Bits, orders: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The dependence of every two cells, in bits: N passes.

    A pair is seen in few images, so its mean is drawn to that of all pairs that lie as far apart
    in the same direction, by as much as the errors of the two say.

    Args:
        bits: of `likelihood.scorer`, for M images.
        orders: int32 [M, N], uniformly random.
        grid: (h, w).

    Returns:
        float64 [N, N], symmetric, at least 0, and 0 on the diagonal.
    """
    tokens = orders.shape[1]
    sums = np.zeros((3, tokens, tokens))  # of 1, of the differences and of their squares
    before = bits(orders, np.zeros(tokens, np.int32))
    for known in range(1, tokens):
        after = bits(orders, np.minimum(np.arange(tokens), known).astype(np.int32))
        saved = (before - after)[:, known:]
        pairs = orders[:, known:], np.broadcast_to(orders[:, known - 1, None], saved.shape)
        for total, power in zip(sums, (saved**0, saved, saved**2), strict=True):
            np.add.at(total, pairs, power)
        before = after
    return _shrunk(sums + sums.transpose(0, 2, 1), grid)


def _shrunk(sums: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Means of pairs, each drawn to the mean of its offset; from sums [3, N, N]."""
    offset = _offsets(grid)
    count, total, square = sums
    seen = np.maximum(count, 1)
    own = total / seen

    def pooled(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Their ratio over the pairs of each offset: [N, N]."""
        above, below = (np.bincount(offset.ravel(), x.ravel()) for x in (values, weights))
        return (above / np.maximum(below, 1))[offset]

    mean = pooled(total, count)
    error = pooled(square - total * own, np.maximum(count - 1, 0)) / seen
    spread = np.maximum(pooled((own - mean) ** 2 - error, np.ones_like(own)), 0)  # of true means
    share = spread / np.maximum(spread + error, np.finfo(float).tiny)
    found = np.maximum(np.where(count > 0, mean + share * (own - mean), mean), 0)
    np.fill_diagonal(found, 0)
    return (found + found.T) / 2


def _offsets(grid: tuple[int, int]) -> np.ndarray:
    """int [N, N]: a number for each offset of two cells, the same for the opposite one."""
    row, col = (axis.ravel() for axis in np.indices(grid))
    wide = 2 * grid[1] - 1
    code = np.abs((row - row[:, None]) * wide + (col - col[:, None]))
    return np.unique(code, return_inverse=True)[1].reshape(code.shape)


def by_offset(dependence: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Mean dependence of two cells by their offset: float64 [2h-1, 2w-1], NaN in the middle."""
    row, col = (axis.ravel() for axis in np.indices(grid))
    down, across = (a - a[:, None] + n - 1 for a, n in zip((row, col), grid, strict=True))
    place = (down * (2 * grid[1] - 1) + across).ravel()
    mean = np.bincount(place, dependence.ravel()) / np.bincount(place)
    mean[len(mean) // 2] = np.nan
    return mean.reshape(2 * grid[0] - 1, -1)
