"""Filters, guidance and draws; `tests/parity` compares the filters with the official ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lpd_jax.errors import InputError
from lpd_jax.generation.sampling import filter_logits, guidance_scale, guide, sample, sampling_rule


def test_linear_guidance_grows_from_one():
    scale = guidance_scale(sampling_rule(guidance=4.8), jnp.arange(256), 256)
    assert scale[0] == 1
    assert scale[-1] == pytest.approx(1 + 3.8 * 255 / 256)


def test_constant_guidance_does_not():
    rule = sampling_rule(guidance=3.0, guidance_schedule="constant")
    assert set(np.asarray(guidance_scale(rule, jnp.arange(9), 9))) == {3.0}


def test_guidance_extrapolates_from_the_unguided_branch():
    with_class, without = jnp.ones((2, 3, 4)), jnp.full((2, 3, 4), 0.5)
    guided = guide(with_class, without, jnp.array([1.0, 2.0, 0.0]))
    np.testing.assert_allclose(guided[0, :, 0], [1.0, 1.5, 0.5])


def test_numbers_of_a_rule_are_of_one_kind():
    """Whatever is asked for, the programs see the same tree, so that none is compiled anew."""
    rules = [sampling_rule(guidance=g, top_p=p) for g, p in ((1, 0.5), (2.5, 0.9), (1.0, 0.99))]
    assert len({str(jax.tree.map(jax.typeof, rule)) for rule in rules}) == 1
    assert sampling_rule(guidance=None).guidance is None
    assert sampling_rule(top_p=1).top_p is sampling_rule(top_p=None).top_p is None


def test_a_nucleus_of_everything_keeps_every_code():
    logits = 30 * jax.random.normal(jax.random.key(0), (2, 3, 50))
    run = jax.jit(filter_logits, static_argnums=1)
    np.testing.assert_array_equal(run(logits, 0, jnp.float32(1.0)), logits)
    assert np.isinf(run(logits, 0, jnp.float32(0.9))).any() and run._cache_size() == 1


def test_the_nucleus_takes_equal_logits_in_the_order_of_their_codes():
    logits = jnp.array([[0.0, 0.0, 5.0, -0.0, 0.0], [1.0, 1.0, 1.0, 1.0, -jnp.inf]])
    kept = np.isfinite(filter_logits(logits, top_p=jnp.float32(0.985)))
    assert kept.tolist() == [[True, True, True, False, False], [True, True, True, True, False]]


def test_a_draw_is_the_best_of_logits_and_gumbel_noise():
    logits = jax.random.normal(jax.random.key(1), (2, 5, 50))
    keys = jax.random.split(jax.random.key(0), 2)
    drawn = sample(logits, keys, jnp.arange(5), sampling_rule())
    for b, q in np.ndindex(2, 5):
        noise = jax.random.gumbel(jax.random.fold_in(keys[b], q), (50,))
        assert drawn[b, q] == np.argmax(logits[b, q] + noise)


def test_nucleus_keeps_the_code_that_crosses_the_line():
    logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
    kept = np.isfinite(filter_logits(logits, top_p=jnp.float32(0.6)))
    assert kept.tolist() == [True, True, False, False]
    assert np.isfinite(filter_logits(logits, top_p=jnp.float32(1e-6))).sum() == 1


def test_top_k_keeps_ties():
    kept = np.isfinite(filter_logits(jnp.array([1.0, 3.0, 3.0, 2.0, 3.0]), top_k=2))
    assert kept.tolist() == [False, True, True, False, True]


def test_draws_follow_the_distribution():
    logits = jnp.array([0.0, 1.0, -1.0, 2.0])
    keys = jax.random.split(jax.random.key(0), 4000)
    rule = sampling_rule(temperature=0.7)
    drawn = sample(jnp.broadcast_to(logits, (4000, 1, 4)), keys, jnp.arange(1), rule)
    weights = np.exp(np.float64(logits) / 0.7)
    expected = 4000 * weights / weights.sum()
    assert stats.chisquare(np.bincount(drawn[:, 0], minlength=4), expected).pvalue > 1e-3


def test_a_draw_is_addressed_by_key_and_position():
    logits = jax.random.normal(jax.random.key(1), (2, 5, 50))
    keys = jax.random.split(jax.random.key(0), 2)
    rule = sampling_rule()
    whole = sample(logits, keys, jnp.arange(5), rule)
    part = sample(logits[1:, 2:], keys[1:], jnp.arange(2, 5), rule)
    np.testing.assert_array_equal(whole[1:, 2:], part)


def test_temperature_zero_takes_the_best():
    logits = jax.random.normal(jax.random.key(1), (3, 5, 50))
    drawn = sample(
        logits, jax.random.split(jax.random.key(0), 3), jnp.arange(5), sampling_rule(temperature=0)
    )
    np.testing.assert_array_equal(drawn, jnp.argmax(logits, -1))


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"temperature": -0.1},
        {"guidance": -1.0},
        {"guidance_schedule": "cosine"},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": 1e39},
        {"guidance": float("nan")},
        {"guidance": float("inf")},
        {"guidance": "x"},
        {"guidance": True},
        {"top_p": float("nan")},
        {"top_k": 2.5},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(InputError):
        sampling_rule(**wrong)
