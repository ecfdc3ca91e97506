"""Matrix products whose kernels keep the names of their axes."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp


def logical(init, *axes):
    """Initialiser whose parameter carries the logical names of its axes."""
    return nn.with_logical_partitioning(init, axes)


class Linear(nn.Module):
    """`x @ kernel + bias` with a kernel whose axes keep their names and so can be sharded apart.

    Attributes:
        equation: einsum of the input and the kernel.
        shape: of the kernel, contracted axes first.
        axes: logical names of the kernel's axes.
        contracted: how many axes are contracted.
        dtype: of the product.
        bias: add one, of the shape that is left.
    """

    equation: str
    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    contracted: int = 1
    dtype: str = "float32"
    bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Float32 without a bias (the logits), `dtype` with one."""
        split = self.contracted
        flat = math.prod(self.shape[:split]), math.prod(self.shape[split:])

        def xavier(key, shape, dtype=jnp.float32):
            return nn.initializers.xavier_uniform()(key, flat, dtype).reshape(shape)

        kernel = self.param("kernel", logical(xavier, *self.axes), self.shape)
        x = x.astype(self.dtype)
        if hasattr(kernel, "einsum"):  # an int8 kernel brings its own product, see `quantize.py`
            y = kernel.einsum(self.equation, x)
        else:
            y = jnp.einsum(
                self.equation, x, kernel.astype(self.dtype), preferred_element_type=jnp.float32
            )
        if not self.bias:
            return y
        zeros = logical(nn.initializers.zeros, *self.axes[split:])
        return (y + self.param("bias", zeros, self.shape[split:])).astype(self.dtype)
