"""Dropout whose random bits are cheap, and the same however a batch lies on devices.

Dims: B batch, T places.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.random import threefry2x32_p

_LEVELS = 2**16  # of the number that decides a unit
_FIELDS = 4  # such numbers in one evaluation of threefry


def keep_levels(rate: float) -> int:
    """How many of the 65,536 levels keep a unit."""
    return round((1 - rate) * _LEVELS)


def draws(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform numbers uint32 in [0, 65536) of shape [B, T, ...].

    `jax.random.bits` evaluates threefry for every unit and keeps 32 of its 64 bits. Here one
    evaluation decides four units, a quarter of the places each. Image b counts by itself, so that
    numbers depend on key and shape of an image, and a device draws those of its own images alone.
    """
    batch, places, *rest = shape
    words = jax.random.bits(key, (2,), jnp.uint32)
    some = (batch, -(-places // _FIELDS), *rest)
    image = jax.lax.broadcasted_iota(jnp.uint32, some, 0)
    unit, stride = jnp.uint32(0), 1
    for axis in range(len(some) - 1, 0, -1):
        unit = unit + jnp.uint32(stride) * jax.lax.broadcasted_iota(jnp.uint32, some, axis)
        stride *= some[axis]
    words = (jax.lax.broadcast_in_dim(word, some, ()) for word in words)
    high, low = threefry2x32_p.bind(*words, image, unit)
    mask = jnp.uint32(_LEVELS - 1)
    fields = [high & mask, high >> 16, low & mask, low >> 16]
    return jnp.concatenate(fields, axis=1)[:, :places]


class Dropout(nn.Module):
    """`flax.linen.Dropout` with the draws of `draws`.

    Attributes:
        rate: probability of a unit to be dropped, to the nearest 1 / 65,536.
        deterministic: drop none.
    """

    rate: float
    deterministic: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, ...] -> the same; units that are left are scaled so that the mean stays."""
        kept = keep_levels(self.rate)
        if self.deterministic or kept == _LEVELS:
            return x
        if kept == 0:
            return jnp.zeros_like(x)
        keep = draws(self.make_rng("dropout"), x.shape) < kept
        return jnp.where(keep, x / jnp.asarray(kept / _LEVELS, x.dtype), jnp.zeros_like(x))
