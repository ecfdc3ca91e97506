"""Trained networks: from a model directory to a module and its parameters on the devices."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lpd_jax import checkpoint, parallel
from lpd_jax.models.decoder import Decoder, DecoderConfig
from lpd_jax.models.tokenizer import Tokenizer, TokenizerConfig


def init_tokenizer(network: Tokenizer, key: jax.Array) -> Any:
    """Parameters of a tokenizer."""
    side = network.config.stride
    return network.init(key, jnp.zeros((1, side, side, network.config.in_channels)))["params"]


def init_decoder(network: Decoder, key: jax.Array) -> Any:
    """Boxed parameters of a decoder."""
    tokens = jnp.zeros((1, network.config.num_tokens), jnp.int32)
    return network.init(key, tokens, tokens[:, 0], tokens, tokens)["params"]


def load_tokenizer(path: Path, mesh: jax.sharding.Mesh) -> tuple[Tokenizer, Any, dict[str, Any]]:
    """Network, parameters (whole on every device) and what `model.json` says.

    Raises:
        InputError: absent, damaged, or not a tokenizer.
    """
    about = checkpoint.read_model_json(path, "tokenizer")
    network = Tokenizer(TokenizerConfig(**about["config"]))
    abstract = jax.eval_shape(lambda: init_tokenizer(network, jax.random.key(0)))
    shardings = jax.tree.map(lambda _: parallel.replicated(mesh), abstract)
    return network, checkpoint.load_params(path, abstract, shardings), about


def load_decoder(
    path: Path, mesh: jax.sharding.Mesh, rules: parallel.Rules = parallel.RULES
) -> tuple[Decoder, Any, dict[str, Any]]:
    """Network, parameters (sharded by the rules) and what `model.json` says.

    Raises:
        InputError: absent, damaged, or not a decoder.
    """
    about = checkpoint.read_model_json(path, "decoder")
    network = Decoder(DecoderConfig(**about["config"]))
    abstract = jax.eval_shape(lambda: init_decoder(network, jax.random.key(0)))
    shardings = parallel.shardings_of(abstract, mesh, rules)
    return network, checkpoint.load_params(path, abstract, shardings), about
