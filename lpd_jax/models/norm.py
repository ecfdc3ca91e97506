"""Layer normalisation whose row means are matrix products."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lpd_jax.models.linear import logical


class LayerNorm(nn.Module):
    """`flax.linen.LayerNorm` over the last axis, equal to it to float32 rounding.

    XLA's CPU backend computes the sums of rows slowly where they cannot go to YNNPACK
    (`docs/versions.md`) and their products with a constant vector fast; on accelerators XLA turns
    such a product into a sum again.

    Attributes:
        epsilon: added to the variance.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Float32 [..., D] -> the same, with mean 0 and variance 1, times scale, plus bias."""
        width = x.shape[-1]
        scale = self.param("scale", logical(nn.initializers.ones, "embed"), (width,))
        bias = self.param("bias", logical(nn.initializers.zeros, "embed"), (width,))
        one = jnp.full((width, 1), 1 / width, x.dtype)

        def mean(rows: jax.Array) -> jax.Array:
            return jnp.matmul(rows, one, precision="highest")

        # Two passes: E[x^2] - E[x]^2 cancels where the mean is large.
        centred = x - mean(x)
        return centred * jax.lax.rsqrt(mean(centred * centred) + self.epsilon) * scale + bias
