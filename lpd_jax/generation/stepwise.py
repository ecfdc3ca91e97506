"""Generation one compiled step at a time, for those who watch: `program` cut in pieces.

`begin` (or `begin_edit`) is the prefill, `step` every later pass, `finish` the pixels; `look` shows
what is there in between. They run the functions that the one program runs, on the same padded
shapes: all steps of a segment share one compiled step, as they share the body of its loop.

    run, cache = begin(decoder, params[0], labels, indices, key, order, plan, rule)
    for number, segment in later_steps(plan):
        run, cache = step(decoder, params[0], run, cache, number, plan, segment, rule)
    samples = finish(tokenizer, params[1], run, plan, grid)

A call starts work on the devices and does not wait for it. The cache is donated: what a step was
given is gone. The tokens are not, so that a look at them can go on beside the next step.

Dims: B images, N tokens, M tokens to be generated, H×W pixels, h×w grid.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from lpd_jax import parallel
from lpd_jax.generation import editing
from lpd_jax.generation.addresses import given_or_drawn, image_keys
from lpd_jax.generation.loop import Passes, fill_in, padded, places, with_room
from lpd_jax.generation.plan import Plan, Segment
from lpd_jax.generation.program import in_parts, preview, to_pixels
from lpd_jax.generation.results import Samples
from lpd_jax.generation.sampling import SamplingRule
from lpd_jax.models.decoder import Cache, Decoder
from lpd_jax.models.tokenizer import Tokenizer


@struct.dataclass
class Unfinished:
    """Images on their way, on the devices.

    Attributes:
        tokens: int32 [B, M + overhang] in the order of generation, so far.
        orders: int32 [B, M + overhang], generation position -> raster index.
        keys: typed keys [B] of the tokens.
        kept: bool [B, N], the cells known from the start.
        codes: int32 [B, N], raster order, of which those of the kept cells count.
    """

    tokens: jax.Array
    orders: jax.Array
    keys: jax.Array
    kept: jax.Array
    codes: jax.Array


Begun = tuple[Unfinished, Cache]


def later_steps(plan: Plan) -> Iterator[tuple[np.int32, Segment]]:
    """The steps after the first, 1 to S - 1, and the segment of each."""
    for segment in plan.segments:
        for number in range(segment.first, segment.last):
            yield np.int32(number), segment


@functools.partial(jax.jit, static_argnames=("decoder", "plan"))
def begin(
    decoder: Decoder,
    params: Any,
    labels: jax.Array,
    indices: jax.Array,
    key: jax.Array,
    order: Any,
    plan: Plan,
    rule: SamplingRule,
) -> Begun:
    """The first step of a generation: orders, and the prefill.

    Args:
        decoder: the network; static.
        params: its parameters.
        labels, indices, key, order, plan, rule: as in `program.generate`.
    """
    grid, num_tokens = decoder.config.grid, decoder.config.num_tokens
    orders = given_or_drawn(order, key, indices, grid, plan.group_sizes)
    _, keys = image_keys(key, indices)
    codes = jnp.zeros((len(labels), num_tokens), jnp.int32)
    kept = jnp.zeros_like(codes, bool)
    return _begin(decoder, params, labels, orders, keys, kept, codes, plan, rule)


@functools.partial(jax.jit, static_argnames=("decoder", "tokenizer", "plan", "parts"))
def begin_edit(
    decoder: Decoder,
    tokenizer: Tokenizer,
    params: tuple[Any, Any],
    images: jax.Array,
    unknown: jax.Array,
    labels: jax.Array,
    indices: jax.Array,
    key: jax.Array,
    order: Any,
    plan: Plan,
    rule: SamplingRule,
    parts: int = 1,
) -> Begun:
    """The first step of an edit: VQ encoding, orders, and the prefill with the known tokens.

    Arguments are those of `program.edit`; there is at least one cell to generate.
    """
    order_keys, keys = image_keys(key, indices)
    grid = decoder.config.grid
    orders = editing.orders_of_unknown(order, order_keys, unknown, grid, plan.group_sizes)
    encode = functools.partial(tokenizer.apply, {"params": params[1]}, method="encode")
    codes = in_parts(encode, parts, images)
    return _begin(decoder, params[0], labels, orders, keys, ~unknown, codes, plan, rule)


def _begin(decoder, params, labels, orders, keys, kept, codes, plan, rule) -> Begun:
    orders = padded(orders, plan)
    known = editing.known_tokens(codes, ~kept, plan.num_known)
    run = Passes(decoder, params, plan, rule, keys)
    tokens, cache = run.prefill(labels, orders, known)
    return _in_place(Unfinished(tokens, orders, keys, kept, codes), cache)


def step(
    decoder: Decoder,
    params: Any,
    run: Unfinished,
    cache: Cache,
    number: jax.Array,
    plan: Plan,
    segment: Segment,
    rule: SamplingRule,
) -> Begun:
    """One later step, compiled once for all steps of a segment.

    Args:
        decoder: the network; static.
        params: its parameters.
        run, cache: from the step before; the cache is donated.
        number: int32 [], of the step, `segment.first` to `segment.last - 1`.
        plan: as it was begun with; static.
        segment: of `plan.segments`; static.
        rule: guidance and sampling.
    """
    if jax.tree.leaves(cache)[0].shape[-2] < segment.room:
        cache = _with_room(cache, segment)
    return _step(decoder, params, run, cache, number, plan, segment, rule)


@functools.partial(jax.jit, static_argnames="segment")
def _with_room(cache: Cache, segment: Segment) -> Cache:
    return _in_place_cache(with_room(cache, segment))


@functools.partial(
    jax.jit, static_argnames=("decoder", "plan", "segment"), donate_argnames=("cache",)
)
def _step(decoder, params, run, cache, number, plan, segment, rule) -> Begun:
    at = jax.tree.map(lambda x: jnp.asarray(x)[number - segment.first], places(plan, segment))
    passes = Passes(decoder, params, plan, rule, run.keys)
    (tokens, cache), _ = passes.step(segment, run.orders, (run.tokens, cache), at)
    return _in_place(run.replace(tokens=tokens), cache)


def _in_place(run: Unfinished, cache: Cache) -> Begun:
    """The same, laid out over the devices as every step wants it: one compiled step serves all."""
    return parallel.constrain_batch(run), _in_place_cache(cache)


def _in_place_cache(cache: Cache) -> Cache:
    def constrain(x: jax.Array) -> jax.Array:
        axes = ("batch", "heads", "length", "head_width")
        return nn.with_logical_constraint(x, (*(x.ndim - len(axes)) * ("layers",), *axes))

    return jax.tree.map(constrain, cache)


@functools.partial(jax.jit, static_argnames=("tokenizer", "plan", "grid", "parts"))
def look(
    tokenizer: Tokenizer,
    params: Any,
    run: Unfinished,
    done: jax.Array,
    plan: Plan,
    grid: tuple[int, int],
    parts: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """What is there so far: images uint8 [B, H, W, 3], and known cells bool [B, N].

    Args:
        tokenizer, params: the network; as in `program.preview`, which makes the images.
        run: after these steps.
        done: int32 [], steps done; 0 for what was known from the start.
        plan, grid, parts: as in `program.generate`; static.
    """
    tokens_done = jnp.asarray([*plan.starts, plan.num_generated])[done]
    orders, tokens = (x[:, : plan.num_generated] for x in (run.orders, run.tokens))
    there = jnp.broadcast_to(jnp.arange(plan.num_generated) < tokens_done, tokens.shape)
    known = fill_in(run.kept, orders, there)
    codes = fill_in(run.codes, orders, tokens)
    images = preview(tokenizer, params, codes, known, grid, parts)
    return parallel.constrain_batch((images, known))


@functools.partial(jax.jit, static_argnames=("tokenizer", "plan", "grid", "parts"))
def finish(
    tokenizer: Tokenizer,
    params: Any,
    run: Unfinished,
    plan: Plan,
    grid: tuple[int, int],
    parts: int = 1,
) -> Samples:
    """The finished images, after the last step; arguments as in `look`."""
    orders, tokens = (x[:, : plan.num_generated] for x in (run.orders, run.tokens))
    codes = parallel.constrain_batch(fill_in(run.codes, orders, tokens))
    images = in_parts(functools.partial(to_pixels, tokenizer, params, grid), parts, codes)
    return parallel.constrain_batch(Samples(images, codes, orders))
