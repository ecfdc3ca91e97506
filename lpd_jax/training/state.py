"""What training carries from step to step: data, no functions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from lpd_jax import parallel
from lpd_jax.errors import InputError

Params = Any
# (params, batch, key, [place]) -> (loss, metrics), means over the batch. `place` int32 [B] says
# where in the global batch each example stands, when not at 0, 1, 2, ...; it addresses draws.
LossFn = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


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
    accumulate: int = 1,
) -> Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]:
    """The function to be jitted: (state, batch) -> (state, metrics).

    Args:
        loss_fn: what is minimised.
        optimizer: as in `init_state`.
        schedule: step -> learning rate, for the metrics.
        key: of the run; step s draws from `fold_in(key, s)`.
        ema_decay: in [0, 1), or None for no average.
        accumulate: parts of the batch that are computed one after the other. Their gradients,
            float32, are averaged before the optimizer (and its clipping) sees them.

    Raises:
        InputError: when traced with a batch that does not divide into the parts.
    """
    grad = jax.value_and_grad(loss_fn, has_aux=True)

    def step(state: TrainState, batch):
        step_key = jax.random.fold_in(key, state.step)
        (loss, metrics), grads = averaged(grad, accumulate, state.params, batch, step_key)
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


def averaged(grad: Callable, parts: int, params: Params, batch: Any, key: jax.Array) -> Any:
    """`grad(params, batch, key, [place])`, a tree of means over the batch, in `parts` parts.

    Raises:
        InputError: the batch does not divide into the parts.
    """
    size = len(jax.tree.leaves(batch)[0])
    if parts == 1:
        return grad(params, batch, key)
    if parts < 1 or size % parts:
        raise InputError(
            f"a batch of {size} does not divide into train.accumulate={parts} parts; change "
            "train.batch_size or train.accumulate."
        )

    def split(x: jax.Array) -> jax.Array:
        # Part i takes every parts-th example from the i-th on, so that none leaves its device.
        return jnp.moveaxis(x.reshape(size // parts, parts, *x.shape[1:]), 1, 0)

    def add(total, part):
        batch, place = parallel.constrain_batch(part)
        return jax.tree.map(jnp.add, total, grad(params, batch, key, place)), None

    split_batch = jax.tree.map(split, (batch, jnp.arange(size)))
    one = jax.eval_shape(lambda part: grad(params, part[0], key, part[1]), _first(split_batch))
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), one)
    total, _ = jax.lax.scan(add, zero, split_batch)
    return jax.tree.map(lambda x: x / parts, total)


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), tree)
