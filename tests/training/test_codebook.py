"""Codes that are not used, and their new beginning."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpd_jax.errors import InputError
from lpd_jax.training.codebook import USAGE, Restart, restarts, shares, with_usage


def params(size=4):
    return with_usage({"quantizer": {"embedding": jnp.arange(2.0 * size).reshape(size, 2)}})


@jax.jit
def moved(params, codes, step):
    """After a step in which images had these codes."""
    latents = jnp.stack([-1.0 - codes, jnp.arange(len(codes)) + 0.5], -1)
    seen = {"codes": codes, "latents": latents}
    after = restarts(Restart(every=3, below=0.5, decay=0.25))
    return after(params, seen, jax.random.key(step), types.SimpleNamespace(step=step))


def test_shares_are_averaged_and_dead_codes_become_latents():
    codes = jnp.array([0, 0, 1, 0, 1, 0])
    np.testing.assert_allclose(shares(codes, 4), [4 / 6, 2 / 6, 0, 0])
    before = params()
    once = moved(before, codes, 0)
    np.testing.assert_allclose(once[USAGE], 0.25 / 4 + 0.75 * shares(codes, 4), rtol=1e-6)
    rows = before["quantizer"]["embedding"]
    np.testing.assert_array_equal(once["quantizer"]["embedding"], rows)
    new = moved(once, codes, 2)
    found = np.asarray(new["quantizer"]["embedding"])
    np.testing.assert_array_equal(found[:2], rows[:2])
    assert (found[2:, 0] < 0).all() and found[2, 1] != found[3, 1]  # latents, not the same twice
    np.testing.assert_allclose(new[USAGE][2:], 1 / 4)
    assert (moved(once, codes, 2)["quantizer"]["embedding"] == found).all()


def test_more_dead_codes_than_latents():
    new = moved(params(8), jnp.array([0, 0]), 2)
    assert (new["quantizer"]["embedding"][1:, 0] == -1).all()


def test_restarts_that_cannot_be():
    for wrong, name in (({"every": -1}, "restart_every"), ({"below": 0.0}, "restart_below")):
        with pytest.raises(InputError, match=f"tokenizer_loss.{name}"):
            Restart(**wrong)
