"""int8 kernels for generation: the decoder's blocks and head, with qwix.

A quantised kernel takes the place of the float one in the parameters and brings its own product, so
the network, the loop and the sampler are the same program with other leaves. Embeddings, norms and
biases keep their floats.
"""

import functools
import importlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct, traverse_util
from jax.sharding import NamedSharding, PartitionSpec

from lpd_jax.errors import InputError

MODES = ("int8", "int8_w8a8")

# Module of a kernel -> how many axes its product contracts: the first ones, after that of layers.
_CONTRACTED = {"qkv": 1, "proj": 2, "up": 1, "down": 1, "head": 1}


# qwix sends the largest number of a channel to 127.5, a tie: where that number is negative, the
# last bit of a float decides between -127 and -128. With this factor it is sent to 127.
_CALIBRATION = f"absmax,{127.5 / 127}"


@struct.dataclass
class Int8Kernel:
    """A kernel in int8 with one scale per output channel (and layer).

    Attributes:
        values: int8, the shape of the float kernel.
        scale: float32, that shape without the contracted axes; `values * scale` is the kernel.
        activations: round the other factor to int8 too, one scale per token, and multiply
            integers.
    """

    values: jax.Array
    scale: jax.Array
    activations: bool = struct.field(pytree_node=False)

    def einsum(self, equation: str, x: jax.Array) -> jax.Array:
        """The product of `x` [B, T, ...] and this kernel, its contracted axes first; float32."""
        if not self.activations:
            # qwix would scale the kernel, at a larger cost and, in bfloat16, with a rounding;
            # integers up to 127 are exact there, and the product is scaled in float32.
            # The barrier keeps XLA from casting all kernels once, before the loop over steps: that
            # would be the float copy in memory that int8 is to save.
            x, values = jax.lax.optimization_barrier((x, self.values))
            product = jnp.einsum(
                equation, x, values.astype(x.dtype), preferred_element_type=jnp.float32
            )
            return product * self.scale
        qwix = _qwix()
        contracted = range(self.values.ndim - self.scale.ndim)
        kernel = qwix.QArray(self.values, jnp.expand_dims(self.scale, contracted))
        rounded = _round(x, (0, 1))
        return qwix.einsum(equation, rounded, kernel, preferred_element_type=jnp.float32)


def quantize_decoder(params: Any, mode: str, *, donate: bool = False) -> Any:
    """Decoder parameters whose kernels are int8, one kernel at a time and where they lie.

    Args:
        params: unboxed parameters of a `Decoder`, on any mesh, its layers stacked or apart.
        mode: "int8" rounds the kernels, "int8_w8a8" also what they are multiplied with.
        donate: free each float kernel as soon as it is rounded; `params` is of no use afterwards.

    Returns:
        The same tree with an `Int8Kernel` for every kernel, sharded as that was.

    Raises:
        InputError: an unknown mode, or qwix is not installed.
    """
    if mode not in MODES:
        raise InputError(
            f"quantize={mode!r} must be one of {', '.join(map(repr, MODES))}, or empty for none."
        )
    _qwix()
    flat = traverse_util.flatten_dict(params)
    for path in [path for path in flat if path[-1] == "kernel"]:
        kernel = flat[path]
        values, scale = _rounding(kernel.sharding, kernel.ndim, contracted_axes(path))(kernel)
        # One at a time also on a mesh: CPU devices deadlock in two collectives at once.
        jax.block_until_ready((values, scale))
        flat[path] = Int8Kernel(values, scale, mode == "int8_w8a8")
        if donate:
            kernel.delete()
    return traverse_util.unflatten_dict(flat)


def contracted_axes(path: Sequence[str]) -> tuple[int, ...]:
    """Axes of the kernel at `path` of a decoder's parameters that its product contracts."""
    first = 1 if path[0] == "blocks" else 0  # layers are stacked along the first axis
    return tuple(range(first, first + _CONTRACTED[path[-2]]))


def num_bytes(params: Any) -> int:
    """Bytes of all arrays of a tree, counted once however many devices hold them."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))


def _rounding(sharding: jax.sharding.Sharding, ndim: int, contracted: Sequence[int]):
    """Compiled function from a float kernel to values and scale that lie as the kernel does."""
    kept = [axis for axis in range(ndim) if axis not in contracted]
    placed = None
    if isinstance(sharding, NamedSharding):
        axes = [*sharding.spec, *[None] * (ndim - len(sharding.spec))]
        scale = PartitionSpec(*(axes[axis] for axis in kept))
        placed = (sharding, NamedSharding(sharding.mesh, scale))

    @functools.partial(jax.jit, out_shardings=placed)
    def rounding(kernel):
        rounded = _round(kernel, kept)
        return rounded.qvalue, rounded.scale.squeeze(contracted)

    return rounding


def _round(x: jax.Array, channelwise_axes: Sequence[int]):
    """`x` as a qwix array in int8, with a float32 scale per place along these axes."""
    return _qwix().quantize(
        x.astype(jnp.float32),
        jnp.int8,
        channelwise_axes=channelwise_axes,
        calibration_method=_CALIBRATION,
    )


def _qwix():
    try:
        return importlib.import_module("qwix")
    except ImportError as error:
        raise InputError(
            "int8 kernels need qwix, which is not installed; run pip install -e '.[quant]'."
        ) from error
