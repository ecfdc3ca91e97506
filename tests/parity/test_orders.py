"""Locality-aware orders: the statistics of ours against those of the official scheduler.

Both draw at random, so that orders are compared in distribution: the mean of each statistic over
as many orders as the reference has must lie within five standard errors.

Dims: B orders, N cells, S steps.
"""

import jax
import numpy as np
import pytest
from scipy.spatial.distance import pdist

from lpd_jax.generation.orders import LocalityAware


def statistics(order, grid, group_sizes):
    """Proximity, smallest distance and share with a neighbour of each step, [3, S]; NaN if none."""
    cells = np.stack(np.unravel_index(order, grid), axis=-1)
    taken = np.zeros((grid[0] + 2, grid[1] + 2), bool)
    rows = []
    for group in np.split(cells, np.cumsum(group_sizes)[:-1]):
        near = np.stack([taken[group[:, 0] + i, group[:, 1] + j] for i, j in NEIGHBOURS], axis=-1)
        proximity = near @ [1 / np.hypot(i - 1, j - 1) for i, j in NEIGHBOURS]
        distance = pdist(group).min() if len(group) > 1 else np.nan
        rows.append([proximity.mean(), distance, near.any(-1).mean()])
        taken[group[:, 0] + 1, group[:, 1] + 1] = True
    rows[0][0] = rows[0][2] = np.nan
    return np.transpose(rows)


NEIGHBOURS = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
PER_STEP = ("proximity_per_step", "min_dist_per_step", "frac8_per_step")


@pytest.fixture
def setting(orders_file, reference):
    arrays = reference(orders_file)
    side = int(arrays["grid_size"])
    return arrays, (side, side), tuple(arrays["group_sizes"].tolist())


def test_these_statistics_are_the_reference_s(setting, close):
    arrays, grid, sizes = setting
    ours = np.stack([statistics(order, grid, sizes) for order in arrays["orders"][:8]], axis=1)
    for row, name in zip(ours, PER_STEP, strict=True):
        theirs = arrays[name][:8]
        np.testing.assert_array_equal(np.isnan(row), np.isnan(theirs), name)
        close(np.nan_to_num(row), np.nan_to_num(theirs), name)


def test_our_orders_have_the_same_statistics(setting):
    arrays, grid, sizes = setting
    rule = LocalityAware(
        proximity=float(arrays["proximity_threshold"]),
        repulsion=float(arrays["repulsion_threshold"]),
    )
    count = len(arrays["orders"])
    keys = jax.random.split(jax.random.key(0), count)
    orders = jax.jit(jax.vmap(lambda key: rule.draw(key, grid, sizes)))(keys)
    per_order = np.stack([statistics(order, grid, sizes) for order in np.asarray(orders)])
    means = np.nanmean(per_order, axis=-1)
    theirs = np.stack([np.nanmean(arrays[name], axis=-1) for name in PER_STEP], axis=-1)
    error = np.sqrt((means.var(0, ddof=1) + theirs.var(0, ddof=1)) / count)
    np.testing.assert_array_less(np.abs(means.mean(0) - theirs.mean(0)), 5 * error)
