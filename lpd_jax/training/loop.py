"""A training run from its start, or its last checkpoint, to its end: the loop of every network."""

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from lpd_jax import checks, distributed, parallel, storage
from lpd_jax.checkpoint import Checkpoints
from lpd_jax.errors import InputError
from lpd_jax.metrics import Writer
from lpd_jax.training.step import Parts, Step, TrainState, abstract_state, begin, prepare
from lpd_jax.training.throughput import Clock

_LOG = logging.getLogger(__name__)

# Abstract state with shardings -> state to begin with, position in the data.
Fork = Callable[[TrainState], tuple[TrainState, dict[str, int]]]


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Length and rhythm of a run. All but `steps` decides what is seen, not what is learned.

    Attributes:
        steps: optimizer steps in all.
        log_every: steps between rows of metrics.
        save_every: steps between checkpoints (the last step is always saved).
        keep, keep_every: newest checkpoints that stay; steps that stay for good (0: none).
        eval_every, sheet_every, fid_every: steps between held-out losses, sheets of samples, and
            FIDs; 0: at the end only, or none.
        fid_images: images of a FID.
        profile_steps: first step of a profiler trace and the one after its last; none when empty.
        wandb: project of Weights & Biases that gets the metrics too; none when empty.
    """

    steps: int
    log_every: int = 10
    save_every: int = 1000
    keep: int = 2
    keep_every: int = 0
    eval_every: int = 0
    sheet_every: int = 0
    fid_every: int = 0
    fid_images: int = 5000
    profile_steps: tuple[int, ...] = ()
    wandb: str = ""

    def __post_init__(self):
        for name in ("steps", "log_every", "save_every", "keep"):
            checks.whole(name, getattr(self, name), 1)
        for name in ("keep_every", "eval_every", "sheet_every", "fid_every"):
            checks.whole(name, getattr(self, name), 0)
        checks.whole("fid_images", self.fid_images, 2)
        steps = tuple(checks.whole("profile_steps", step, 0) for step in self.profile_steps)
        if steps and not (len(steps) == 2 and steps[0] < steps[1]):
            raise InputError(
                f"profile_steps={steps} must be the first step of the trace and the one after its "
                "last, such as (10, 15), or () for none."
            )


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Something that is looked at now and then while training goes on, and that leaves it alone.

    Attributes:
        name: under which its pictures appear.
        every: steps between; 0: never.
        run: (steps done, state) -> name -> number, or picture uint8 [H, W, 3]. All processes call
            it together, within `parallel.use`; they get the same numbers.
    """

    name: str
    every: int
    run: Callable[[int, TrainState], Mapping[str, float | np.ndarray]]


