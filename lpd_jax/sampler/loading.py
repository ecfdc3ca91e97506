"""From the directory of a decoder and its tokenizer to what a sampler holds."""

import dataclasses
import os
from typing import Any

import jax

from lpd_jax import parallel, storage
from lpd_jax.errors import InputError
from lpd_jax.models.decoder import Decoder
from lpd_jax.models.tokenizer import Tokenizer
from lpd_jax.quantize import quantize_decoder
from lpd_jax.sampler import defaults
from lpd_jax.trained import belong, lay_out, load_decoder, load_tokenizer


@dataclasses.dataclass(frozen=True)
class Models:
    """A decoder and the tokenizer that it was trained with; attributes as in `Sampler`."""

    decoder: Decoder
    decoder_params: Any
    tokenizer: Tokenizer
    tokenizer_params: Any
    class_names: tuple[str, ...]
    guidable: bool
    defaults: defaults.Defaults


def load(
    path: storage.Where,
    mesh: jax.sharding.Mesh,
    rules: parallel.Rules,
    dtype: str | None,
    quantize: str,
    params: str = "",
) -> Models:
    """The models in `path/decoder/model` and `path/tokenizer/model`; see `Sampler.load`."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"the models cannot be in {path!r}; give the path of a directory.")
    path = storage.path(path)
    decoder, decoder_params, about = load_decoder(path / "decoder/model", mesh, rules, params)
    tokenizer, tokenizer_params, found = load_tokenizer(path / "tokenizer/model", mesh)
    if not belong(about, found):
        raise InputError(
            f"the decoder in {path} was trained on codes of another tokenizer; train it again "
            "or put back the tokenizer that it belongs to."
        )
    guidable = about["label_drop"] > 0
    try:
        own = defaults.read(about.get("sampling"), decoder.config.num_tokens, guidable)
    except InputError as error:
        raise InputError(f"{path / 'decoder/model/model.json'}: {error}") from None
    if quantize:
        decoder_params = quantize_decoder(decoder_params, quantize, donate=True)
    layers = "scan" if mesh.devices.flat[0].platform == "tpu" else "unrolled"
    decoder, decoder_params = lay_out(decoder, decoder_params, layers, dtype)
    return Models(
        decoder=decoder,
        decoder_params=decoder_params,
        tokenizer=tokenizer.clone(decode_dtype=dtype or ""),
        tokenizer_params=tokenizer_params,
        class_names=tuple(about["class_names"]),
        guidable=guidable,
        defaults=own,
    )
