"""Likelihood of images under a schedule: which order and group sizes lose least.

A decoder that generates groups G_1 .. G_S gives an image the probability
`prod_s prod_{i in G_s} p(x_i | x_{G_1}, .., x_{G_{s-1}})`, which one teacher-forced pass computes.
Up to the entropy of the data, which no schedule changes, the mean of its negative logarithm *is*
the Kullback-Leibler divergence from the data to what is generated: it judges a schedule without a
sample or a classifier. Guidance, temperature, top-k and top-p are not part of it.

Dims: M images, R draws of orders, N image tokens, K of them that are scored, B batch, V codes.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lpd_jax import distributed, parallel
from lpd_jax.models.decoder import Decoder

# (orders int32 [M, N], step_of int32 [N]) -> float64 [M, N], bits of the i-th generated token.
Bits = Callable[[np.ndarray, np.ndarray], np.ndarray]


@functools.partial(jax.jit, static_argnames=("decoder", "chunk"))
def token_bits(
    decoder: Decoder,
    params: Any,
    codes: jax.Array,
    labels: jax.Array,
    orders: jax.Array,
    step_of: jax.Array,
    chunk: int = 0,
) -> jax.Array:
    """Negative logarithm, base 2, of the probability of every token when it is generated.

    Args:
        decoder: without dropout.
        params: of the decoder.
        codes: int32 [B, N] in raster order.
        labels: int32 [B]; `num_classes` for no class.
        orders: int32 [B, N], generation position -> raster index.
        step_of: int32 [N], group of the i-th generated token.
        chunk: tokens of an image whose logits [B, chunk, V] are in memory at once; a divisor of N,
            or 0 for all of them.

    Returns:
        float32 [B, N], in the order of generation.
    """
    variables = {"params": params}
    hidden = decoder.apply(variables, codes, labels, orders, step_of, method="hidden")
    target = jnp.take_along_axis(codes, orders, axis=1)
    parts = target.shape[1] // (chunk or target.shape[1])

    def score(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        logits = jax.nn.log_softmax(decoder.apply(variables, part[0], method="logits"))
        return -jnp.take_along_axis(logits, part[1][..., None], axis=-1)[..., 0] / math.log(2)

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(len(x), parts, -1, *x.shape[2:]), 1, 0)

    bits = jax.lax.map(score, (split(hidden), split(target)))
    return jnp.moveaxis(bits, 0, 1).reshape(target.shape)


def scorer(
    decoder: Decoder,
    params: Any,
    images: Mapping[str, np.ndarray],
    *,
    batch_size: int,
    mesh: jax.sharding.Mesh,
    chunk: int = 0,
) -> Bits:
    """Bits of all images under any schedule; one program for all of them.

    Args:
        decoder, params: without dropout; as they lie on `mesh`.
        images: `codes` int32 [M, N] and `label` int32 [M], the same in every process.
        batch_size: images at a time, over all devices; rounded up to what they divide. No result
            depends on it.
        mesh: devices. The result is called within `parallel.use` of it, in all processes.
        chunk: as in `token_bits`.
    """
    count = len(images["label"])

    def bits(orders: np.ndarray, step_of: np.ndarray) -> np.ndarray:
        steps = jnp.asarray(step_of)

        def take(index: np.ndarray) -> tuple[np.ndarray, ...]:
            return images["codes"][index], images["label"][index], orders[index]

        def program(arrays: tuple[jax.Array, ...]) -> jax.Array:
            return token_bits(decoder, params, *arrays, steps, chunk)

        found = [*parallel.in_batches(count, batch_size, mesh, take, program)]
        return np.concatenate(distributed.to_host(found))[:count].astype(np.float64)

    return bits


def bits_given(
    bits: Bits, orders: np.ndarray, step_of: np.ndarray, unknown: np.ndarray
) -> np.ndarray:
    """Bits of the unknown cells of images whose other cells are known, as when editing.

    Args:
        bits: of `scorer`.
        orders: int32 [M, K] of the K unknown cells, such as `editing.orders_of_unknown` draws.
        step_of: int32 [K], group of the i-th of them.
        unknown: bool [N], the same K cells in every image.

    Returns:
        float64 [M, K], in the order of generation.
    """
    known = np.flatnonzero(~unknown).astype(orders.dtype)
    given = np.broadcast_to(known, (len(orders), len(known)))
    steps = np.concatenate([np.zeros_like(known), step_of + (len(known) > 0)])
    return bits(np.concatenate([given, orders], axis=1), steps)[:, len(known) :]


class Score(NamedTuple):
    """What a schedule costs, over images and draws of orders.

    Attributes:
        bits_per_token: mean.
        standard_error: of it for these images: how much other draws of orders would change it. 0
            for an order that is the same in every draw, NaN of a single draw.
        standard_error_images: of it for these draws: how much other images would.
        by_image: float64 [M], mean over draws.
        by_position: float64 [K], of the i-th token that is scored, mean over images and draws.
        by_cell: float64 [N], of the token at a raster index; NaN where no token was scored.
    """

    bits_per_token: float
    standard_error: float
    standard_error_images: float
    by_image: np.ndarray
    by_position: np.ndarray
    by_cell: np.ndarray


def score(bits: np.ndarray, orders: np.ndarray, num_cells: int) -> Score:
    """Sums up bits float64 [R, M, K] of K cells in orders int32 [R, M, K]; `num_cells` is N."""
    draws, images, _ = bits.shape
    per_draw = bits.mean(-1)
    by_image = per_draw.mean(0)
    spread = per_draw.var(0, ddof=1).mean() if draws > 1 else math.nan
    times = np.bincount(orders.ravel(), minlength=num_cells)
    cells = np.bincount(orders.ravel(), bits.ravel(), num_cells)
    by_cell = np.where(times > 0, cells / np.maximum(times, 1), math.nan)
    return Score(
        bits_per_token=float(by_image.mean()),
        standard_error=float(math.sqrt(spread / (draws * images))),
        standard_error_images=_error(by_image),
        by_image=by_image,
        by_position=bits.mean((0, 1)),
        by_cell=by_cell,
    )


def difference(a: Score, b: Score) -> tuple[float, float]:
    """Bits per token of `a` less those of `b` on the same images, and the standard error of it.

    Taken image by image: what makes an image hard under either schedule drops out.
    """
    apart = a.by_image - b.by_image
    return float(apart.mean()), _error(apart)


def label(order: str, repulsion: float | None, groups: str = "cosine") -> str:
    """Name of a schedule for people: its order, and its groups where they are not the usual."""
    name = order if repulsion is None else f"{order} {repulsion:g}"
    return name if groups == "cosine" else f"{name}, {groups}"


def by_order(rows: Sequence[Mapping[str, Any]], best: str) -> tuple[list[str], list[list[str]]]:
    """Bits per token as text: a line for each order, a column for each number of steps.

    Args:
        rows: each with `order`, `repulsion` (None of orders that have none), `steps`,
            `bits_per_token` and, unless they are cosine, `groups`.
        best: marks the least of a column, as "{}*" does.

    Returns:
        The head, and the lines below it.
    """
    steps = sorted({row["steps"] for row in rows}, reverse=True)
    named = {}
    for row in rows:
        name = label(row["order"], row["repulsion"], row.get("groups", "cosine"))
        named.setdefault(name, {})[row["steps"]] = row["bits_per_token"]
    least = {n: min(own[n] for own in named.values() if n in own) for n in steps}

    def cell(own: Mapping[int, float], n: int) -> str:
        text = f"{own[n]:.3f}" if n in own else ""
        return best.format(text) if own.get(n) == least[n] else text

    lines = [[name, *(cell(own, n) for n in steps)] for name, own in named.items()]
    return ["order \\ steps", *map(str, steps)], lines


def _error(values: np.ndarray) -> float:
    if len(values) < 2:
        return math.nan
    return float(values.std(ddof=1) / math.sqrt(len(values)))