def train(
    name: str,
    directory: storage.Path,
    parts: Parts,
    batches: Iterator[dict[str, Any]],
    *,
    fields: tuple[str, ...],
    loop: LoopConfig,
    seed: int,
    mesh: jax.sharding.Mesh,
    rules: parallel.Rules,
    evaluators: Sequence[Evaluator] = (),
    fork: Fork | None = None,
    flops: float = 0,
    constants: Mapping[str, Any] | None = None,
) -> TrainState:
    """Trains in `directory`, with checkpoints and metrics there.

    Args:
        name: of the run, for people.
        directory: its own.
        parts: what is trained, by name.
        batches: iterator of this process's batches (`parallel.process_rows` of each global
            batch), NumPy arrays, with `get_state` and `set_state`.
        fields: arrays of a batch that the losses take.
        loop: how long, how often.
        seed: of initialisation and of every step's draws.
        mesh, rules: devices, and how parameters lie on them.
        evaluators: what is looked at on the way.
        fork: where to begin when there is no checkpoint to go on from, instead of step 0.
        flops: that an image needs, for the metric `mfu`; 0 leaves it out.
        constants: arrays by name, the same in every process, that all losses are given (`LossFn`).

    Raises:
        InputError: a checkpoint is damaged, a batch does not divide among the devices, the disk is
            full, or the loss is no longer finite.
        Preempted: asked to stop; the step is saved.
    """
    key = jax.random.key(seed)
    start, step = prepare(parts, key=key, mesh=mesh, rules=rules, constants=bool(constants))
    if constants:
        step = _with_constants(step, jax.device_put(dict(constants), parallel.replicated(mesh)))
    abstract = abstract_state(start, key, mesh, rules)

    def put(batch):
        return parallel.put_batch({field: batch[field] for field in fields}, mesh)

    settings = {n: {"optimizer": p.optimizer, "ema_decay": p.ema_decay} for n, p in parts.items()}
    about = {"parts": settings, "loop": loop, "seed": seed}
    with (
        _room_on_disk(directory),
        Checkpoints(directory / "checkpoints", loop.keep, loop.keep_every, about) as checkpoints,
    ):
        if checkpoints.latest is not None:
            stored, position = checkpoints.restore(abstract.stored())
            state = stored.named(parts)
        elif fork is not None:
            state, position = fork(abstract)
        else:
            state, position = begin(start, parts, abstract, key), None
        if position is not None:
            batches.set_state(position)
            _LOG.info("%s: going on from step %d", name, int(state.step))
        clock = Clock([*mesh.devices.flat], flops)
        with (
            Writer(directory, int(state.step), loop.wandb) as writer,
            parallel.use(mesh, rules),
            _bar(name, int(state.step), loop.steps) as bar,
        ):
            reports = _Reports(parts, loop, checkpoints, writer, bar, clock)
            run = _Run(name, step, batches, put, loop, checkpoints, reports, evaluators)
            return run.fit(state, directory / "profile")


def _with_constants(step: Callable, constants: Mapping[str, jax.Array]) -> Step:
    """The step of a state and a batch alone. Not closed over by the program: it would hold them."""
    return lambda state, batch: step(state, batch, constants)


@dataclasses.dataclass(frozen=True)
class _Run:
    """What the loop needs beside the state; as in `train`."""

    name: str
    step: Step
    batches: Iterator[Any]
    put: Callable[[Any], Any]
    config: LoopConfig
    checkpoints: Checkpoints
    reports: "_Reports"
    evaluators: Sequence[Evaluator]

    def fit(self, state: TrainState, profile: storage.Path) -> TrainState:
        """Runs steps until `config.steps` have been done; `state` is donated."""
        config, reports, begun = self.config, self.reports, int(state.step)
        with distributed.preemption() as preempted, _Trace(config.profile_steps, profile) as trace:
            for step in range(begun, config.steps):
                self._evaluate(step, state)
                trace.before(step, state)
                with jax.profiler.StepTraceAnnotation(self.name, step_num=step):
                    with reports.clock.waiting():
                        batch = next(self.batches)
                    batch = self.put(batch)
                    state, metrics = self.step(state, batch)
                reports.add(step, metrics, len(jax.tree.leaves(batch)[0]))
                done, stop = step + 1, preempted()
                if stop or done % config.save_every == 0 or done == config.steps:
                    reports.read()
                    reports.writer.flush()  # a run that goes on from this step has its rows
                    self.checkpoints.save(done, state.stored(), self.batches.get_state())
                    _LOG.info("%s: saving step %d", self.name, done)
                if stop:
                    self.checkpoints.wait()
                    raise distributed.Preempted(
                        f"{self.name} was asked to stop and saved step {done} of {config.steps}; "
                        "run the same command to go on."
                    )
            self._evaluate(config.steps, state)
        self.checkpoints.wait()
        return state

    def _evaluate(self, step: int, state: TrainState) -> None:
        """Before the step: a run that goes on from a checkpoint evaluates it then, once."""
        for evaluator in self.evaluators:
            if step and evaluator.every and step % evaluator.every == 0:
                self.reports.read()
                found = dict(evaluator.run(step, state))
                for name, value in list(found.items()):
                    if np.ndim(value) == 3:
                        self.reports.writer.image(step, f"{evaluator.name}/{name}", found.pop(name))
                if found:
                    self.reports.writer.write(step, found)
                self.reports.clock.restart()


