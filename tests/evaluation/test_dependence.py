"""The dependence of cells, of bits that are made up so that it is known."""

import numpy as np
import pytest

from lpd_jax.evaluation.dependence import by_offset, pairwise

GRID = (3, 4)


def falling(grid=GRID):
    """Of the distance of two cells alone."""
    row, col = (axis.ravel() for axis in np.indices(grid))
    distance = np.hypot(row - row[:, None], col - col[:, None])
    return np.where(distance > 0, 0.1 * np.exp(-distance), 0)


def bits_of(says, orders, noise=0.0):
    """Bits that each known cell j lowers by says[i, j]."""
    rng = np.random.default_rng(1)

    def bits(given, step_of):
        assert given is orders
        known = np.zeros_like(says[given], dtype=bool)  # [M, N, N]: cell of a position, cell known
        first = step_of < step_of.max()
        for image, order in enumerate(given):
            known[image][:, order[first]] = True
        return 2 - (says[given] * known).sum(-1) + noise * rng.normal(size=given.shape)

    return bits


def drawn(images):
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(12) for _ in range(images)])


def test_what_cells_say_is_found_exactly():
    says = np.random.default_rng(2).uniform(0, 0.2, (12, 12))
    says = (says + says.T) * (1 - np.eye(12))
    orders = drawn(40)
    np.testing.assert_allclose(pairwise(bits_of(says, orders), orders, GRID), says, atol=1e-9)


def test_noise_is_averaged_over_pairs_that_lie_alike():
    orders, says = drawn(60), falling()
    found = pairwise(bits_of(says, orders, noise=0.1), orders, GRID)
    error = np.sqrt(((found - says) ** 2).mean())
    alone = 0.1 * np.sqrt(2 / 60)  # of the mean of a pair, which is seen once in an image
    assert error < alone / 2
    assert (found >= 0).all() and (np.diag(found) == 0).all()


def test_by_offset_is_what_it_was_made_of():
    table = by_offset(falling(), GRID)
    assert table.shape == (5, 7) and np.isnan(table[2, 3])
    assert table[2, 4] == pytest.approx(0.1 * np.exp(-1))
    assert table[0, 0] == table[4, 6] == pytest.approx(0.1 * np.exp(-np.hypot(2, 3)))
