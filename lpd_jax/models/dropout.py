"""Dropout whose random numbers are cheap, and the same however a batch lies on devices.

Dims: B batch, T places, F units of a place.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.random import threefry2x32_p

_LEVELS = 2**32  # of the number that decides a unit


def keep_levels(rate: float) -> int:
    """How many of the 2^32 levels keep a unit."""
    return round((1 - rate) * _LEVELS)


def draws(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform numbers uint32 of shape [B, T, F].

    `jax.random.bits` evaluates threefry, of some hundred operations, for every unit; on TPUs that
    costs more than the product that is dropped from. Here threefry numbers the places and the
    units, and a finaliser of seven operations ("lowbias32" of C. Wellons' hash prospector) mixes
    the two numbers. Image b counts by itself, so that numbers depend on key and shape of an image,
    and a device draws those of its own images alone.
    """
    batch, places, units = shape
    words = jax.random.bits(key, (4,), jnp.uint32)
    iota = jax.lax.broadcasted_iota
    place = _threefry(words[:2], *(iota(jnp.uint32, (batch, places), axis) for axis in (0, 1)))
    unit = _threefry(words[2:], iota(jnp.uint32, (units,), 0), jnp.zeros(units, jnp.uint32))
    # Computed once, and not again wherever XLA fuses what follows.
    place, unit = jax.lax.optimization_barrier((place, unit))
    x = place[..., None] ^ unit
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _threefry(words: jax.Array, high: jax.Array, low: jax.Array) -> jax.Array:
    """One word of threefry2x32 at the counters (high, low), keyed by two words."""
    first, second = (jax.lax.broadcast_in_dim(word, high.shape, ()) for word in words)
    return threefry2x32_p.bind(first, second, high, low)[0]


class Dropout(nn.Module):
    """`flax.linen.Dropout` with the draws of `draws`.

    Attributes:
        rate: probability of a unit to be dropped.
        deterministic: drop none.
    """

    rate: float
    deterministic: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, F] -> the same; units that are left are scaled so that the mean stays."""
        kept = keep_levels(self.rate)
        if self.deterministic or kept == _LEVELS:
            return x
        if kept == 0:
            return jnp.zeros_like(x)
        keep = draws(self.make_rng("dropout"), x.shape) < jnp.uint32(kept)
        return jnp.where(keep, x / jnp.asarray(kept / _LEVELS, x.dtype), jnp.zeros_like(x))
