"""The locality-aware rule: validity of every pick, exact probabilities, official statistics."""

import functools
import itertools
import math
import os
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpd_jax.generation import locality
from lpd_jax.generation.groups import cosine, official
from lpd_jax.generation.orders import LocalityAware, NearContext, SpreadOnly
from lpd_jax.generation.schedule import Schedule
from lpd_jax.generation.validity import first_violation, same_distribution
from lpd_jax.viz.orders import statistics

REFERENCE = Path(os.environ.get("LPD_REFERENCE_DIR", Path(__file__).parents[1] / "reference"))
PUBLISHED = {  # grid, steps, repulsion
    "orders_256_20steps_rep2": ((16, 16), 20, 2),
    "orders_256_32steps_rep2": ((16, 16), 32, 2),
    "orders_256_20steps_rep3": ((16, 16), 20, 3),
    "orders_512_48steps_rep4": ((32, 32), 48, 4),
}
WITH_REFERENCE = [name for name in PUBLISHED if name != "orders_256_20steps_rep3"]


@functools.partial(jax.jit, static_argnames=("grid", "sizes"))
def draw_batch(order, keys, known, grid, sizes):
    return jax.vmap(lambda key: order.draw(key, grid, sizes, known))(keys)


def draw(order, grid, sizes, count, known=None, seed=0):
    keys = jax.random.split(jax.random.key(seed), count)
    return np.asarray(draw_batch(order, keys, known, grid, sizes))


def reference_orders(name):
    path = REFERENCE / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"no {path.name} in LPD_REFERENCE_DIR")
    return np.load(path)["orders"].astype(int)


def check(name, orders):
    grid, steps, repulsion = PUBLISHED[name]
    sizes = official(math.prod(grid), steps)
    return first_violation(orders, grid, sizes, proximity=1.0, repulsion=repulsion)


@pytest.mark.parametrize("name", PUBLISHED)
def test_our_orders_are_valid(name):
    grid, steps, repulsion = PUBLISHED[name]
    count = 1024 if grid == (16, 16) else 128
    orders = draw(LocalityAware(1.0, repulsion), grid, official(math.prod(grid), steps), count)
    assert np.all(check(name, orders) == -1)


@pytest.mark.slow
def test_a_thousand_512_pixel_orders_are_valid():
    orders = draw(LocalityAware(1.0, 4.0), (32, 32), official(1024, 48), 1024, seed=1)
    assert np.all(check("orders_512_48steps_rep4", orders) == -1)


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_official_orders_are_valid(name):
    assert np.all(check(name, reference_orders(name)) == -1)


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_corrupted_orders_are_refused(name):
    """Two positions exchanged in each order, where the exchange changes the picks' meaning."""
    orders = reference_orders(name)
    rng = np.random.default_rng(0)
    for order in orders:
        i, j = rng.choice(len(order), 2, replace=False)
        order[[i, j]] = order[[j, i]]
    assert np.mean(check(name, orders) >= 0) == 1.0


def test_other_rules_are_refused():
    sizes = official(256, 20)
    for other in (LocalityAware(1.0, 1.0), LocalityAware(1.5, 2.0), NearContext(), SpreadOnly()):
        violations = check("orders_256_20steps_rep2", draw(other, (16, 16), sizes, 64))
        assert np.mean(violations >= 0) > 0.95


@pytest.mark.parametrize("proximity", [0.0, 0.5, 1.0, 1.5, 7.0])
@pytest.mark.parametrize("repulsion", [0.0, 1.0, 2.5, 100.0])
def test_any_threshold_on_a_rectangle_with_known_cells(proximity, repulsion):
    grid = (5, 9)
    known = np.zeros(45, bool)
    known[[0, 1, 2, 22, 30]] = True
    for context, sizes in ((None, (1, 3, 8, 14, 19)), (known, (4, 9, 12, 15))):
        orders = draw(LocalityAware(proximity, repulsion), grid, sizes, 64, context)
        violations = first_violation(
            orders, grid, sizes, proximity=proximity, repulsion=repulsion, known=context
        )
        assert np.all(violations == -1)


def test_the_halves_obey_their_own_rules():
    sizes = cosine(54, 6)
    near = draw(NearContext(), (6, 9), sizes, 256)
    assert np.all(first_violation(near, (6, 9), sizes, proximity=0.0, repulsion=0) == -1)
    far = draw(SpreadOnly(), (6, 9), sizes, 256)
    rule = {"proximity": np.inf, "repulsion": 0, "scored": False}
    assert np.all(first_violation(far, (6, 9), sizes, **rule) == -1)


def test_near_context_is_no_repulsion_until_the_context_has_no_room():
    """Repulsion 0 spreads once fewer cells are near than the group needs: in the last groups."""
    sizes = official(256, 32)
    near = draw(NearContext(), (16, 16), sizes, 256)
    violations = first_violation(near, (16, 16), sizes, proximity=1.0, repulsion=0)
    assert np.all((violations == -1) | (violations >= sum(sizes[:-3])))