class _Reports:
    """Metrics of the steps that are on their way, as in `train`.

    They are read late, so that the device always has the next step to do.
    """

    def __init__(self, parts, config, checkpoints, writer, bar, clock):
        self.writer, self.clock = writer, clock
        self._parts, self._config = parts, config
        self._checkpoints, self._bar = checkpoints, bar
        self._pending: list[tuple[int, dict[str, jax.Array]]] = []

    def add(self, step: int, metrics: dict[str, jax.Array], images: int) -> None:
        """Notes a step that was started, on a global batch of `images`."""
        if len(self._pending) >= self._config.log_every:
            self.read()
        self._pending.append((step, metrics))
        self.clock.count(images)
        self._bar.update()

    def read(self) -> None:
        """Returns when all steps so far are done; writes the rows that are due.

        Raises:
            InputError: a loss is not finite.
        """
        rows, self._pending = jax.device_get(self._pending), []
        rates = self.clock.read() if rows else {}
        for step, metrics in rows:
            scalars = {name: float(value) for name, value in self._shown(step, metrics)}
            losses = {n: v for n, v in scalars.items() if n.rpartition("/")[2] == "loss"}
            for loss, value in losses.items():
                if not math.isfinite(value):
                    self._stop(step, loss, value)
            if step % self._config.log_every == 0 or step == self._config.steps - 1:
                self.writer.write(step, scalars | rates)
                shown = {name: f"{value:.4f}" for name, value in losses.items()}
                self._bar.set_postfix(shown | _brief(rates), refresh=False)
                rates = {}

    def _shown(self, step: int, metrics: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Those of the parts that moved in the step."""
        for name, value in metrics.items():
            part = next(iter(self._parts)) if len(self._parts) == 1 else name.partition("/")[0]
            if self._parts[part].moves(step):
                yield name, value

    def _stop(self, step: int, loss: str, value: float) -> None:
        self._checkpoints.wait()
        last, change = self._checkpoints.latest, "Lower the learning rate (or clip_norm) and run"
        if last is None:
            raise InputError(
                f"the {loss} is {value} at step {step}, before the first checkpoint. {change} the "
                "command again with another workdir."
            )
        raise InputError(
            f"the {loss} is {value} at step {step}; the last good checkpoint is step {last}. "
            f"{change} the same command again with another workdir, or without the change to "
            "retry from that checkpoint."
        )


class _Trace:
    """A trace of the profiler over some steps, of process 0, for TensorBoard and Perfetto."""

    def __init__(self, steps: tuple[int, ...], path: storage.Path):
        self._steps, self._path = steps if jax.process_index() == 0 else (), path
        self._place: storage.Growing | None = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop()

    def before(self, step: int, state: TrainState) -> None:
        """Starts or stops it, when the steps so far are done."""
        if step in self._steps:
            jax.block_until_ready(state)
            self._stop()
            if step == self._steps[0]:
                self._place = storage.Growing(self._path)
                jax.profiler.start_trace(str(self._place.local))

    def _stop(self) -> None:
        if self._place:
            jax.profiler.stop_trace()
            self._place.close()
            self._place = None
            _LOG.info("profile: %s; look at it with tensorboard --logdir", self._path)


@contextlib.contextmanager
def _room_on_disk(directory: storage.Path) -> Iterator[None]:
    """Says in one sentence that a disk is full; what was saved before stays."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # Orbax and TensorStore report it through many types
        if not storage.is_full(error):
            raise
        raise InputError(
            f"no space is left for {directory}; free some and run the same command: it goes on "
            "from the last checkpoint."
        ) from error


def _bar(name: str, start: int, steps: int) -> tqdm:
    return tqdm(
        total=steps,
        initial=start,
        desc=name,
        unit="step",
        dynamic_ncols=True,
        mininterval=1,
        disable=jax.process_index() != 0,
    )


def _brief(rates: Mapping[str, float]) -> dict[str, str]:
    """Rates as the progress bar shows them."""
    forms = {"images_per_second": ("img/s", "{:.1f}"), "data_wait": ("wait", "{:.1%}")}
    forms["mfu"] = ("mfu", "{:.1%}")
    return {forms[name][0]: forms[name][1].format(value) for name, value in rates.items()}
