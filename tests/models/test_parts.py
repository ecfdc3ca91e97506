"""The parts of a block: GELU in bfloat16, dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from scipy.special import ndtr

from lpd_jax import parallel
from lpd_jax.models.dropout import Dropout, draws
from lpd_jax.models.gelu import gelu


def test_gelu_in_bfloat16_is_the_exact_one_to_below_its_rounding():
    """Every bfloat16 in [-40, 40]: value and derivative, before and after rounding."""
    every = jax.lax.bitcast_convert_type(jnp.arange(2**16, dtype=jnp.uint16), jnp.bfloat16)
    every = every[jnp.isfinite(every) & (jnp.abs(every) <= 40)]
    x = np.asarray(every, np.float64)
    exact, slope = x * ndtr(x), ndtr(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    value, derivative = jax.vmap(jax.value_and_grad(lambda x: gelu(x).astype(jnp.float32)))(every)
    half = np.abs(exact) * 2.0**-8  # the most that rounding may change
    assert (np.abs(np.asarray(value, np.float64) - exact) <= half + 4e-6).all()
    assert np.abs(np.asarray(derivative, np.float64) - slope).max() < 2.0**-8 * 1.13
    # Of results that are no rounding of the exact one nearly none, and those are its neighbours.
    wanted = np.asarray(jnp.asarray(exact, jnp.float32).astype(jnp.bfloat16), np.float64)
    large = np.abs(exact) > 1e-3
    assert np.mean((np.asarray(value, np.float64) != wanted)[large]) < 0.01


def test_gelu_in_float32_is_the_exact_one():
    x = jnp.linspace(-8, 8, 1001)
    np.testing.assert_allclose(gelu(x), np.asarray(x) * ndtr(np.asarray(x)), rtol=0, atol=1e-6)


def test_draws_are_uniform():
    """By each of their bytes."""
    x = np.asarray(draws(jax.random.key(0), (8, 64, 512)))
    expected = x.size / 256
    for shift in (0, 8, 16, 24):
        counts = np.bincount(x.ravel() >> shift & 255, minlength=256)
        assert ((counts - expected) ** 2 / expected).sum() < 255 + 5 * np.sqrt(2 * 255)


def test_draws_are_independent():
    """As numbers and as decisions: of pairs, and of the corners of rectangles, whose numbers are
    mixed from two of places and two of units."""
    first, second = (np.asarray(draws(jax.random.key(k), (8, 64, 512))) for k in (0, 1))
    for name, view in (
        ("number", lambda x: x / 2.0**32 - 0.5),
        ("kept", lambda x: x < 0.9 * 2**32),
    ):
        centred, other = ((v - v.mean()) / v.std() for v in map(view, (first, second)))
        rows = centred[:, 1:] * centred[:, :-1]
        products = {
            "image": centred[1:] * centred[:-1],
            "place": rows,
            "unit": centred[..., 1:] * centred[..., :-1],
            "unit, 128 apart": centred[..., 128:] * centred[..., :-128],
            "rectangle": rows[..., 1:] * rows[..., :-1],
            "large rectangle": rows[:, :32, 200:] * rows[:, :32, :-200],
            "key": centred * other,
        }
        for pair, product in products.items():
            # A product of independent ones has the standard deviation 1.
            assert abs(product.mean()) < 5 / np.sqrt(product.size), (name, pair)


def test_shares_of_places_and_units_scatter_as_binomials():
    kept = np.asarray(draws(jax.random.key(2), (4, 256, 1024))) < 0.9 * 2**32
    for axis, count in (((2,), 1024), ((0, 1), 1024), ((1, 2), 256 * 1024)):
        shares = kept.mean(axis=axis)
        assert abs(shares.mean() - 0.9) < 5 * np.sqrt(0.09 / kept.size)
        scatter = shares.var() / (0.09 / count)
        assert abs(scatter - 1) < 5 * np.sqrt(2 / shares.size)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_dropout_keeps_the_mean_and_drops_its_share(rate):
    x = jnp.ones((4, 63, 1000))
    y = np.asarray(Dropout(rate).apply({}, x, rngs={"dropout": jax.random.key(3)}))
    assert np.mean(y == 0) == pytest.approx(rate, abs=5 * np.sqrt(0.25 / y.size))
    if rate < 1:
        np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=2e-5)
    np.testing.assert_array_equal(Dropout(rate, deterministic=True).apply({}, x), x)


def test_dropout_is_the_same_on_any_devices_and_for_more_images():
    x, key = jnp.ones((8, 30, 64)), jax.random.key(5)
    run = jax.jit(lambda x: Dropout(0.3).apply({}, x, rngs={"dropout": key}))
    alone = run(x)
    mesh = parallel.make_mesh(parallel.MeshConfig(data=4, tensor=2))
    cut = jax.device_put(x, jax.sharding.NamedSharding(mesh, P("data", None, "tensor")))
    text = run.lower(cut).compile().as_text()
    assert "all-" not in text and "collective" not in text
    np.testing.assert_array_equal(run(cut), alone)
    np.testing.assert_array_equal(run(jnp.ones((16, 30, 64)))[:8], alone)
