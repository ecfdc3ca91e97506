"""The vector quantiser: nearest codebook row, straight-through gradient, training losses.

B batch, h w token grid, N = h*w tokens, E code dimension, V codebook entries.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct


@struct.dataclass
class Quantized:
    """What the quantiser knows about a batch.

    latents: float32 [B, h, w, E], the chosen codebook rows with straight-through gradient.
    codes: int32 [B, h, w] in [0, V).
    inputs: float32 [B, h, w, E], what was quantised, on the unit sphere if the rows are.
    vq, commitment, entropy: float32 scalars, already weighted; their sum is the training loss.
    """

    latents: jax.Array
    codes: jax.Array
    inputs: jax.Array
    vq: jax.Array
    commitment: jax.Array
    entropy: jax.Array


class VectorQuantizer(nn.Module):
    """Nearest-neighbour quantiser (official `VectorQuantizer`), in float32 whatever comes in.

    With `l2_normalize` both latents and codebook rows lie on the unit sphere.
    """

    codebook_size: int
    codebook_dim: int
    l2_normalize: bool = True
    commitment: float = 0.25
    entropy: float = 0.1
    entropy_temperature: float = 0.01

    def setup(self):
        self.embedding = self.param(
            "embedding", self._init_codebook, (self.codebook_size, self.codebook_dim)
        )

    def __call__(self, latents):
        """latents [B, h, w, E] -> `Quantized` with the training losses."""
        latents, codebook = self._normalize(latents.astype(jnp.float32)), self.codebook()
        distances = squared_distances(latents, codebook)
        codes = jnp.argmin(distances, axis=-1)
        chosen = codebook[codes]
        stop = jax.lax.stop_gradient
        return Quantized(
            latents=latents + stop(chosen - latents),
            codes=codes,
            inputs=latents,
            vq=jnp.mean((chosen - stop(latents)) ** 2),
            commitment=self.commitment * jnp.mean((stop(chosen) - latents) ** 2),
            entropy=self.entropy * entropy_loss(distances, self.entropy_temperature),
        )

    def nearest(self, latents):
        """latents [B, h, w, E] -> codes int32 [B, h, w]."""
        latents = self._normalize(latents.astype(jnp.float32))
        return jnp.argmin(squared_distances(latents, self.codebook()), axis=-1)

    def lookup(self, codes):
        """codes int [...] in [0, V) -> float32 [..., E]."""
        return self.codebook()[codes]

    def codebook(self):
        """The rows that codes stand for, float32 [V, E]."""
        return self._normalize(self.embedding)

    def _normalize(self, x):
        if not self.l2_normalize:
            return x
        # The floor is inside the root: the gradient of a norm is NaN at the origin.
        return x / jnp.sqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), 1e-24))

    def _init_codebook(self, key, shape):
        bound = 1 / self.codebook_size
        return self._normalize(jax.random.uniform(key, shape, minval=-bound, maxval=bound))


def squared_distances(x, rows):
    """x [..., E], rows [V, E] -> squared Euclidean distances [..., V]."""
    # Two rows can be closer than a TF32 or bfloat16 product resolves, and the product is tiny.
    products = jnp.einsum("...e,ve->...v", x, rows, precision="highest")
    return jnp.sum(x**2, axis=-1, keepdims=True) + jnp.sum(rows**2, axis=-1) - 2 * products


def entropy_loss(distances, temperature):
    """Mean entropy of each token's soft assignment minus the entropy of the mean assignment.

    distances [..., V]; low when tokens are certain of their code and all codes are used.
    """
    log_probs = jax.nn.log_softmax(-distances.reshape(-1, distances.shape[-1]) / temperature)
    probs = jnp.exp(log_probs)
    mean = jnp.mean(probs, axis=0)
    per_token = -jnp.mean(jnp.sum(probs * log_probs, axis=-1))
    return per_token + jnp.sum(mean * jnp.log(mean + 1e-5))
