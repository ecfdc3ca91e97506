"""Attention over keys that arrive in parts: cached context, new context, queries of the group.

Dims: B batch, T rows that ask, S keys of one part, H heads, K head width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Keys(NamedTuple):
    """One part of the keys: who is there, what they say and who may look.

    Attributes:
        key: float [B, S, H, K].
        value: float [B, S, H, K].
        visible: bool, broadcastable to [B, T, S]; True where a row may attend to a key.
    """

    key: jax.Array
    value: jax.Array
    visible: jax.Array


def attend(query: jax.Array, parts: Sequence[Keys]) -> jax.Array:
    """Softmax attention of `query` over the union of `parts`, scores and softmax in float32.

    The parts are never concatenated, so a cache is read where it lies. A row must see at least one
    key. Source: official `models/block.py`, both of its forward passes.

    Args:
        query: float [B, T, H, K].
        parts: the keys; together they are one softmax.

    Returns:
        float [B, T, H, K] in the dtype of `query`.
    """
    scale = query.shape[-1] ** -0.5
    scores = []
    for part in parts:
        score = jnp.einsum(
            "bthk,bshk->bhts", query * scale, part.key, preferred_element_type=jnp.float32
        )
        visible = jnp.expand_dims(part.visible, -3)
        scores.append(jnp.where(visible, score, jnp.finfo(jnp.float32).min))
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1).astype(query.dtype)
    answer = jnp.zeros(query.shape, jnp.float32)
    start = 0
    for part in parts:
        stop = start + part.key.shape[-3]
        answer += jnp.einsum(
            "bhts,bshk->bthk",
            weights[..., start:stop],
            part.value,
            preferred_element_type=jnp.float32,
        )
        start = stop
    return answer.astype(query.dtype)
