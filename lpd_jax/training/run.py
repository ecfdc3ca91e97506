"""One training run from start, or from its last checkpoint, to its end."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from lpd_jax import parallel, storage
from lpd_jax.checkpoint import Checkpoints, abstract_of
from lpd_jax.metrics import Writer
from lpd_jax.training.loop import LoopConfig, Step, fit
from lpd_jax.training.optimizer import OptimizerConfig, learning_rate, make_optimizer
from lpd_jax.training.state import LossFn, TrainState, init_state, make_train_step

_LOG = logging.getLogger(__name__)


def prepare(
    init: Callable[[jax.Array], Any],
    loss_fn: LossFn,
    *,
    optimizer: OptimizerConfig,
    key: jax.Array,
    mesh: jax.sharding.Mesh,
    rules: parallel.Rules,
    ema_decay: float = 0.0,
) -> tuple[Callable[[jax.Array], TrainState], Step]:
    """What a run computes, before anything lies on a device; arguments as in `train`.

    Returns:
        key -> (boxed) state; jitted (state, batch) -> (state, metrics), which donates the state.
    """
    transformation = make_optimizer(optimizer)

    def start(key: jax.Array) -> TrainState:
        return init_state(init(key), transformation, ema_decay > 0)

    shardings = parallel.shardings_of(jax.eval_shape(start, key), mesh, rules)
    step = jax.jit(
        make_train_step(
            loss_fn,
            transformation,
            learning_rate(optimizer),
            key,
            ema_decay or None,
            optimizer.accumulate,
        ),
        in_shardings=(shardings, parallel.batch_sharding(mesh)),
        out_shardings=(shardings, None),
        donate_argnums=0,
    )
    return start, step


def train(
    name: str,
    directory: storage.Path,
    init: Callable[[jax.Array], Any],
    loss_fn: LossFn,
    batches: Iterator[dict[str, Any]],
    *,
    fields: tuple[str, ...],
    optimizer: OptimizerConfig,
    loop: LoopConfig,
    seed: int,
    mesh: jax.sharding.Mesh,
    rules: parallel.Rules,
    ema_decay: float = 0.0,
    initial: Callable[[Any], Any] | None = None,
) -> TrainState:
    """Trains in `directory`, with checkpoints and metrics there.

    Args:
        name: of the run, for people.
        directory: its own.
        init: key -> (boxed) parameters.
        loss_fn: what is minimised.
        batches: iterator of this process's batches (`parallel.process_rows` of each global
            batch), NumPy arrays, with `get_state` and `set_state`.
        fields: arrays of a batch that the loss takes.
        optimizer, loop: how, how long, how often.
        seed: of initialisation and of every step's draws.
        mesh, rules: devices, and how parameters lie on them.
        ema_decay: of the average of parameters; 0 keeps none.
        initial: abstract parameters with shardings -> parameters to begin with, in place of
            those of `init`. Not called when there is a checkpoint to go on from.

    Raises:
        InputError: a checkpoint is damaged, a batch does not divide among the devices, or the loss
            is no longer finite.
        Preempted: asked to stop; the step is saved.
    """
    key = jax.random.key(seed)
    start, step = prepare(
        init, loss_fn, optimizer=optimizer, key=key, mesh=mesh, rules=rules, ema_decay=ema_decay
    )
    state, _ = parallel.born_sharded(start, mesh, rules, key)

    def put(batch):
        return parallel.put_batch({field: batch[field] for field in fields}, mesh)

    about = {
        "optimizer": dataclasses.asdict(optimizer),
        "loop": dataclasses.asdict(loop),
        "seed": seed,
        "ema_decay": ema_decay,
    }
    with Checkpoints(directory / "checkpoints", loop.keep, loop.keep_every, about) as checkpoints:
        if checkpoints.latest is not None:
            state, position = checkpoints.restore(abstract_of(state))
            batches.set_state(position)
            _LOG.info("%s: going on from step %d", name, int(state.step))
        elif initial is not None:
            params = initial(abstract_of(state.params))
            ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
            state = state.replace(params=params, ema=ema)
        with Writer(directory, int(state.step)) as writer, parallel.use(mesh, rules):
            return fit(state, step, batches, put, loop, checkpoints, writer, name)
