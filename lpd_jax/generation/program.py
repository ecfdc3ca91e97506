"""Labels to pixels as compiled programs: generation, editing, and a look at unfinished images.

Dims: B images, H×W pixels, h×w grid, N = h·w cells, M generated cells (N less the known ones).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange

from lpd_jax import parallel
from lpd_jax.generation import confident, editing
from lpd_jax.generation.addresses import given_or_drawn, image_keys
from lpd_jax.generation.loop import generate_codes, to_raster
from lpd_jax.generation.orders import Confident
from lpd_jax.generation.plan import Plan
from lpd_jax.generation.results import Samples
from lpd_jax.generation.sampling import SamplingRule
from lpd_jax.models.decoder import Decoder
from lpd_jax.models.tokenizer import Tokenizer, to_uint8

_PIXELS_AT_ONCE = 8 * 256 * 256  # that one device encodes or decodes


def tokenizer_parts(batch: int, ways: int, image_size: tuple[int, int]) -> int:
    """Parts in which `batch` images of (H, W) pixels go through the tokenizer on `ways` devices.

    As many as leave every device at most eight images of 256 pixels at a time. The activations of a
    tokenizer are large: for 64 images at once they would be most of what a device holds.
    """
    fitting = max(1, _PIXELS_AT_ONCE // math.prod(image_size))
    return -(-(batch // ways) // fitting)


def in_parts(run: Callable[..., jax.Array], parts: int, *arrays: jax.Array) -> jax.Array:
    """`run(*arrays)`, for `parts` equal parts of the first axis one after the other.

    Every part takes rows from every device's part of the batch, which is padded where it does not
    divide; what `run` makes of the padding is dropped.
    """
    if parts == 1:
        return run(*arrays)
    mesh = jax.sharding.get_abstract_mesh()
    ways = 1 if mesh.empty else parallel.batch_ways(mesh)
    each = len(arrays[0]) // ways
    padding = -each % parts

    def split(x: jax.Array) -> jax.Array:
        if padding:
            x = rearrange(x, "(ways each) ... -> ways each ...", ways=ways)
            x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
            x = rearrange(x, "ways each ... -> (ways each) ...")
        return rearrange(x, "(b parts) ... -> parts b ...", parts=parts)

    def one(part: tuple[jax.Array, ...]) -> jax.Array:
        return run(*parallel.constrain_batch(part))

    results = jax.lax.map(one, tuple(map(split, arrays)))
    results = rearrange(results, "parts b ... -> (b parts) ...")
    if padding:
        results = rearrange(results, "(ways each) ... -> ways each ...", ways=ways)[:, :each]
        results = rearrange(results, "ways each ... -> (ways each) ...")
    return parallel.constrain_batch(results)


@functools.partial(jax.jit, static_argnames=("decoder", "tokenizer", "plan", "parts"))
def generate(
    decoder: Decoder,
    tokenizer: Tokenizer,
    params: tuple[Any, Any],
    labels: jax.Array,
    indices: jax.Array,
    key: jax.Array,
    order: Any,
    plan: Plan,
    rule: SamplingRule,
    parts: int = 1,
) -> Samples:
    """Labels to pixels in one XLA program: orders, all decoding steps, VQ decoding.

    Args:
        decoder, tokenizer: the networks; static.
        params: their parameters, in that order.
        labels: int32 [B].
        indices: int32 [B], address of each image: it alone, with `key`, decides the image's
            randomness.
        key: typed key of the run.
        order: one of `lpd_jax.generation.orders`, drawn per image; or orders int32 [B, N].
        plan: group sizes and padding; static.
        rule: guidance and sampling.
        parts: of the batch that go through the tokenizer one after the other; 0 makes codes only
            and images of no pixels; static.
    """
    grid = decoder.config.grid
    _, token_keys = image_keys(key, indices)
    given, steps = (decoder, params[0], labels), None
    if isinstance(order, Confident):
        generated, orders, steps = confident.generate_codes(*given, token_keys, plan, rule, order)
    else:
        orders = given_or_drawn(order, key, indices, grid, plan.group_sizes)
        generated = generate_codes(*given, orders, token_keys, plan, rule)
    codes = parallel.constrain_batch(to_raster(generated, orders, decoder.config.num_tokens))
    images = jnp.zeros((codes.shape[0], 0, 0, 3), jnp.uint8)
    if parts:
        images = in_parts(functools.partial(to_pixels, tokenizer, params[1], grid), parts, codes)
    return parallel.constrain_batch(Samples(images, codes, orders, steps))


@functools.partial(jax.jit, static_argnames=("decoder", "tokenizer", "plan", "parts"))
def edit(
    decoder: Decoder,
    tokenizer: Tokenizer,
    params: tuple[Any, Any],
    images: jax.Array,
    unknown: jax.Array,
    labels: jax.Array,
    indices: jax.Array,
    key: jax.Array,
    order: Any,
    plan: Plan | None,
    rule: SamplingRule,
    parts: int = 1,
) -> Samples:
    """Images and masks to edited images in one XLA program: VQ encoding, prefill, steps, decoding.

    Args:
        decoder, tokenizer, params, labels, indices, key, order, rule, parts: as in `generate`.
        images: float32 [B, H, W, 3] in [-1, 1].
        unknown: bool [B, N], the cells to generate: M in every row.
        plan: over M generated and N - M known tokens; None when M is 0. Static.

    Returns:
        `Samples` whose orders, int32 [B, M], hold the generated cells only.
    """
    grid = decoder.config.grid
    encode = functools.partial(tokenizer.apply, {"params": params[1]}, method="encode")
    codes = in_parts(encode, parts, images)
    orders = jnp.zeros((len(codes), 0), jnp.int32)
    if plan is not None:
        order_keys, token_keys = image_keys(key, indices)
        orders = editing.orders_of_unknown(order, order_keys, unknown, grid, plan.group_sizes)
        codes = editing.regenerate(
            decoder, params[0], codes, unknown, labels, orders, token_keys, plan, rule
        )
    codes = parallel.constrain_batch(codes)
    images = in_parts(functools.partial(to_pixels, tokenizer, params[1], grid), parts, codes)
    return Samples(images, codes, orders)


@functools.partial(jax.jit, static_argnames=("tokenizer", "grid", "parts"))
def preview(
    tokenizer: Tokenizer,
    params: Any,
    codes: jax.Array,
    known: jax.Array,
    grid: tuple[int, int],
    parts: int = 1,
) -> jax.Array:
    """What the tokenizer makes of unfinished images, uint8 [B, H, W, 3].

    Args:
        tokenizer, params: the network.
        codes: int32 [B, N].
        known: bool [B, N]; the mean of the codebook stands in for the other codes.
        grid: (h, w); static.
        parts: as in `generate`.
    """

    def decode(network: Tokenizer, codes: jax.Array, known: jax.Array) -> jax.Array:
        codebook = network.quantizer.codebook()
        latents = jnp.where(known[..., None], codebook[codes], codebook.mean(axis=0))
        return network.decode_latents(latents.reshape(len(codes), *grid, -1))

    def run(codes: jax.Array, known: jax.Array) -> jax.Array:
        return to_uint8(tokenizer.apply({"params": params}, codes, known, method=decode))

    return in_parts(run, parts, codes, known)


def to_pixels(
    tokenizer: Tokenizer, params: Any, grid: tuple[int, int], codes: jax.Array
) -> jax.Array:
    """Codes int32 [B, N] -> uint8 [B, H, W, 3]."""
    return to_uint8(tokenizer.apply({"params": params}, codes, grid, method="decode"))
