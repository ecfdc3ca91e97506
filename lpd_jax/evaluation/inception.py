"""Inception-v3 as FID is defined by it: the TensorFlow graph of 2015-12-05.

It differs from the network of the paper (Szegedy et al., 2015) and of torchvision: average pools
do not count padding, the last block pools by maximum, and there are 1,008 classes. Names are those
of the PyTorch files (torch-fidelity, pytorch-fid). Batch normalisation is folded into the kernels,
see `inception_weights`.

B batch, H W pixels.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lpd_jax.evaluation.resize import tf1_bilinear

SIDE = 299  # pixels
POOL3 = 2048
SPATIAL = 17 * 17 * 7
CLASSES = 1008


class InceptionFeatures(NamedTuple):
    """What the figures are made of, float32.

    Attributes:
        pool3: [B, 2048], mean of the last block: FID, precision and recall.
        spatial: [B, 2023], the first 7 channels of `mixed_6/conv` (17x17), flattened by row,
            column and channel: sFID.
        logits: [B, 1008], pool3 times the weights of the classifier without its bias: IS.
    """

    pool3: jax.Array
    spatial: jax.Array
    logits: jax.Array


def _conv(
    features: int, kernel: tuple[int, int] = (1, 1), stride: int = 1, padding="SAME", *, name: str
) -> Callable[[jax.Array], jax.Array]:
    """Convolution and ReLU; "SAME" pads both sides alike, as kernels are odd."""
    conv = nn.Conv(features, kernel, stride, padding, precision="highest", name=name)
    return lambda x: nn.relu(conv(x))


def _average(x: jax.Array) -> jax.Array:
    """Mean of 3x3 pixels, of those inside the image."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _maximum(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), padding="SAME")


def _halve(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2))


class _MixedA(nn.Module):
    """35x35 pixels."""

    pooled: int

    @nn.compact
    def __call__(self, x):
        five = _conv(48, name="branch5x5_1")(x)
        three = _conv(64, name="branch3x3dbl_1")(x)
        three = _conv(96, (3, 3), name="branch3x3dbl_2")(three)
        branches = (
            _conv(64, name="branch1x1")(x),
            _conv(64, (5, 5), name="branch5x5_2")(five),
            _conv(96, (3, 3), name="branch3x3dbl_3")(three),
            _conv(self.pooled, name="branch_pool")(_average(x)),
        )
        return jnp.concatenate(branches, -1)


class _MixedB(nn.Module):
    """35x35 to 17x17 pixels."""

    @nn.compact
    def __call__(self, x):
        three = _conv(64, name="branch3x3dbl_1")(x)
        three = _conv(96, (3, 3), name="branch3x3dbl_2")(three)
        branches = (
            _conv(384, (3, 3), 2, "VALID", name="branch3x3")(x),
            _conv(96, (3, 3), 2, "VALID", name="branch3x3dbl_3")(three),
            _halve(x),
        )
        return jnp.concatenate(branches, -1)


class _MixedC(nn.Module):
    """17x17 pixels."""

    width: int

    @nn.compact
    def __call__(self, x):
        short = _conv(self.width, name="branch7x7_1")(x)
        short = _conv(self.width, (1, 7), name="branch7x7_2")(short)
        long = _conv(self.width, name="branch7x7dbl_1")(x)
        long = _conv(self.width, (7, 1), name="branch7x7dbl_2")(long)
        long = _conv(self.width, (1, 7), name="branch7x7dbl_3")(long)
        long = _conv(self.width, (7, 1), name="branch7x7dbl_4")(long)
        branches = (
            _conv(192, name="branch1x1")(x),
            _conv(192, (7, 1), name="branch7x7_3")(short),
            _conv(192, (1, 7), name="branch7x7dbl_5")(long),
            _conv(192, name="branch_pool")(_average(x)),
        )
        return jnp.concatenate(branches, -1)


class _MixedD(nn.Module):
    """17x17 to 8x8 pixels."""

    @nn.compact
    def __call__(self, x):
        three = _conv(192, name="branch3x3_1")(x)
        seven = _conv(192, name="branch7x7x3_1")(x)
        seven = _conv(192, (1, 7), name="branch7x7x3_2")(seven)
        seven = _conv(192, (7, 1), name="branch7x7x3_3")(seven)
        branches = (
            _conv(320, (3, 3), 2, "VALID", name="branch3x3_2")(three),
            _conv(192, (3, 3), 2, "VALID", name="branch7x7x3_4")(seven),
            _halve(x),
        )
        return jnp.concatenate(branches, -1)


class _MixedE(nn.Module):
    """8x8 pixels."""

    pool: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x):
        one = _conv(384, name="branch3x3_1")(x)
        two = _conv(448, name="branch3x3dbl_1")(x)
        two = _conv(384, (3, 3), name="branch3x3dbl_2")(two)
        branches = (
            _conv(320, name="branch1x1")(x),
            _conv(384, (1, 3), name="branch3x3_2a")(one),
            _conv(384, (3, 1), name="branch3x3_2b")(one),
            _conv(384, (1, 3), name="branch3x3dbl_3a")(two),
            _conv(384, (3, 1), name="branch3x3dbl_3b")(two),
            _conv(192, name="branch_pool")(self.pool(x)),
        )
        return jnp.concatenate(branches, -1)


class InceptionV3(nn.Module):
    """Images float32 [B, H, W, 3] with values in [0, 255] -> `InceptionFeatures`, in float32."""

    @nn.compact
    def __call__(self, images) -> InceptionFeatures:
        x = (tf1_bilinear(images, SIDE) - 128) / 128
        x = _conv(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(x)
        x = _conv(32, (3, 3), 1, "VALID", name="Conv2d_2a_3x3")(x)
        x = _halve(_conv(64, (3, 3), name="Conv2d_2b_3x3")(x))
        x = _conv(80, name="Conv2d_3b_1x1")(x)
        x = _halve(_conv(192, (3, 3), 1, "VALID", name="Conv2d_4a_3x3")(x))
        for name, pooled in (("5b", 32), ("5c", 64), ("5d", 64)):
            x = _MixedA(pooled, name=f"Mixed_{name}")(x)
        x = _MixedB(name="Mixed_6a")(x)
        for name, width in (("6b", 128), ("6c", 160), ("6d", 160)):
            x = _MixedC(width, name=f"Mixed_{name}")(x)
        # TensorFlow counts from 0 through all blocks: `mixed_6/conv` is the first branch of 6d.
        spatial = x[..., :7].reshape(len(x), SPATIAL)
        x = _MixedC(192, name="Mixed_6e")(x)
        x = _MixedD(name="Mixed_7a")(x)
        x = _MixedE(_average, name="Mixed_7b")(x)
        x = _MixedE(_maximum, name="Mixed_7c")(x)
        pool3 = x.mean((1, 2))
        classifier = nn.Dense(CLASSES, use_bias=False, precision="highest", name="fc")
        return InceptionFeatures(pool3, spatial, classifier(pool3))


def apply_inception(variables: Any, images: jax.Array) -> InceptionFeatures:
    """The features of images; the caller compiles it.

    Args:
        variables: of `inception_weights.load`.
        images: uint8 [B, H, W, 3] of any size; H and W are resized to 299 pixels each.
    """
    return InceptionV3().apply(variables, images.astype(jnp.float32))


@functools.cache
def abstract_variables() -> Any:
    """Shapes of the variables: kernels [rows, columns, in, out], biases [out]."""
    image = jnp.zeros((1, SIDE, SIDE, 3))
    return jax.eval_shape(InceptionV3().init, jax.random.key(0), image)
