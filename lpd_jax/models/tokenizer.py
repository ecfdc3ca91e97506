"""The VQ tokenizer (LlamaGen's VQGAN, official `models/vqgan.py`): images <-> codes.

B batch, H W pixels, C channels, h w token grid (H/stride, W/stride), N = h*w tokens in raster
order, Z latent channels, E code dimension, V codebook entries. Everything is NHWC.
"""

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from lpd_jax import checks
from lpd_jax.errors import InputError
from lpd_jax.models.quantizer import Quantized, VectorQuantizer

_SIZES = (
    *("ch", "num_res_blocks", "z_channels", "codebook_size", "codebook_dim"),
    *("in_channels", "norm_groups"),
)


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Sizes and loss weights; the defaults are the published 72M tokenizer of stride 16.

    ch: channels at full resolution; ch_mult: their multiple at each halving.
    commitment, entropy: weights of those losses. dtype: of the convolutions; parameters, group
    statistics, softmax and the quantiser stay float32.
    Raises InputError for sizes that do not fit together.
    """

    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    z_channels: int = 256
    codebook_size: int = 16384
    codebook_dim: int = 8
    in_channels: int = 3
    norm_groups: int = 32
    l2_normalize: bool = True
    commitment: float = 0.25
    entropy: float = 0.1
    entropy_temperature: float = 0.01
    dtype: str = "float32"

    def __post_init__(self):
        # A list, as JSON gives it, would make the config unhashable.
        object.__setattr__(self, "ch_mult", tuple(self.ch_mult))
        if not self.ch_mult:
            raise InputError("tokenizer.ch_mult is empty; give one multiple, or more, such as 1,2.")
        for name in _SIZES:
            checks.whole(f"tokenizer.{name}", getattr(self, name), 1)
        for multiple in self.ch_mult:
            checks.whole("tokenizer.ch_mult", multiple, 1)
        if self.dtype not in ("float32", "bfloat16"):
            raise InputError(f"Tokenizer dtype is {self.dtype!r}; use float32 or bfloat16.")
        odd = [c for c in self.widths if c % self.norm_groups]
        if odd:
            raise InputError(
                f"Tokenizer widths {odd} are not multiples of norm_groups={self.norm_groups}; "
                "change ch, ch_mult or norm_groups."
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each resolution, finest first."""
        return tuple(self.ch * m for m in self.ch_mult)

    @property
    def stride(self) -> int:
        """Pixels per token along each side."""
        return 2 ** (len(self.ch_mult) - 1)


class Tokenizer(nn.Module):
    """Encoder, vector quantiser and decoder.

    Images are float [B, H, W, C] in [-1, 1], H and W multiples of `config.stride`.

    Attributes:
        config: sizes.
        decode_dtype: of the products that turn codes into images; `config.dtype` when empty.
    """

    config: TokenizerConfig
    decode_dtype: str = ""

    def setup(self):
        c = self.config
        out = dataclasses.replace(c, dtype=self.decode_dtype or c.dtype)
        self.encoder = Encoder(c)
        self.decoder = Decoder(out)
        self.to_code = dense(c, c.codebook_dim, name=None)
        self.from_code = dense(out, c.z_channels, name=None)
        self.quantizer = VectorQuantizer(
            c.codebook_size,
            c.codebook_dim,
            l2_normalize=c.l2_normalize,
            commitment=c.commitment,
            entropy=c.entropy,
            entropy_temperature=c.entropy_temperature,
        )

    def __call__(self, images) -> tuple[jax.Array, Quantized]:
        """Training forward: images -> (reconstruction float32 [B, H, W, C], `Quantized`)."""
        quantized = self.quantizer(self.latents(images))
        return self.decode_latents(quantized.latents), quantized

    def features(self, images):
        """images -> encoder output [B, h, w, Z]."""
        stride, (height, width) = self.config.stride, images.shape[1:3]
        if height % stride or width % stride:
            raise InputError(
                f"Images of {height}x{width} pixels do not divide into {stride}x{stride} patches; "
                f"crop or resize both sides to multiples of {stride}."
            )
        return self.encoder(images)

    def latents(self, images):
        """images -> latents before quantisation and normalisation [B, h, w, E]."""
        return self.to_code(self.features(images))

    def encode(self, images):
        """images -> codes int32 [B, N], raster order."""
        return rearrange(self.quantizer.nearest(self.latents(images)), "b h w -> b (h w)")

    def decode(self, codes, grid: tuple[int, int]):
        """codes int [B, N] of a grid (h, w) -> images float32 [B, H, W, C], not clipped."""
        h, w = grid
        if codes.shape[-1] != h * w:
            raise InputError(
                f"{codes.shape[-1]} codes do not fill a {h}x{w} grid; pass the grid of the images "
                "that were encoded."
            )
        codes = rearrange(codes, "b (h w) -> b h w", h=h)
        return self.decode_latents(self.quantizer.lookup(codes))

    def decode_latents(self, latents):
        """Quantised latents [B, h, w, E] -> images float32 [B, H, W, C], not clipped."""
        return self.decoder(self.from_code(latents)).astype(jnp.float32)


