"""Parameters to begin with."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from lpd_jax.models.decoder import Decoder
from lpd_jax.models.tokenizer import Tokenizer


@functools.partial(jax.jit, static_argnums=0)
def init_tokenizer(network: Tokenizer, key: jax.Array) -> Any:
    """Parameters of a tokenizer; traced once for a network, however often its shapes are asked."""
    side = network.config.stride
    return network.init(key, jnp.zeros((1, side, side, network.config.in_channels)))["params"]


@functools.partial(jax.jit, static_argnums=0)
def init_decoder(network: Decoder, key: jax.Array) -> Any:
    """Boxed parameters of a decoder; traced once for a network, as those of a tokenizer."""
    tokens = jnp.zeros((1, network.config.num_tokens), jnp.int32)
    return network.init(key, tokens, tokens[:, 0], tokens, tokens)["params"]
