"""Orders drawn with groups that are data, and mixtures of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpd_jax.errors import InputError
from lpd_jax.generation import mixture, orders
from lpd_jax.generation.groups import cosine, step_of, uniform
from lpd_jax.generation.validity import first_violation

GROUPED = [
    orders.LocalityAware(1.0, 1.0),
    orders.LocalityAware(1.5, 2.0),
    orders.NearContext(),
    orders.SpreadOnly(),
]
GRID = (5, 8)
SIZES = [(1,) * 40, cosine(40, 7), uniform(40, 3), (2, 38), (40,)]


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize("order", [*GROUPED, orders.Halton(), orders.Random()], ids=repr)
def test_groups_as_data_give_the_order_of_the_same_groups(order):
    """All schedules in one batch, each image with its own: to the bit what each gives alone."""
    steps = np.stack([step_of(sizes) for sizes in SIZES])
    every = keys(8 * len(SIZES)).reshape(len(SIZES), 8)
    by_step = functools.partial(orders.draw_by_step, order)
    run = jax.jit(jax.vmap(lambda key, step_of: by_step(key, GRID, step_of)))
    found = run(every.ravel(), np.repeat(steps, 8, axis=0)).reshape(len(SIZES), 8, 40)
    for own, sizes, found_here in zip(every, SIZES, found, strict=True):
        alone = jax.vmap(lambda key, sizes=sizes: order.draw(key, GRID, sizes))(own)
        np.testing.assert_array_equal(found_here, alone)


def drawn(draw, sizes, count, seed=0):
    steps = jnp.asarray(step_of(sizes))
    return np.asarray(jax.jit(jax.vmap(lambda key: draw(key, steps)))(keys(count, seed)))


def test_the_shares_are_those_of_the_weights():
    """Raster is told from the others by its order, random by the order it has alone."""
    shares = mixture.check_weights((1, 2, 5), ("raster", "random", "locality"))
    chosen = [orders.Raster(), orders.Random(), orders.LocalityAware()]
    found = drawn(mixture.mixture(chosen, shares, GRID), SIZES[1], 4000)
    alone = np.asarray(jax.vmap(lambda key: jax.random.permutation(key, 40))(keys(4000)))
    raster, random = (found == np.arange(40)).all(1), (found == alone).all(1)
    rest = found[~raster & ~random]
    for share, here in zip((1 / 8, 2 / 8, 5 / 8), (raster, random, ~raster & ~random), strict=True):
        assert abs(here.mean() - share) < 4 * np.sqrt(share * (1 - share) / 4000)
    assert (first_violation(rest, GRID, SIZES[1], proximity=1.0, repulsion=2.0) == -1).all()
    # A uniformly random order is none of the rule's: the check above can fail.
    assert (first_violation(alone, GRID, SIZES[1], proximity=1.0, repulsion=2.0) >= 0).all()


def test_an_order_without_a_share_is_never_drawn():
    shares = mixture.check_weights((0, 1), ("raster", "random"))
    draw = mixture.mixture([orders.Raster(), orders.Random()], shares, GRID)
    alone = jax.vmap(lambda key: jax.random.permutation(key, 40))(keys(500))
    np.testing.assert_array_equal(drawn(draw, SIZES[1], 500), alone)


def test_equal_shares_by_default():
    assert mixture.check_weights((), ("random", "locality")) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ((1.0,), "1 weights for the 2 orders"),
        ((1.0, -0.5), r"order_weights=-0\.5"),
        ((1.0, float("nan")), "order_weights=nan"),
        ((0, 0), "all 0"),
    ],
)
def test_weights_that_are_no_shares_are_refused(weights, says):
    with pytest.raises(InputError, match=says):
        mixture.check_weights(weights, ("random", "locality"))
