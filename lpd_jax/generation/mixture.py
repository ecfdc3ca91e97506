"""A mixture of orders: what training draws from, so that a model knows the orders it is used in.

Dims: N cells of the grid.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from lpd_jax import checks
from lpd_jax.errors import InputError
from lpd_jax.generation import orders

# (key, step_of int32[N]) -> int32[N], the order of one example whose groups are those of step_of.
Draw = Callable[[jax.Array, jax.Array], jax.Array]

_CHOICE = 3  # addresses the choice; an order itself draws from the key


def check_weights(weights: Sequence[float], names: Sequence[str]) -> tuple[float, ...]:
    """Shares of the orders of these names, equal ones when no weights are given; their sum is 1.

    Raises:
      InputError: another number of weights than orders, a negative or infinite one, or all zero.
    """
    weights = tuple(weights) or (1.0,) * len(names)
    if len(weights) != len(names):
        raise InputError(
            f"train.order_weights has {len(weights)} weights for the {len(names)} orders of "
            "train.orders; give one for each, or none for equal shares."
        )
    for weight in weights:
        checks.number("train.order_weights", weight, 0)
    if not sum(weights) > 0:
        raise InputError("train.order_weights are all 0; give at least one order a share.")
    return tuple(weight / sum(weights) for weight in weights)


def mixture(chosen: Sequence, shares: Sequence[float], grid: tuple[int, int]) -> Draw:
    """Draws one of the orders with these probabilities, then from it.

    Every order is drawn and one of them kept: an accelerator runs all branches of a batch anyway.
    An example that gets `orders.Random` has the order that it has without a mixture.

    Args:
      chosen: orders of `lpd_jax.generation.orders`.
      shares: probability of each, sum 1.
      grid: (h, w).
    """
    shares = jnp.log(jnp.asarray(shares, jnp.float32))

    def draw(key: jax.Array, step_of: jax.Array) -> jax.Array:
        choice = jax.random.categorical(jax.random.fold_in(key, _CHOICE), shares)
        drawn = [orders.draw_by_step(order, key, grid, step_of) for order in chosen]
        return jnp.stack(drawn)[choice]

    return draw
