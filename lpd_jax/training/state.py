"""What training carries from step to step: data, no functions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

Params = Any
LossFn = Callable[[Params, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


@struct.dataclass
class TrainState:
    """Step count (int32), parameters, optimizer state, and the average of parameters or None."""

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    ema: Params | None


def init_state(params: Params, optimizer: optax.GradientTransformation, ema: bool) -> TrainState:
    """The state before the first step. Keeps the boxes of partitioned parameters."""
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
    )


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    schedule: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    ema_decay: float | None = None,
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """The function to be jitted: (state, batch) -> (state, metrics).

    Args:
        loss_fn: (params, batch, key) -> (loss, metrics).
        optimizer: as in `init_state`.
        schedule: step -> learning rate, for the metrics.
        key: of the run; step s draws from `fold_in(key, s)`.
        ema_decay: in [0, 1), or None for no average.
    """

    def step(state: TrainState, batch):
        step_key = jax.random.fold_in(key, state.step)
        grad = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, metrics), grads = grad(state.params, batch, step_key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema_decay is not None:
            ema = optax.incremental_update(params, ema, 1 - ema_decay)
        metrics |= {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": schedule(state.step),
        }
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    return step
