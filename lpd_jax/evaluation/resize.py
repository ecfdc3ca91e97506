"""The resize of the graph that FID is defined by: TensorFlow 1's `resize_bilinear`.

B batch, H W pixels, S side of the result.
"""

import jax
import jax.numpy as jnp
import numpy as np


def tf1_bilinear(images: jax.Array, size: int) -> jax.Array:
    """Resizes as TensorFlow 1 does with `align_corners=False`.

    Pixel i of the result lies at `i * H / S` of the source, without the half-pixel offset of other
    libraries, and is interpolated between its two neighbours; nothing is averaged when the result
    is smaller. Other resizes move a FID by tenths.

    Args:
        images: float32 [B, H, W, 3].
        size: S.

    Returns:
        float32 [B, S, S, 3]; the images themselves where H = W = S.
    """
    rows, columns = (_weights(side, size) for side in images.shape[1:3])
    # On accelerators a product in lower precision would be off by a grey level.
    images = jnp.einsum("sh,bhwc->bswc", rows, images, precision="highest")
    return jnp.einsum("tw,bswc->bstc", columns, images, precision="highest")


def _weights(source: int, size: int) -> np.ndarray:
    """float32 [S, source]: the share of each source pixel in each pixel of the result."""
    # In float32, as TensorFlow's image_resizer_state.h has it.
    at = np.arange(size, dtype=np.float32) * (np.float32(source) / np.float32(size))
    lower = at.astype(np.int64)
    share, row = at - lower.astype(np.float32), np.arange(size)
    weights = np.zeros((size, source), np.float32)
    weights[row, lower] = 1 - share
    # At the far edge both neighbours are the last pixel.
    np.add.at(weights, (row, np.minimum(lower + 1, source - 1)), share)
    return weights
