"""The training loop that every network here shares."""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from tqdm import tqdm

from lpd_jax import distributed
from lpd_jax.checkpoint import Checkpoints
from lpd_jax.errors import InputError
from lpd_jax.metrics import Writer
from lpd_jax.training.state import TrainState

_LOG = logging.getLogger(__name__)

Step = Callable[[TrainState, Any], tuple[TrainState, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Length and rhythm of a run.

    Attributes:
        steps: optimizer steps in all.
        log_every: steps between rows of metrics.
        save_every: steps between checkpoints (the last step is always saved).
        keep, keep_every: newest checkpoints that stay; steps that stay for good (0: none).
    """

    steps: int
    log_every: int = 10
    save_every: int = 1000
    keep: int = 2
    keep_every: int = 0


def fit(
    state: TrainState,
    step_fn: Step,
    batches: Iterator[Any],
    put: Callable[[Any], Any],
    config: LoopConfig,
    checkpoints: Checkpoints,
    writer: Writer,
    name: str,
) -> TrainState:
    """Runs steps until `config.steps` have been done.

    Args:
        state: the state to go on from; donated.
        step_fn: jitted (state, batch) -> (state, metrics).
        batches: iterator of this process's batches, with `get_state`.
        put: moves a batch to the devices.
        config: length and rhythm.
        checkpoints: where to save.
        writer: where metrics go.
        name: shown before the progress bar.

    Raises:
        InputError: the loss is no longer finite. Nothing is saved after that.
        Preempted: SIGTERM or SIGUSR1 came to one of the processes; the step is saved.
    """
    start = int(state.step)
    pending: list[tuple[int, dict[str, jax.Array]]] = []
    bar = tqdm(
        total=config.steps,
        initial=start,
        desc=name,
        unit="step",
        dynamic_ncols=True,
        mininterval=1,
        disable=jax.process_index() != 0,
    )

    def report(rows: list[tuple[int, dict[str, jax.Array]]]) -> None:
        for step, metrics in jax.device_get(rows):
            scalars = {key: float(value) for key, value in metrics.items()}
            if not math.isfinite(scalars["loss"]):
                checkpoints.wait()
                raise InputError(
                    f"the loss is {scalars['loss']} at step {step}; the last good checkpoint is "
                    f"step {checkpoints.latest}. Lower the learning rate (or clip_norm) and run "
                    "the same command again with another workdir, or without the change to retry "
                    "from that checkpoint."
                )
            if step % config.log_every == 0 or step == config.steps - 1:
                writer.write(step, scalars)
                bar.set_postfix(loss=f"{scalars['loss']:.4f}", refresh=False)

    with bar, distributed.preemption() as preempted:
        for step in range(start, config.steps):
            with jax.profiler.StepTraceAnnotation(name, step_num=step):
                state, metrics = step_fn(state, put(next(batches)))
            # Metrics are read one step late, so that the device always has the next step to do.
            if len(pending) >= config.log_every:
                report(pending)
                pending = []
            pending.append((step, metrics))
            bar.update()
            done, stop = step + 1, preempted()
            if stop or done % config.save_every == 0 or done == config.steps:
                report(pending)
                pending = []
                writer.flush()  # a run that goes on from this step has the rows before it
                checkpoints.save(done, state, batches.get_state())
                _LOG.info("%s: saving step %d", name, done)
            if stop:
                checkpoints.wait()
                raise distributed.Preempted(
                    f"{name} was asked to stop and saved step {done} of {config.steps}; run the "
                    "same command to go on."
                )
    checkpoints.wait()
    return state
