"""The real programs, on arrays that have shapes and places but no values."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lpd_jax import parallel
from lpd_jax.compiled import account
from lpd_jax.errors import InputError
from lpd_jax.generation.plan import Plan
from lpd_jax.generation.program import generate, tokenizer_parts
from lpd_jax.generation.sampling import SamplingRule
from lpd_jax.models.decoder import Decoder
from lpd_jax.models.initial import init_decoder, init_tokenizer
from lpd_jax.models.tokenizer import Tokenizer
from lpd_jax.trained import lay_out


@dataclasses.dataclass(frozen=True)
class Program:
    """A jitted function and the abstract arrays to compile it for.

    Attributes:
        name: for people.
        function, args: to be lowered.
        batch: images in all.
        parts: name -> the arguments of which the memory is reported under it.
        scopes: how `account` names the parts of the work.
    """

    name: str
    batch: int
    function: Callable
    args: tuple[Any, ...]
    parts: dict[str, Any]
    scopes: account.Parts


def placed(abstract: Any, shardings: Any) -> Any:
    """Abstract arrays with shardings; one sharding for all, or a tree of them."""
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, abstract)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
    )


def train_program(
    start: Callable,
    step: Callable,
    num_tokens: int,
    batch: int,
    parts: int,
    mesh: jax.sharding.Mesh,
    rules: parallel.Rules,
) -> Program:
    """The training step of the decoder on `batch` images, computed in `parts` parts.

    `start` and `step` are those of `run.prepare`.

    Raises:
        InputError: the batch does not divide among the devices, or not into the parts.
    """
    _check_batch(batch, parts, mesh)
    boxed = jax.eval_shape(start, jax.random.key(0))
    state = placed(nn.unbox(boxed), parallel.shardings_of(boxed, mesh, rules))
    rows = parallel.batch_sharding(mesh)
    arrays = {
        "codes": jax.ShapeDtypeStruct((batch, num_tokens), jnp.int32, sharding=rows),
        "label": jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=rows),
    }
    known = {"parameters": state.params, "optimizer": state.opt_state}
    if jax.tree.leaves(state.ema):
        known["average of parameters"] = state.ema
    return Program("train step", batch, step, (state, arrays), known, account.TRAIN)


def generate_program(
    decoder: Decoder,
    tokenizer: Tokenizer,
    order: Any,
    plan: Plan,
    rule: SamplingRule,
    batch: int,
    mesh: jax.sharding.Mesh,
    rules: parallel.Rules,
) -> Program:
    """Labels to pixels for `batch` images, as `Sampler.sample` runs it.

    Raises:
        InputError: the batch does not divide among the devices.
    """
    _check_batch(batch, 1, mesh)
    rows, whole = parallel.batch_sharding(mesh), parallel.replicated(mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    boxed = jax.eval_shape(lambda k: init_decoder(decoder, k), key)
    abstract = jax.eval_shape(lambda p: lay_out(decoder, p, "scan")[1], nn.unbox(boxed))
    decoder_params = placed(abstract, parallel.shardings_of(boxed, mesh, rules))
    tokenizer_params = placed(jax.eval_shape(lambda k: init_tokenizer(tokenizer, k), key), whole)
    numbers = jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=rows)
    key, order, rule = placed((key, *jax.eval_shape(lambda *x: x, order, rule)), whole)

    pixels = tuple(side * tokenizer.config.stride for side in decoder.config.grid)
    parts = tokenizer_parts(batch, parallel.batch_ways(mesh), pixels)

    def run(params, labels, indices, key, order, rule):
        networks = decoder, tokenizer, params
        return generate(*networks, labels, indices, key, order, plan, rule, parts)

    params = (decoder_params, tokenizer_params)
    known = {"decoder": decoder_params, "tokenizer": tokenizer_params}
    args = (params, numbers, numbers, key, order, rule)
    return Program("generation", batch, jax.jit(run), args, known, account.GENERATE)


def _check_batch(batch: int, parts: int, mesh: jax.sharding.Mesh) -> None:
    ways = parallel.batch_ways(mesh)
    if batch < 1 or batch % (ways * parts):
        raise InputError(
            f"a batch of {batch} does not divide into {parts} part(s) of which each divides among "
            f"{ways} devices (mesh data x fsdp); give a --batch that is a multiple of "
            f"{ways * parts}, or change the mesh."
        )