def test_integer_scores_keep_the_order_of_the_real_ones():
    counts = list(itertools.product(range(5), repeat=2))
    real = [sides + diagonals / math.sqrt(2) for sides, diagonals in counts]
    integer = [7 * sides + 5 * diagonals for sides, diagonals in counts]
    assert len(set(integer)) == 25
    np.testing.assert_array_equal(np.argsort(integer), np.argsort(real))


def test_score_counts_neighbours():
    taken = np.zeros((3, 4, 1), bool)
    taken[0, 1] = taken[1, 0] = taken[2, 2] = True
    score = locality._score(jnp.asarray(taken.reshape(12, 1)), (3, 4)).reshape(3, 4)
    np.testing.assert_array_equal(score, [[14, 5, 7, 0], [5, 19, 12, 5], [7, 12, 0, 7]])


def test_probabilities_are_exact_on_a_small_grid():
    """All outcomes of a 2x3 grid in groups of 1, 2 and 3, against the rule run on every shuffle."""
    grid, sizes, draws = (2, 3), (1, 2, 3), 60_000
    expected = Counter()
    for first in range(6):
        rest = [cell for cell in range(6) if cell != first]
        for shuffle in itertools.permutations(rest):
            group = plain_step([first], shuffle, 2, grid)
            left = [cell for cell in rest if cell not in group]
            for last in itertools.permutations(left):
                order = [first, *group, *plain_step([first, *group], last, 3, grid)]
                expected[tuple(order)] += 1
    total = sum(expected.values())
    seen = Counter(map(tuple, draw(LocalityAware(1.0, 1.0), grid, sizes, draws).tolist()))
    assert set(seen) <= set(expected)
    mean = {order: draws * count / total for order, count in expected.items()}
    chi2 = sum((seen[order] - m) ** 2 / m for order, m in mean.items())
    freedom = len(expected) - 1
    assert abs(chi2 - freedom) < 4 * math.sqrt(2 * freedom)


def plain_step(taken, shuffle, size, grid):
    """One step of the rule in plain Python, for thresholds of one and a given shuffle."""

    def distance(a, b):
        return math.dist(divmod(a, grid[1]), divmod(b, grid[1]))

    def score(cell):
        return sum(1 / distance(cell, t) for t in taken if distance(cell, t) < 1.5)

    ranked = sorted(shuffle, key=lambda cell: -round(score(cell), 6))
    near = [cell for cell in ranked if score(cell) >= 1]
    group, skipped = [], []
    while near and len(group) < size:
        cell = near.pop(0)
        close = any(distance(cell, pick) < 1.5 for pick in group)
        (skipped if close else group).append(cell)
    others = [cell for cell in ranked if score(cell) < 1] + skipped + near
    if len(others) <= size - len(group):
        return group + others
    while len(group) < size:
        gaps = [min(distance(cell, pick) for pick in group) for cell in others]
        group.append(others.pop(gaps.index(max(gaps))))
    return group


def test_first_cell_is_uniform():
    first = draw(LocalityAware(), (5, 7), (1, 34), 35_000)[:, 0]
    chi2 = ((np.bincount(first, minlength=35) - 1000) ** 2 / 1000).sum()
    assert chi2 < 34 + 4 * math.sqrt(2 * 34)


def test_order_of_ties_is_uniform():
    """One group and no score: a uniform permutation, here of 4 cells of a larger grid."""
    orders = draw(SpreadOnly(), (1, 40), (40,), 48_000)
    places = np.argsort(orders, 1)[:, [3, 4, 20, 39]]
    counts = np.bincount(np.argsort(places, 1) @ [64, 16, 4, 1], minlength=256)
    counts = counts[counts > 0]
    assert len(counts) == 24
    assert ((counts - 2000) ** 2 / 2000).sum() < 23 + 4 * math.sqrt(2 * 23)


def features(name, orders):
    grid, steps, _ = PUBLISHED[name]
    schedule = Schedule(orders, official(math.prod(grid), steps), grid)
    return np.concatenate(list(statistics(np.asarray(schedule.step_map)).values()), 1)


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_statistics_agree_with_the_official_orders(name):
    grid, steps, repulsion = PUBLISHED[name]
    sizes = official(math.prod(grid), steps)
    theirs = features(name, reference_orders(name))
    ours = features(name, draw(LocalityAware(1.0, repulsion), grid, sizes, 256, seed=2))
    assert same_distribution(ours, theirs) > 0.01
    other = features(name, draw(LocalityAware(1.0, repulsion - 1), grid, sizes, 256, seed=2))
    assert same_distribution(other, theirs) < 0.001


@pytest.mark.parametrize("name", WITH_REFERENCE)
def test_statistics_are_the_reference_ones(name):
    orders = reference_orders(name)
    stored = np.load(REFERENCE / f"{name}.npz")
    rows = ("proximity_per_step", "min_dist_per_step", "frac8_per_step")
    np.testing.assert_allclose(
        features(name, orders), np.concatenate([stored[row] for row in rows], 1), atol=2e-5
    )