class Encoder(nn.Module):
    """images [B, H, W, C] -> [B, h, w, Z]. Stages run from fine to coarse."""

    config: TokenizerConfig

    @nn.compact
    def __call__(self, x):
        c = self.config
        x = conv3x3(c, c.ch, "conv_in")(x)
        for i, width in enumerate(c.widths):
            x = Stage(c, width, c.num_res_blocks, attend=i == len(c.widths) - 1, name=f"stage{i}")(
                x
            )
            if i < len(c.widths) - 1:
                x = Downsample(c, name=f"downsample{i}")(x)
        x = Middle(c, name="middle")(x)
        return conv3x3(c, c.z_channels, "conv_out")(norm_swish(c, x, "norm_out"))


class Decoder(nn.Module):
    """latents [B, h, w, Z] -> images [B, H, W, C]. Stages run from coarse to fine."""

    config: TokenizerConfig

    @nn.compact
    def __call__(self, z):
        c = self.config
        x = conv3x3(c, c.widths[-1], "conv_in")(z)
        x = Middle(c, name="middle")(x)
        for i, width in enumerate(reversed(c.widths)):
            x = Stage(c, width, c.num_res_blocks + 1, attend=i == 0, name=f"stage{i}")(x)
            if i < len(c.widths) - 1:
                x = Upsample(c, name=f"upsample{i}")(x)
        return conv3x3(c, c.in_channels, "conv_out")(norm_swish(c, x, "norm_out"))


class Stage(nn.Module):
    """The residual blocks of one resolution, each followed by attention at the coarsest one."""

    config: TokenizerConfig
    width: int
    depth: int
    attend: bool

    @nn.compact
    def __call__(self, x):
        for i in range(self.depth):
            x = ResBlock(self.config, self.width, name=f"block{i}")(x)
            if self.attend:
                x = Attention(self.config, name=f"attention{i}")(x)
        return x


class Middle(nn.Module):
    """Block, attention, block at the coarsest resolution."""

    config: TokenizerConfig

    @nn.compact
    def __call__(self, x):
        x = ResBlock(self.config, x.shape[-1], name="block0")(x)
        x = Attention(self.config, name="attention")(x)
        return ResBlock(self.config, x.shape[-1], name="block1")(x)


class ResBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))), with a projection where the width changes."""

    config: TokenizerConfig
    width: int

    @nn.compact
    def __call__(self, x):
        c = self.config
        h = conv3x3(c, self.width, "conv1")(norm_swish(c, x, "norm1"))
        h = conv3x3(c, self.width, "conv2")(norm_swish(c, h, "norm2"))
        return (x if x.shape[-1] == self.width else dense(c, self.width, "shortcut")(x)) + h


class Attention(nn.Module):
    """Single-head self-attention over all positions, with a residual connection."""

    config: TokenizerConfig

    @nn.compact
    def __call__(self, x):
        c, width = self.config, x.shape[-1]
        h = rearrange(group_norm(c, "norm")(x), "b h w d -> b (h w) d")
        q, k, v = (dense(c, width, name)(h) for name in "qkv")
        scores = jnp.einsum("bqd,bkd->bqk", q, k).astype(jnp.float32) * width**-0.5
        h = jnp.einsum("bqk,bkd->bqd", jax.nn.softmax(scores).astype(v.dtype), v)
        return x + dense(c, width, "proj")(h).reshape(x.shape)


class Downsample(nn.Module):
    """Halve both sides; the official padding adds one row and column at the far end only."""

    config: TokenizerConfig

    @nn.compact
    def __call__(self, x):
        c = self.config
        return conv3x3(c, x.shape[-1], "conv", strides=2, padding=((0, 1), (0, 1)))(x)


class Upsample(nn.Module):
    """Double both sides by repetition, then convolve."""

    config: TokenizerConfig

    @nn.compact
    def __call__(self, x):
        b, h, w, d = x.shape
        x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, d))
        x = rearrange(x, "b h i w j d -> b (h i) (w j) d")
        return conv3x3(self.config, d, "conv")(x)


# PyTorch's default for convolution kernels: U(-1, 1) / sqrt(fan_in).
uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def conv3x3(config, width, name, strides=1, padding=1):
    return nn.Conv(
        width,
        (3, 3),
        strides=strides,
        padding=padding,
        dtype=jnp.dtype(config.dtype),
        kernel_init=uniform_fan_in,
        name=name,
    )


def dense(config, width, name):
    return nn.Dense(width, dtype=jnp.dtype(config.dtype), kernel_init=uniform_fan_in, name=name)


def group_norm(config, name):
    # The one-pass variance E[x^2] - E[x]^2 cancels: it costs more than the parity tolerance.
    return nn.GroupNorm(
        config.norm_groups,
        epsilon=1e-6,
        dtype=jnp.dtype(config.dtype),
        use_fast_variance=False,
        name=name,
    )


def norm_swish(config, x, name):
    return nn.swish(group_norm(config, name)(x))


def to_uint8(images):
    """[-1, 1] -> uint8, rounded to nearest: the official evaluation's conversion."""
    return jnp.round(jnp.clip((images + 1) / 2 * 255, 0, 255)).astype(jnp.uint8)


def to_uint8_truncated(images):
    """[-1, 1] -> uint8 as the official `decode_codes_to_img`: 127.5x + 128, cut off."""
    return jnp.clip(images * 127.5 + 128, 0, 255).astype(jnp.uint8)
