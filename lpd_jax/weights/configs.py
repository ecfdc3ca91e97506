"""Official weights <-> our configs and parameters: what the shapes say, the resize to 512 px."""

import dataclasses
import math
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lpd_jax.errors import InputError
from lpd_jax.models.decoder import Decoder, DecoderConfig
from lpd_jax.models.initial import init_decoder, init_tokenizer
from lpd_jax.models.tokenizer import Tokenizer, TokenizerConfig
from lpd_jax.weights.rows import DECODER, TOKENIZER, from_official, to_official

# A ring buffer of the official training's usage figure; no network reads it.
CODEBOOK_USED = "quantize.codebook_used"
_CODEBOOK_USED_SIZE = 65536
_HEAD_WIDTH = 64


def kind(weights: Mapping[str, np.ndarray]) -> str:
    """ "decoder" or "tokenizer".

    Raises:
        InputError: the names belong to neither.
    """
    for name, found in (
        ("token_emb.weight", "decoder"),
        ("quantize.embedding.weight", "tokenizer"),
    ):
        if name in weights:
            return found
    raise InputError(
        "The weights are neither an official LPD decoder (no token_emb.weight) nor its tokenizer "
        f"(no quantize.embedding.weight); their names begin with {sorted(weights)[:3]}."
    )


