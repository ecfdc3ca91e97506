import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpd_jax.errors import InputError
from lpd_jax.generation import field
from lpd_jax.generation.groups import cosine
from lpd_jax.generation.orders import (
    Field,
    Halton,
    LocalityAware,
    NearContext,
    Random,
    Raster,
    RegionParallel,
    SpreadOnly,
    StaggeredRows,
    Wavefront,
)

GRID = (4, 6)


def near_depends(scale=1.5):
    """A dependence that falls with the distance of two cells."""
    row, col = (axis.ravel() for axis in np.indices(GRID))
    square = (row - row[:, None]) ** 2 + (col - col[:, None]) ** 2
    return np.exp(-np.sqrt(square) / scale) * (square > 0)


ALL = [
    LocalityAware(),
    NearContext(),
    SpreadOnly(),
    Random(),
    Raster(),
    Halton(),
    Halton(rolled=False),
    Wavefront(),
    StaggeredRows(window=2),
    RegionParallel(),
    Field(*field.fixed_point(near_depends(), 0.25)),
]
RANDOM = ALL[:4] + ALL[5:6] + ALL[-1:]


def name(value):
    return "Field" if isinstance(value, Field) else repr(value)


def keys(count):
    return jax.random.split(jax.random.key(7), count)


@pytest.mark.parametrize("order", ALL, ids=name)
@pytest.mark.parametrize("sizes", [cosine(24, 6), (24,), (1,) * 24], ids=len)
def test_is_a_permutation(order, sizes):
    batch = jax.jit(jax.vmap(lambda key: order.draw(key, GRID, sizes)))(keys(3))
    assert batch.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(batch), np.tile(np.arange(24), (3, 1)))


@pytest.mark.parametrize("order", RANDOM, ids=name)
def test_the_batch_is_the_single_draws(order):
    draw = jax.jit(lambda key: order.draw(key, GRID, cosine(24, 6)))
    np.testing.assert_array_equal(jax.vmap(draw)(keys(3)), [draw(key) for key in keys(3)])


@pytest.mark.parametrize("order", RANDOM, ids=name)
def test_random_orders_depend_on_the_key(order):
    drawn = jax.vmap(lambda key: order.draw(key, GRID, cosine(24, 6)))(keys(8))
    assert len(np.unique(drawn, axis=0)) > 4


@pytest.mark.parametrize("order", ALL, ids=name)
def test_known_cells_are_left_out(order):
    known = np.zeros((2, 24), bool)
    known[0, [3, 7, 8]] = known[1, [0, 1, 23]] = True
    draw = jax.vmap(lambda key, known: order.draw(key, GRID, cosine(21, 5), known))
    for drawn, context in zip(jax.jit(draw)(keys(2), jnp.asarray(known)), known, strict=True):
        np.testing.assert_array_equal(np.sort(drawn), np.flatnonzero(~context))


def test_all_unknown_is_the_default():
    order = LocalityAware()
    sizes = cosine(24, 6)
    known = jnp.zeros(24, bool)
    np.testing.assert_array_equal(
        order.draw(keys(1)[0], GRID, sizes), order.draw(keys(1)[0], GRID, sizes, known)
    )


def test_thresholds_are_traced_and_vmap():
    traces = []

    @jax.jit
    def draw(order, key):
        traces.append(1)
        return order.draw(key, GRID, cosine(24, 6))

    key = keys(1)[0]
    singles = [draw(LocalityAware(1.0, r), key) for r in (0.0, 1.0, 3.0)]
    assert len(traces) == 1
    assert len(np.unique(singles, axis=0)) == 3
    reaches = jnp.array([0.0, 1.0, 3.0])
    batch = jax.vmap(lambda r: draw(LocalityAware(1.0, r), key))(reaches)
    np.testing.assert_array_equal(batch, singles)


def test_nested_vmap():
    draw = jax.vmap(lambda key: LocalityAware().draw(key, (2, 3), (1, 5)))
    nested = jax.jit(jax.vmap(draw))(keys(6).reshape(2, 3))
    np.testing.assert_array_equal(nested.reshape(6, 6), jax.jit(draw)(keys(6)))


def test_halton_by_hand():
    order = Halton(rolled=False).draw(keys(1)[0], (2, 3), (1,) * 6)
    # Points (1/2, 1/3), (1/4, 2/3), (3/4, 1/9), (1/8, 4/9), (5/8, 7/9), (3/8, 2/9).
    np.testing.assert_array_equal(order, [4, 2, 3, 1, 5, 0])


def test_halton_covers_the_square_evenly():
    order = np.asarray(Halton(rolled=False).draw(keys(1)[0], (16, 16), cosine(256, 20)))
    quadrant = order[:64] // 128 * 2 + order[:64] % 16 // 8
    assert np.ptp(np.bincount(quadrant)) <= 2


def test_halton_rolls_the_same_cycle():
    still = np.asarray(Halton(rolled=False).draw(keys(1)[0], GRID, cosine(24, 6)))
    for key in keys(4):
        rolled = np.asarray(Halton().draw(key, GRID, cosine(24, 6)))
        np.testing.assert_array_equal(np.roll(rolled, still.tolist().index(rolled[0])), still)


def test_wavefront_rings():
    assert Wavefront().group_sizes((16, 16)) == (*range(1, 17), *range(15, 0, -1))
    order = np.asarray(Wavefront().draw(keys(1)[0], GRID, Wavefront().group_sizes(GRID)))
    assert np.all(np.diff(order // 6 + order % 6) >= 0)


def test_staggered_rows_between_wavefront_and_raster():
    key = keys(1)[0]
    sizes = (1,) * 24
    for window, other in ((1, Wavefront()), (6, Raster())):
        np.testing.assert_array_equal(
            StaggeredRows(window).draw(key, GRID, sizes), other.draw(key, GRID, sizes)
        )
    assert StaggeredRows(6).group_sizes(GRID) == sizes
    assert StaggeredRows(2).group_sizes((3, 4)) == (1, 1, 2, 2, 2, 2, 1, 1)
    np.testing.assert_array_equal(
        StaggeredRows(2).draw(key, (3, 4), (1,) * 12), [0, 1, 2, 4, 3, 5, 6, 8, 7, 9, 10, 11]
    )


def test_region_parallel():
    order = RegionParallel((2, 2))
    assert len(order.group_sizes((24, 24))) == 147  # the paper's step counts
    assert len(RegionParallel((4, 4)).group_sizes((24, 24))) == 51
    drawn = order.draw(keys(1)[0], GRID, order.group_sizes(GRID))
    np.testing.assert_array_equal(drawn[:8], [0, 3, 12, 15, 1, 4, 13, 16])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: Random().draw(k, GRID, (1, 22)), "sum to 23, but there are 24"),
        (lambda k: LocalityAware().draw(k, GRID, (24, 0)), "Group 1 of 2 has size 0"),
        (lambda k: Raster().draw(k, GRID, (1, 2), jnp.zeros(23, bool)), r"needs known\[24\]"),
        (lambda k: Raster().draw(k, GRID, (1, 24), jnp.zeros(24, bool)), "sum to 25"),
        (lambda k: RegionParallel((3, 2)).draw(k, GRID, (24,)), "cannot be cut in 3x2"),
        (lambda k: StaggeredRows(7).draw(k, GRID, (24,)), "choose 1 to 6"),
        (lambda k: LocalityAware().draw(k, (1, 300), (300,)), "too large"),
    ],
)
def test_errors(call, message):
    with pytest.raises(InputError, match=message):
        call(keys(1)[0])
