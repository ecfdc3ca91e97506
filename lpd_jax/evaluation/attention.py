"""How far a trained decoder looks: attention by distance (paper section 3.2, equation 3).

Measured where it answers: a query's attention to the tokens that are there, one token a step in a
random order, so that near and far tokens are seen at every stage.

Dims: B images, N tokens, D width, L layers, H heads, S distances.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lpd_jax.models.attention import ImageMask
from lpd_jax.models.decoder import Block, Decoder
from lpd_jax.models.mask import training_mask


@dataclasses.dataclass(frozen=True)
class Reach:
    """Attention by distance in cells, Euclidean and rounded; entry s is about distance s.

    Attributes:
        per_token: float64 [L, H, S], the share of a query's attention that one token at a distance
            gets, mean over the queries that have such tokens (NaN where none has, as at 0).
        mass: float64 [L, H, S], the share that all tokens at a distance get, mean over queries.
        to_class: float64 [L, H], the share that the class gets.
        to_itself: float64 [L, H], the share that the query gets.
    """

    per_token: np.ndarray
    mass: np.ndarray
    to_class: np.ndarray
    to_itself: np.ndarray

    def within(self, distance: int) -> np.ndarray:
        """float64 [L, H]: the part of the attention to tokens that is at most so far."""
        return self.mass[..., : distance + 1].sum(-1) / self.mass.sum(-1)


def distances(grid: tuple[int, int]) -> np.ndarray:
    """int32 [N, N]: Euclidean distance of each pair of cells in cells, rounded."""
    cells = np.argwhere(np.ones(grid))
    return np.rint(np.linalg.norm(cells[:, None] - cells[None], axis=-1)).astype(np.int32)


def reach(
    network: Decoder, params: Any, batches: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> Reach:
    """Attention by distance over batches of images.

    Args:
        network: with layers "scan".
        params: its parameters.
        batches: codes int32 [B, N] in raster order, labels int32 [B], orders int32 [B, N].
    """
    total = None
    for batch in batches:
        sums = jax.tree.map(
            lambda x: np.asarray(x, np.float64), _sums(network, params, *map(jnp.asarray, batch))
        )
        total = sums if total is None else jax.tree.map(np.add, total, sums)
    share, mass, ends, having, queries = total
    with np.errstate(invalid="ignore"):
        per_token = share / having
    return Reach(per_token, mass / queries, ends[..., 0] / queries, ends[..., 1] / queries)


@functools.partial(jax.jit, static_argnames="network")
def _sums(network, params, codes, labels, orders):
    """Sums over images and queries: shares of a token, shares of all, of class and itself."""
    config, n = network.config, network.config.num_tokens
    apart = jnp.asarray(distances(config.grid))
    seen = orders[:, :-1]
    embed = functools.partial(network.apply, {"params": params})
    tokens = embed(jnp.take_along_axis(codes, seen, 1), seen, method="embed_codes")
    context = jnp.concatenate([embed(labels, method="embed_class"), tokens], 1)
    x = jnp.concatenate([context, embed(orders, method="embed_queries")], 1)
    rules = config.query_attention, config.context_attention
    visible = training_mask(jnp.arange(n), *rules)
    # By generation position: how far query i is from the token generated as number j.
    far = apart[orders[:, :, None], seen[:, None, :]]
    there = visible[n:, 1:n]
    bins = jax.nn.one_hot(jnp.where(there, far, -1), int(distances(config.grid).max()) + 1)
    counts = bins.sum(2)  # [B, N, S]

    def layer(x, own):
        (after, _), state = Block(config, parent=None).apply(
            {"params": own},
            x,
            None,
            ImageMask(visible, n),
            None,
            0,
            True,
            capture_intermediates=lambda module, _: module.name == "qkv",
            mutable=["intermediates"],
        )
        qkv = state["intermediates"]["qkv"]["__call__"][0].astype(jnp.float32)
        query, key = qkv[:, n:, 0], qkv[:, :, 1]
        scores = jnp.einsum("bthk,bshk->bhts", query, key) * query.shape[-1] ** -0.5
        weights = jax.nn.softmax(jnp.where(visible[n:], scores, -jnp.inf), -1)
        mass = jnp.einsum("bhts,btsd->bhtd", weights[..., 1:n], bins)
        share = jnp.where(counts[:, None] > 0, mass / jnp.maximum(counts[:, None], 1), 0)
        itself = jnp.diagonal(weights[..., n:], axis1=-2, axis2=-1)
        ends = jnp.stack([weights[..., 0], itself], -1)
        return after, (share.sum((0, 2)), mass.sum((0, 2)), ends.sum((0, 2)))

    _, (share, mass, ends) = jax.lax.scan(layer, x, params["blocks"])
    return share, mass, ends, (counts > 0).sum((0, 1)), len(codes) * n
