"""Trained networks: from a model directory to a module and its parameters on the devices."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from lpd_jax import parallel, storage
from lpd_jax.models.decoder import Decoder, DecoderConfig
from lpd_jax.models.initial import init_decoder, init_tokenizer
from lpd_jax.models.tokenizer import Tokenizer, TokenizerConfig


def decoder_of(fields: Mapping[str, Any], **more: Any) -> Decoder:
    """The network of the fields of a `DecoderConfig`: those in a `model.json`, or a config's.

    Args:
        fields: some or all of them.
        more: the others, such as the grid, vocab_size and num_classes that the codes decide.
    """
    return Decoder(DecoderConfig(**fields, **more))


def load_tokenizer(
    path: storage.Where, mesh: jax.sharding.Mesh
) -> tuple[Tokenizer, Any, dict[str, Any]]:
    """Network, parameters (whole on every device) and what `model.json` says.

    Raises:
        InputError: absent, damaged, or not a tokenizer.
    """
    from lpd_jax import checkpoint  # brings Orbax, half of what `import lpd_jax` would take

    about = checkpoint.read_model_json(path, "tokenizer")
    network = Tokenizer(TokenizerConfig(**about["config"]))
    abstract = jax.eval_shape(lambda: init_tokenizer(network, jax.random.key(0)))
    shardings = jax.tree.map(lambda _: parallel.replicated(mesh), abstract)
    return network, checkpoint.load_params(path, abstract, shardings), about


def load_decoder(
    path: storage.Where,
    mesh: jax.sharding.Mesh,
    rules: parallel.Rules = parallel.RULES,
    which: str = "",
) -> tuple[Decoder, Any, dict[str, Any]]:
    """Network, parameters (sharded by the rules) and what `model.json` says.

    `which` is "raw", or "ema" for the average of the parameters; "" the average if there is one.
    The third result says which it was, as `params`.

    Raises:
        InputError: absent, damaged, or not a decoder.
    """
    from lpd_jax import checkpoint  # as above

    about = checkpoint.read_model_json(path, "decoder")
    network = decoder_of(about["config"])
    abstract = jax.eval_shape(lambda: init_decoder(network, jax.random.key(0)))
    shardings = parallel.shardings_of(abstract, mesh, rules)
    which = checkpoint.which_params(path, about, which)
    params = checkpoint.load_params(path, abstract, shardings, which)
    return network, params, about | {"params": which}


def belong(decoder: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> bool:
    """Whether a decoder was trained on codes of a tokenizer, given what their `model.json` say.

    A tokenizer of which only the way back to images was trained further has the codes of the one
    before, whose fingerprint is its `codes`.
    """
    return decoder.get("tokenizer") in (tokenizer["fingerprint"], tokenizer.get("codes", ""))


def lay_out(
    decoder: Decoder, params: Any, layers: str, dtype: str | None = None
) -> tuple[Decoder, Any]:
    """A decoder as sampling wants it: kernels in the dtype of their products, layers as asked.

    On CPUs the products of a loop over stacked layers copy their kernel out of the stack first,
    which costs as much as the product itself when a step has few tokens. Unrolled layers do not,
    but TPU compilers take minutes over them. The values are the same.

    Args:
        decoder: with layers "scan".
        params: its (unboxed) parameters; emptied when unrolled, so that at most one of the stacks
            is in memory twice if the caller keeps no other reference to them.
        layers: "scan" or "unrolled", see `DecoderConfig`.
        dtype: of matrix products; the decoder's own by default.

    Returns:
        The decoder so configured, and its parameters, sharded as they were.
    """
    config = dataclasses.replace(decoder.config, layers=layers, dtype=dtype or decoder.config.dtype)
    apart = {}
    if layers == "unrolled":
        stacked, treedef = jax.tree_util.tree_flatten_with_path(params.pop("blocks"))
        split = [[] for _ in range(config.depth)]
        while stacked:
            path, stack = stacked.pop(0)
            # Waited for before the stack is dropped: its memory is needed for the next.
            parts = jax.block_until_ready(_split(stack, product_dtype(path, stack, config.dtype)))
            del stack
            for layer, part in zip(split, parts, strict=True):
                layer.append(part)
        apart = {f"blocks_{i}": jax.tree.unflatten(treedef, part) for i, part in enumerate(split)}
    rest = jax.tree_util.tree_map_with_path(
        lambda path, x: x.astype(product_dtype(path, x, config.dtype)), params
    )
    return Decoder(config), rest | apart


def product_dtype(path: Any, x: jax.Array, dtype: str) -> Any:
    """The dtype in which `lay_out` keeps a leaf: `dtype` for float kernels, else its own."""
    is_kernel = isinstance(path[-1], jax.tree_util.DictKey) and path[-1].key == "kernel"
    return dtype if is_kernel else x.dtype


def _split(stack: jax.Array, dtype) -> tuple[jax.Array, ...]:
    """The entries of the first axis, each placed as it was in the stack."""
    placed = None
    if isinstance(stack.sharding, NamedSharding):
        placed = NamedSharding(stack.sharding.mesh, PartitionSpec(*stack.sharding.spec[1:]))
    return jax.jit(lambda x: tuple(x.astype(dtype)), out_shardings=placed)(stack)
