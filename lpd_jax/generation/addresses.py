"""Randomness by address: the seed of a run and the index of an image decide that image's draws."""

import functools
from typing import Any

import jax


def image_keys(key: jax.Array, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Typed keys [B] of the orders and of the tokens of images `indices` int32 [B]."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
    return jax.vmap(lambda k: tuple(jax.random.split(k)))(keys)


@functools.partial(jax.jit, static_argnames=("grid", "group_sizes"))
def draw_orders(
    order: Any,
    key: jax.Array,
    indices: jax.Array,
    grid: tuple[int, int],
    group_sizes: tuple[int, ...],
) -> jax.Array:
    """The orders int32 [B, N] that images `indices` int32 [B] of a run get from `order`."""
    order_keys, _ = image_keys(key, indices)
    return jax.vmap(lambda k: order.draw(k, grid, group_sizes))(order_keys)


def given_or_drawn(
    order: Any,
    key: jax.Array,
    indices: jax.Array,
    grid: tuple[int, int],
    group_sizes: tuple[int, ...],
) -> jax.Array:
    """`draw_orders`, or `order` itself where it holds orders int32 [B, N]."""
    if isinstance(order, jax.Array):
        return order
    return draw_orders(order, key, indices, grid, group_sizes)
