"""Attention over keys that arrive in parts: cached context, new context, queries of the group.

Generation attends to such parts with `attend`. Training has one part, the whole image, and a choice
of kernels for it: `attend_image`.

Dims: B batch, C context places, Q query places, T rows that ask, S keys of one part, H heads,
K head width.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import NamedSharding

from lpd_jax.errors import InputError

KERNELS = ("xla", "cudnn", "tokamax")
# (query, key, value, visible [B or 1, T, S]) -> answer
Kernel = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


class Keys(NamedTuple):
    """One part of the keys, with their values and the attention mask over them.

    Attributes:
        key, value: float [B, H, S, K]; heads first, so that a cache is multiplied where it lies.
        visible: bool, broadcastable to [B, T, S]; True where a row may attend to a key.
    """

    key: jax.Array
    value: jax.Array
    visible: jax.Array


def attend(query: jax.Array, parts: Sequence[Keys]) -> jax.Array:
    """Softmax attention of `query` over the union of `parts`, scores and softmax in float32.

    Neither parts nor scores are concatenated, so a cache is read where it lies. A row must see at
    least one key. Source: official `models/block.py`, both of its forward passes.

    Args:
        query: float [B, T, H, K].
        parts: the keys; together they are one softmax.

    Returns:
        float [B, T, H, K] in the dtype of `query`.
    """
    powers = _powers(query, parts)
    total = sum(jnp.sum(power, axis=-1, dtype=jnp.float32) for power in powers)
    answer = sum(_weighted(power, part.value) for power, part in zip(powers, parts, strict=True))
    # Divided after the product: there are fewer numbers than there are weights.
    return (answer / total.swapaxes(1, 2)[..., None]).astype(query.dtype)


def _powers(query: jax.Array, parts: Sequence[Keys]) -> list[jax.Array]:
    """Weights of each part before they are divided by their sum: [B, H, T, S], dtype of `query`."""
    scale = query.shape[-1] ** -0.5
    scores = []
    for part in parts:
        score = jnp.einsum(
            "bthk,bhsk->bhts", query * scale, part.key, preferred_element_type=jnp.float32
        )
        # Added, not selected: the gradient needs no mask, and none as large as the scores is kept.
        bias = jnp.where(part.visible, 0.0, jnp.finfo(jnp.float32).min)
        scores.append(score + jnp.expand_dims(bias, -3))
    # Not joined: the odd length of all keys would be padded to a multiple of 128 on TPUs.
    highest = functools.reduce(jnp.maximum, [x.max(axis=-1, keepdims=True) for x in scores])
    highest = jax.lax.stop_gradient(highest)  # the answer does not depend on it
    return [jnp.exp(x - highest).astype(query.dtype) for x in scores]


def _weighted(weights: jax.Array, value: jax.Array) -> jax.Array:
    """Weights [B, H, T, S] times values [B, H, S, K]: float32 [B, T, H, K]."""
    return jnp.einsum("bhts,bhsk->bthk", weights, value, preferred_element_type=jnp.float32)


@struct.dataclass
class ImageMask:
    """The attention mask of a whole image in training, and the kernel that computes attention.

    Attributes:
        visible: bool [C+Q, C+Q] or [B, C+Q, C+Q].
        num_context: C.
        kernel: one of `KERNELS`.
        split: answer context and queries apart. No context place sees a query, so that the scores
            of context against queries, a quarter of all, are never computed.
    """

    visible: jax.Array
    num_context: int = struct.field(pytree_node=False)
    kernel: str = struct.field(pytree_node=False, default="xla")
    split: bool = struct.field(pytree_node=False, default=True)


def attend_image(query: jax.Array, key: jax.Array, value: jax.Array, mask: ImageMask) -> jax.Array:
    """Softmax attention of all places of an image, context first, then queries.

    Args:
        query, key, value: float [B, C+Q, H, K].
        mask: the attention mask; every row must see at least one place.

    Returns:
        float [B, C+Q, H, K] in the dtype of `query`.
    """
    kernel, c = _KERNELS[mask.kernel], mask.num_context
    visible = mask.visible if mask.visible.ndim == 3 else mask.visible[None]
    if not mask.split:
        return kernel(query, key, value, visible)
    context = kernel(query[:, :c], key[:, :c], value[:, :c], visible[:, :c, :c])
    queries = kernel(query[:, c:], key, value, visible[:, c:])
    return jnp.concatenate([context, queries], axis=1)


def check_kernel(kernel: str, dtype: str, platform: str) -> None:
    """Whether training can attend with this kernel.

    Args:
        kernel: one of `KERNELS`.
        dtype: of the decoder's products.
        platform: of the devices: "cpu", "gpu" or "tpu".

    Raises:
        InputError: it cannot.
    """
    instead = "set decoder.attention='xla'"
    if kernel == "cudnn" and platform != "gpu":
        raise InputError(
            f"decoder.attention='cudnn' runs on NVIDIA GPUs, not on {platform}; {instead}."
        )
    if kernel == "cudnn" and dtype != "bfloat16":
        raise InputError(
            f"decoder.attention='cudnn' computes in bfloat16, not {dtype}; set "
            f"decoder.dtype='bfloat16', or {instead}."
        )
    if kernel == "tokamax":
        if platform == "tpu":
            raise InputError(
                "decoder.attention='tokamax' has no TPU kernel with a mask for each example, which "
                f"training on mixed schedules needs; {instead}."
            )
        try:
            import tokamax  # noqa: F401
        except ImportError as error:
            raise InputError(
                "decoder.attention='tokamax' needs the package tokamax (pip install tokamax); "
                f"install it or {instead}."
            ) from error


def _xla(query, key, value, visible):
    """`attend` to one part; the sum of the weights is one more column of the values.

    TPUs multiply 128 columns in the time of 64, and read all weights once more to sum them.
    """
    ones = jnp.ones((*value.shape[:-1], 1), value.dtype)
    value = jnp.concatenate([value, ones], axis=-1).swapaxes(1, 2)
    (power,) = _powers(query, [Keys(key.swapaxes(1, 2), value, visible)])
    answer = _weighted(power, value)
    return (answer[..., :-1] / answer[..., -1:]).astype(query.dtype)


def _cudnn(query, key, value, visible):
    """cuDNN's fused kernel, which can be differentiated for even T and S only."""
    rows, columns = query.shape[1] % 2, key.shape[1] % 2
    visible = jnp.pad(visible, [(0, 0), (0, rows), (0, columns)], mode="edge")
    if columns:
        visible = visible.at[..., -1].set(False)
    query, key, value = (
        jnp.pad(x, [(0, 0), (0, extra), (0, 0), (0, 0)])
        for x, extra in ((query, rows), (key, columns), (value, columns))
    )
    answer = jax.nn.dot_product_attention(
        query, key, value, mask=visible[:, None], implementation="cudnn"
    )
    return answer[:, : answer.shape[1] - rows]


def _tokamax(query, key, value, visible):
    """Pallas kernels on GPUs; elsewhere tokamax's own XLA code."""
    import tokamax
    from absl import flags

    # Outside a command line tokamax would parse the arguments of whatever program this is.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    mesh = jax.sharding.get_abstract_mesh()
    axes = nn.logical_to_mesh_axes(("batch", None, "heads", None))
    try:
        return tokamax.dot_product_attention(
            query,
            key,
            value,
            mask=visible[:, None],
            # Named, as tokamax falls back to XLA without a word when nothing is.
            implementation=("mosaic", "triton") if jax.default_backend() == "gpu" else "xla",
            q_sharding=None if mesh.empty else NamedSharding(mesh, axes),
        )
    except ExceptionGroup as error:
        raise InputError(
            "tokamax has no attention kernel for this GPU and these shapes; set "
            "decoder.attention='xla' or 'cudnn'."
        ) from error


_KERNELS: dict[str, Kernel] = {"xla": _xla, "cudnn": _cudnn, "tokamax": _tokamax}