def decoder_config(weights: Mapping[str, np.ndarray], heads: int | None = None) -> DecoderConfig:
    """The decoder that official weights belong to, from their shapes.

    Args:
        weights: official names -> arrays.
        heads: attention heads, which no shape tells; width / 64 by default.

    Raises:
        InputError: an array that tells a size is missing, or the grid is not square.
    """
    (num_classes, width), (vocab_size, _), (_, places, _), (hidden, _) = _shapes(
        weights,
        {
            "class_emb.weight": 2,
            "token_emb.weight": 2,
            "pos_embed": 3,
            "blocks.0.mlp.fc1.weight": 2,
        },
    )
    side = math.isqrt(places - 1)
    if side**2 != places - 1:
        raise InputError(
            f"pos_embed has {places - 1} positions, which is no square grid; the file is not an "
            "official decoder."
        )
    if heads is None and width % _HEAD_WIDTH:
        raise InputError(f"Width {width} is not a multiple of {_HEAD_WIDTH}: give heads.")
    return DecoderConfig(
        grid=(side, side),
        vocab_size=vocab_size,
        num_classes=num_classes,
        width=width,
        depth=_count(weights, r"blocks\.(\d+)\."),
        heads=heads or max(1, width // _HEAD_WIDTH),
        mlp_ratio=hidden / width,
    )


def tokenizer_config(weights: Mapping[str, np.ndarray], norm_groups: int = 32) -> TokenizerConfig:
    """The tokenizer that official weights belong to, from their shapes.

    Args:
        weights: official names -> arrays.
        norm_groups: groups of every GroupNorm, which no shape tells; 32 in all official files.

    Raises:
        InputError: an array that tells a size is missing.
    """
    stages = max(1, _count(weights, r"encoder\.conv_blocks\.(\d+)\."))
    (ch, in_channels, *_), (z_channels, *_), codebook, *widths = _shapes(
        weights,
        {
            "encoder.conv_in.weight": 4,
            "encoder.conv_out.weight": 4,
            "quantize.embedding.weight": 2,
        }
        | {f"encoder.conv_blocks.{i}.res.0.conv1.weight": 4 for i in range(stages)},
    )
    return TokenizerConfig(
        ch=ch,
        ch_mult=tuple(width // ch for width, *_ in widths),
        num_res_blocks=_count(weights, r"encoder\.conv_blocks\.0\.res\.(\d+)\."),
        z_channels=z_channels,
        codebook_size=codebook[0],
        codebook_dim=codebook[1],
        in_channels=in_channels,
        norm_groups=norm_groups,
    )


def decoder_from_official(
    weights: Mapping[str, np.ndarray],
    *,
    heads: int | None = None,
    grid: tuple[int, int] | None = None,
) -> tuple[DecoderConfig, dict]:
    """Official decoder weights -> (config, our parameters as float32 NumPy arrays).

    With another `grid` than the file's, the position embedding is resized (256 -> 512 px).
    Raises InputError as `decoder_config` and `rows.from_official` do.
    """
    config = decoder_config(weights, heads)
    params = from_official(weights, DECODER, abstract_decoder(config))
    if grid is None or tuple(grid) == config.grid:
        return config, params
    params["pos_embed"] = np.asarray(resize_pos_embed(params["pos_embed"], config.grid, grid))
    return dataclasses.replace(config, grid=(grid[0], grid[1])), params


def tokenizer_from_official(
    weights: Mapping[str, np.ndarray], *, norm_groups: int = 32
) -> tuple[TokenizerConfig, dict]:
    """Official tokenizer weights -> (config, our parameters as float32 NumPy arrays).

    Raises InputError as `tokenizer_config` and `rows.from_official` do.
    """
    config = tokenizer_config(weights, norm_groups)
    abstract = abstract_tokenizer(config)
    return config, from_official(weights, TOKENIZER, abstract, ignored=(CODEBOOK_USED,))


def decoder_to_official(params) -> dict[str, np.ndarray]:
    """Our decoder parameters -> official names, as `LPD.load_state_dict` takes them."""
    return to_official(nn.unbox(params), DECODER)


def tokenizer_to_official(params) -> dict[str, np.ndarray]:
    """Our tokenizer parameters -> official names, as `VQModel.load_state_dict` takes them."""
    used = np.zeros(_CODEBOOK_USED_SIZE, np.float32)
    return to_official(nn.unbox(params), TOKENIZER) | {CODEBOOK_USED: used}


def abstract_decoder(config: DecoderConfig) -> dict:
    """Our decoder's parameter tree as shapes; nothing is allocated."""
    return nn.unbox(init_decoder.eval_shape(Decoder(config), jax.random.key(0)))


def abstract_tokenizer(config: TokenizerConfig) -> dict:
    """Our tokenizer's parameter tree as shapes; nothing is allocated."""
    return init_tokenizer.eval_shape(Tokenizer(config), jax.random.key(0))


def resize_pos_embed(
    pos_embed: jax.Array, grid: tuple[int, int], new_grid: tuple[int, int]
) -> jax.Array:
    """Position embedding of one grid -> of another, bicubic as PyTorch's (official `main.py`).

    pos_embed: float [1+h*w, D], the class first, which is kept as it is -> [1+h'*w', D].
    """
    first, rest = jnp.split(jnp.asarray(pos_embed), [1])
    image = rest.reshape(*grid, -1)
    # PyTorch's kernel (a = -0.75) without antialiasing; jax's "bicubic" is another (a = -0.5).
    image = jax.image.resize(
        image, (*new_grid, image.shape[-1]), "bicubic-pytorch", antialias=False, precision="highest"
    )
    return jnp.concatenate([first, image.reshape(-1, image.shape[-1])])


def _shapes(weights: Mapping[str, np.ndarray], ranks: Mapping[str, int]) -> list[tuple[int, ...]]:
    shapes = {name: weights[name].shape for name in ranks if name in weights}
    problems = [f"missing: {name}" for name in ranks if name not in shapes]
    problems += [
        f"wrong shape: {name} is {shape}, expected {ranks[name]} axes"
        for name, shape in shapes.items()
        if len(shape) != ranks[name]
    ]
    if problems:
        raise InputError(
            "The sizes of the model cannot be told from the weights; check that the file is "
            "complete and holds one model:\n  " + "\n  ".join(problems)
        )
    return list(shapes.values())


def _count(weights: Mapping[str, np.ndarray], pattern: str) -> int:
    """How many numbered parts there are, counted by the highest number."""
    return max((1 + int(m[1]) for name in weights if (m := re.match(pattern, name))), default=0)
