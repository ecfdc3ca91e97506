"""Weights of the official PyTorch implementation, both ways."""

from lpd_jax.weights.card import model_card
from lpd_jax.weights.configs import (
    decoder_config,
    decoder_from_official,
    decoder_to_official,
    kind,
    resize_pos_embed,
    tokenizer_config,
    tokenizer_from_official,
    tokenizer_to_official,
)
from lpd_jax.weights.files import read, write

__all__ = [
    "decoder_config",
    "decoder_from_official",
    "decoder_to_official",
    "kind",
    "model_card",
    "read",
    "resize_pos_embed",
    "tokenizer_config",
    "tokenizer_from_official",
    "tokenizer_to_official",
    "write",
]
