"""The PatchGAN discriminator (Isola et al., 2017; LlamaGen's `discriminator_patchgan.py`).

Every output looks at a patch of the image only: 70x70 pixels with three halvings. B batch, H W
pixels, C channels, h w outputs. Everything is NHWC.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from lpd_jax import checks
from lpd_jax.errors import InputError

NORMS = ("batch", "group", "none")
_WIDEST = 8  # times `width`
_SLOPE = 0.2  # of the leaky ReLU


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig:
    """Sizes; the defaults are LlamaGen's.

    width: channels after the first convolution, doubled at each later one up to eightfold.
    layers: halvings.
    norm: "batch" (statistics of the global batch, of real and of made images apart, in every
        step), "group" (of each image by itself, in up to 32 groups of channels) or "none".
    dtype: of the convolutions; parameters, statistics and results stay float32.
    Raises InputError for what cannot be.
    """

    width: int = 64
    layers: int = 3
    norm: str = "batch"
    dtype: str = "float32"

    def __post_init__(self):
        for name in ("width", "layers"):
            checks.whole(f"discriminator.{name}", getattr(self, name), 1)
        for name, choices in (("norm", NORMS), ("dtype", ("float32", "bfloat16"))):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"discriminator.{name}={getattr(self, name)!r} must be one of "
                    f"{', '.join(choices)}."
                )

    @property
    def least_side(self) -> int:
        """Pixels a side of the smallest image that has an output."""
        return 3 * 2**self.layers


class Discriminator(nn.Module):
    """Images float32 [B, H, W, C] in [-1, 1] -> float32 [B, h, w], higher where they look real.

    h is H / 2^layers - 2. There is no state: batch norm always takes the statistics of what it
    sees, as the original, which is in training mode whenever it is called, also for the generator.
    """

    config: DiscriminatorConfig

    @nn.compact
    def __call__(self, images) -> jax.Array:
        c = self.config
        if min(images.shape[1:3]) < c.least_side:
            raise InputError(
                f"a discriminator of {c.layers} layers needs images of at least {c.least_side} "
                f"pixels a side; these have {images.shape[1]}x{images.shape[2]}. Lower "
                "discriminator.layers."
            )
        x = nn.leaky_relu(_conv(c, c.width, 2, True, "conv0")(images), _SLOPE)
        for i in range(1, c.layers + 1):
            width = c.width * min(2**i, _WIDEST)
            stride = 2 if i < c.layers else 1
            x = _conv(c, width, stride, c.norm != "batch", f"conv{i}")(x)
            x = nn.leaky_relu(_norm(c, x, f"norm{i}"), _SLOPE)
        return _conv(c, 1, 1, True, "conv_out")(x)[..., 0].astype(jnp.float32)


class BatchNorm(nn.Module):
    """Normalises by the mean and (biased) variance of the batch at hand; keeps no averages."""

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", _around_one, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        wide = x.astype(jnp.float32)
        mean = wide.mean((0, 1, 2))
        # Not E[x^2] - E[x]^2, which cancels.
        variance = jnp.square(wide - mean).mean((0, 1, 2))
        normal = (wide - mean) * jax.lax.rsqrt(variance + 1e-5)
        return (normal * scale + bias).astype(x.dtype)


def init_discriminator(network: Discriminator, key: jax.Array, channels: int = 3):
    """Parameters of a discriminator."""
    side = network.config.least_side
    return network.init(key, jnp.zeros((1, side, side, channels)))["params"]


def _norm(config: DiscriminatorConfig, x, name: str):
    match config.norm:
        case "batch":
            return BatchNorm(name=name)(x)
        case "group":
            groups = next(n for n in (32, 16, 8, 4, 2, 1) if x.shape[-1] % n == 0)
            dtype = jnp.dtype(config.dtype)
            return nn.GroupNorm(groups, dtype=dtype, use_fast_variance=False, name=name)(x)
    return x


def _conv(config: DiscriminatorConfig, width: int, stride: int, bias: bool, name: str) -> nn.Conv:
    return nn.Conv(
        width,
        (4, 4),
        strides=stride,
        padding=1,
        use_bias=bias,
        dtype=jnp.dtype(config.dtype),
        kernel_init=nn.initializers.normal(0.02),
        name=name,
    )


def _around_one(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return 1 + 0.02 * jax.random.normal(key, shape)
