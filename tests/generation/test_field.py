"""Orders from pairwise dependence: the rule, its data, and what it says to other devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpd_jax import parallel
from lpd_jax.compiled import hlo
from lpd_jax.errors import InputError
from lpd_jax.generation import field
from lpd_jax.generation.addresses import draw_orders
from lpd_jax.generation.groups import step_of
from lpd_jax.generation.orders import Field, draw_by_step
from lpd_jax.generation.validity import first_field_violation

GRID, SIZES = (4, 5), (1, 3, 6, 10)


def symmetric(seed=0, cells=20):
    values = np.random.default_rng(seed).exponential(size=(cells, cells)) ** 2
    np.fill_diagonal(values, 0)
    return values + values.T


@functools.partial(jax.jit, static_argnames="sizes")
def drawn(order, sizes, known=None):
    keys = jax.random.split(jax.random.key(5), 16)
    return jax.vmap(lambda key: order.draw(key, GRID, sizes, known))(keys)


@pytest.mark.parametrize("context", [0.0, 0.3, -2.0])
def test_every_pick_is_one_that_the_rule_allows(context):
    order = Field(*field.fixed_point(symmetric(), context))
    orders = np.asarray(drawn(order, SIZES))
    rule = order.squares, order.context
    assert (first_field_violation(orders, SIZES, *rule) == -1).all()
    # Picks of two groups exchanged, and the orders of other rules, are refused.
    swapped = orders[:, [0, 1, 2, 3, 11, *range(5, 11), 4, *range(12, 20)]]
    assert (first_field_violation(swapped, SIZES, *rule) >= 0).all()
    other = np.asarray(drawn(Field(*field.fixed_point(symmetric(1), context)), SIZES))
    assert (first_field_violation(other, SIZES, *rule) >= 0).all()
    known = np.isin(np.arange(20), (2, 3, 7, 19))
    edited = np.asarray(drawn(order, (6, 10), jnp.asarray(known)))
    assert (first_field_violation(edited, (6, 10), *rule, known=known) == -1).all()
    if context:
        assert (first_field_violation(edited, (6, 10), *rule, known=known[::-1]) >= 0).any()


def test_a_group_holds_less_dependence_than_a_random_one():
    dependence = symmetric()
    orders = np.asarray(drawn(Field(*field.fixed_point(dependence, 0.0)), SIZES))
    last = orders[:, 4:10]
    inside = dependence[last[:, :, None], last[:, None]].sum((1, 2)).mean() / (6 * 5)
    assert inside < 0.5 * dependence.sum() / (20 * 19)


def test_groups_as_data_give_the_same_orders():
    order = Field(*field.fixed_point(symmetric(), 0.5))
    keys = jax.random.split(jax.random.key(5), 16)
    draw = jax.jit(lambda key, steps: draw_by_step(order, key, GRID, steps))
    steps = jnp.asarray(step_of(SIZES))
    same = jax.vmap(draw, (0, None))(keys, steps)
    np.testing.assert_array_equal(same, drawn(order, SIZES))


def test_other_numbers_compile_nothing_and_devices_do_not_wait():
    mesh = parallel.make_mesh(parallel.MeshConfig(data=8))
    order = Field(*field.fixed_point(symmetric(), 0.5))
    other = Field(*field.fixed_point(symmetric(1), -1))
    with parallel.use(mesh):
        indices = jax.device_put(jnp.arange(16), parallel.batch_sharding(mesh))
        given = jax.random.key(0), indices, GRID, SIZES
        text = draw_orders.lower(order, *given).compile().as_text()
        assert hlo.loop_collectives(text) == []
        before = draw_orders._cache_size()
        spread_out = jax.device_get([draw_orders(o, *given) for o in (order, other)])
        assert draw_orders._cache_size() == before + 1
    alone = [draw_orders(o, given[0], jnp.arange(16), GRID, SIZES) for o in (order, other)]
    np.testing.assert_array_equal(spread_out, alone)
    assert (spread_out[0] != spread_out[1]).any()


def test_a_field_is_read_as_it_was_written(tmp_path):
    field.write(tmp_path / "field.npy", symmetric())
    read = field.read(tmp_path / "field.npy")
    np.testing.assert_array_equal(read, symmetric().astype(np.float32))
    # Units do not matter.
    np.testing.assert_array_equal(
        field.fixed_point(symmetric(), 0)[0], field.fixed_point(8 * symmetric(), 0)[0]
    )
    assert field.fixed_point(np.zeros((3, 3)), 0)[0].max() == 0
    (tmp_path / "text.npy").write_text("no array")
    for name in ("text.npy", "absent.npy"):
        with pytest.raises(InputError, match=r"no field of dependence in .*fit_order"):
            field.read(tmp_path / name)


@pytest.mark.parametrize(
    ("dependence", "context", "words"),
    [
        (np.zeros((3, 4)), 0, r"float\[N, N\], not float64 \[3, 4\]"),
        (np.zeros((3, 3), int), 0, r"not int64"),
        (np.array([[0.0, 1], [2, 0]]), 0, "symmetric"),
        (np.array([[0.0, -1], [-1, 0]]), 0, "nowhere below 0"),
        (np.array([[0.0, np.nan], [np.nan, 0]]), 0, "finite"),
        (np.zeros((3, 3)), 4.5, "context=4.5"),
        (np.zeros((3, 3)), float("nan"), "context=nan"),
    ],
)
def test_what_is_no_field_is_refused(dependence, context, words):
    with pytest.raises(InputError, match=words):
        field.fixed_point(dependence, context)


def test_a_field_of_another_grid_is_refused():
    with pytest.raises(InputError, match="of 9 cells, and a 4x5 grid has 20"):
        Field(*field.fixed_point(symmetric(cells=9), 0)).draw(jax.random.key(0), GRID, SIZES)
