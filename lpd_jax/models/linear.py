"""Matrix products whose kernels keep the names of their axes."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec


def logical(init, *axes):
    """Initialiser whose parameter carries the logical names of its axes."""
    return nn.with_logical_partitioning(init, axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def product(
    equation: str, x: jax.Array, kernel: jax.Array, axes: tuple[str | None, ...]
) -> jax.Array:
    """An einsum in the dtype of `x`, with a kernel that may be cut over the batch's mesh axes.

    Such a kernel is cast where it lies, then gathered (half the bytes in bfloat16), and gathered
    again in the backward pass. Left to itself XLA cuts the product into one for each part and
    passes float32 kernels around, or keeps what it gathered.

    Args:
        equation: of the einsum.
        x: input.
        kernel: float32.
        axes: logical names of the kernel's axes.

    Returns:
        float32.
    """
    return _einsum(equation, x, _gathered(kernel, x.dtype, axes))


def _einsum(equation, x, kernel):
    return jnp.einsum(equation, x, kernel, preferred_element_type=jnp.float32)


def _gathered(kernel, dtype, axes):
    return _constrain(_constrain(kernel.astype(dtype), axes), axes, whole=True)


def _forward(equation, x, kernel, axes):
    return product(equation, x, kernel, axes), (x, kernel)


def _backward(equation, axes, residuals, gradient):
    x, kernel = residuals
    whole = _gathered(kernel, x.dtype, axes)
    of_x, of_kernel = jax.vjp(functools.partial(_einsum, equation), x, whole)[1](gradient)
    return of_x, _constrain(of_kernel.astype(kernel.dtype), axes)


product.defvjp(_forward, _backward)


def _constrain(kernel: jax.Array, axes: tuple[str | None, ...], whole: bool = False) -> jax.Array:
    """Where a kernel lies; `whole`: not cut over the mesh axes of the batch."""
    if jax.sharding.get_abstract_mesh().empty:
        return kernel
    (rows,) = nn.logical_to_mesh_axes(("batch",)) or (None,)
    cut = {rows} if isinstance(rows, str) else set(rows or ())
    places = [
        () if place is None else (place,) if isinstance(place, str) else tuple(place)
        for place in nn.logical_to_mesh_axes(axes)
    ]
    if whole:
        places = [tuple(axis for axis in place if axis not in cut) for place in places]
    return jax.lax.with_sharding_constraint(kernel, PartitionSpec(*(p or None for p in places)))


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
            y = product(self.equation, x, kernel, self.axes)
        if not self.bias:
            return y
        zeros = logical(nn.initializers.zeros, *self.axes[split:])
        return (y + self.param("bias", zeros, self.shape[split:])).astype(self.dtype)
