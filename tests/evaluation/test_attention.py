"""Attention by distance: shares that add up, and a decoder made to look at its neighbours only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpd_jax.evaluation import attention
from lpd_jax.viz.attention import locality


@pytest.fixture(scope="module")
def batch():
    draw = np.random.default_rng(0)
    orders = np.stack([draw.permutation(24) for _ in range(3)]).astype(np.int32)
    return draw.integers(0, 32, (3, 24)).astype(np.int32), np.int32([0, 4, 5]), orders


@pytest.fixture(scope="module")
def found(decoder, decoder_params, batch):
    return attention.reach(decoder, decoder_params, [batch, batch])


def test_shares_of_a_query_add_up_to_one(found):
    assert found.per_token.shape == (2, 4, 7) == found.mass.shape
    total = found.mass.sum(-1) + found.to_class + found.to_itself
    np.testing.assert_allclose(total, 1, atol=1e-5)
    assert (found.mass[..., 0] == 0).all() and np.isnan(found.per_token[..., 0]).all()
    np.testing.assert_allclose(found.within(6), 1, atol=1e-6)
    assert (np.diff([found.within(d) for d in range(7)], axis=0) >= 0).all()


def test_attention_without_scores_is_even(decoder, decoder_params, batch):
    """With keys of zero every visible place gets the same: one of so many as there are."""
    blocks = decoder_params["blocks"]
    silent = jax.tree.map(jnp.zeros_like, blocks["qkv"])
    params = decoder_params | {"blocks": blocks | {"qkv": silent}}
    found = attention.reach(decoder, params, [batch])
    shares = 1 / np.arange(2, 26)  # query i sees the class, i tokens and itself
    np.testing.assert_allclose(found.to_class, shares.mean(), rtol=1e-5)
    np.testing.assert_allclose(found.to_itself, shares.mean(), rtol=1e-5)
    *_, orders = batch
    apart, by_hand = attention.distances((4, 6)), []
    for order in orders:
        for i in range(24):
            count = (apart[order[i], order[:i]] == 2).sum()
            by_hand += [1 / (i + 2)] * bool(count)
    np.testing.assert_allclose(found.per_token[..., 2], np.mean(by_hand), rtol=1e-5)


def test_distances_are_euclidean_and_rounded():
    apart = attention.distances((4, 6))
    assert apart[0, 1] == apart[0, 7] == 1 and apart[0, 23] == 6 and (apart == apart.T).all()


def test_the_picture_has_a_curve_for_each_layer(found):
    figure = locality(found.per_token, found.within(3), 3)
    left, right, _ = figure.axes
    assert (
        len(left.lines) == 2 and left.get_xlabel() and right.images[0].get_array().shape == (2, 4)
    )
