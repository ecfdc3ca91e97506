"""One step of training: any number of networks, each with a loss and an optimizer of its own."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from lpd_jax import checks, parallel
from lpd_jax.errors import InputError
from lpd_jax.training.optimizer import OptimizerConfig, learning_rate, make_optimizer

Params = Any
# (params, batch, key, place=None, state=None) -> (loss, metrics), means over the batch. The loss
# moves `params`. `place` int32 [B] says where in the global batch each example stands, when
# not at 0, 1, 2, ...; it addresses draws. `state` is the whole TrainState before the step: its
# number, and the other parts' parameters, which this loss sees but does not move.
# A tree `metrics[SEEN]` is no metric: it goes to `Part.after`, and to the losses of the parts that
# follow, as `given[name of the part]` (with `accumulate`, its mean). `given` also has the constants
# of the run, by their names; a loss gets this argument where there is something in it.
LossFn = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
# (params after the optimizer, metrics[SEEN], key, state before the step) -> params
After = Callable[[Params, Any, jax.Array, "TrainState"], Params]
Step = Callable[["TrainState", Any], tuple["TrainState", dict[str, jax.Array]]]

SEEN = "seen"
_INIT = 2**32 - 1  # addresses the other parts' initialisation; no step has this number
_AFTER = 2**32 - 1  # addresses the draws of `Part.after` within a step


@dataclasses.dataclass(frozen=True)
class Part:
    """A network that is trained, and how.

    Attributes:
        init: key -> (boxed) parameters.
        loss: what it minimises.
        optimizer: of its parameters; its schedule counts the part's own updates.
        ema_decay: of the average of its parameters, in [0, 1); 0 keeps none.
        start, every: it moves in the steps `start`, `start + every`, `start + 2 * every`, ...
        initial: abstract parameters with shardings -> parameters to begin with, in place of those
            of `init`. Not called when there is a checkpoint to go on from.
        fixed: names at the top of its parameters that the optimizer leaves alone.
        after: what else moves its parameters, fixed ones too, after the optimizer has.
    """

    init: Callable[[jax.Array], Params]
    loss: LossFn
    optimizer: OptimizerConfig
    ema_decay: float = 0.0
    start: int = 0
    every: int = 1
    initial: Callable[[Params], Params] | None = None
    fixed: tuple[str, ...] = ()
    after: After | None = None

    def __post_init__(self):
        if not checks.number("ema_decay", self.ema_decay, 0) < 1:
            raise InputError(f"ema_decay={self.ema_decay} must be less than 1.")
        checks.whole("start", self.start, 0)
        checks.whole("every", self.every, 1)

    def moves(self, step: Any) -> Any:
        """Whether it moves in a step (a number or an array)."""
        return (step >= self.start) & ((step - self.start) % self.every == 0)

    def updates(self, step: jax.Array) -> jax.Array:
        """How often it has moved before a step in which it moves."""
        return step if self.start == 0 and self.every == 1 else (step - self.start) // self.every

    def split(self, params: Params) -> tuple[Params, dict[str, Params]]:
        """Parameters that the optimizer moves, and those that it does not; see `merge`."""
        if not self.fixed:
            return params, {}
        own = {name: tree for name, tree in params.items() if name not in self.fixed}
        return own, {name: tree for name, tree in params.items() if name in self.fixed}


def merge(own: Params, fixed: dict[str, Params]) -> Params:
    """Undoes `Part.split`."""
    return own | fixed if fixed else own


Parts = Mapping[str, Part]


@struct.dataclass
class TrainState:
    """What training carries from step to step: data, no functions.

    Attributes:
        step: int32, steps done.
        params, opt_state, ema: by name of the part; `ema` is None for a part that keeps no average.
    """

    step: jax.Array
    params: dict[str, Params]
    opt_state: dict[str, optax.OptState]
    ema: dict[str, Params | None]

    def stored(self) -> "TrainState":
        """As in a checkpoint: a part that is alone has no name there (nor had it ever)."""
        if len(self.params) > 1:
            return self
        alone = [next(iter(tree.values())) for tree in (self.params, self.opt_state, self.ema)]
        return TrainState(self.step, *alone)

    def named(self, parts: Parts) -> "TrainState":
        """Undoes `stored`."""
        if len(parts) > 1:
            return self
        (name,) = parts
        return TrainState(self.step, {name: self.params}, {name: self.opt_state}, {name: self.ema})


def prepare(
    parts: Parts,
    *,
    key: jax.Array,
    mesh: jax.sharding.Mesh,
    rules: parallel.Rules,
    constants: bool = False,
) -> tuple[Callable[..., TrainState], Step]:
    """What a run computes, before anything lies on a device.

    Args:
        parts: by name.
        key: of the run; step s draws from `fold_in(key, s)`, all losses from the same key, so that
            two of them can see the same draws.
        mesh, rules: devices, and how parameters lie on them.
        constants: whether the step has a third argument, arrays by name that all losses are given,
            whole on every device.

    Returns:
        (key, given={}) -> (boxed) state, with the parameters in `given` instead of new ones; jitted
        (state, batch) -> (state, metrics), which donates the state. Metrics of one of several parts
        begin with its name: "decoder/loss".
    """

    def start(key: jax.Array, given: Mapping[str, Params] | None = None) -> TrainState:
        params = dict(given or {})
        for number, (name, part) in enumerate(parts.items()):
            if name not in params:
                own = jax.random.fold_in(jax.random.fold_in(key, _INIT), number) if number else key
                params[name] = part.init(own)
        return TrainState(
            step=jnp.int32(0),
            params={name: params[name] for name in parts},
            opt_state={
                name: make_optimizer(part.optimizer).init(part.split(params[name])[0])
                for name, part in parts.items()
            },
            ema={
                name: jax.tree.map(jnp.copy, params[name]) if part.ema_decay > 0 else None
                for name, part in parts.items()
            },
        )

    shardings = parallel.shardings_of(jax.eval_shape(start, key), mesh, rules)
    step = jax.jit(
        make_train_step(parts, key),
        in_shardings=(
            shardings,
            parallel.batch_sharding(mesh),
            *([parallel.replicated(mesh)] * constants),
        ),
        out_shardings=(shardings, None),
        donate_argnums=0,
    )
    return start, step


def abstract_state(
    start: Callable[..., TrainState], key: jax.Array, mesh: jax.sharding.Mesh, rules: parallel.Rules
) -> TrainState:
    """Shapes, dtypes and shardings of the state: what a restore asks for. Nothing is computed."""
    boxed = jax.eval_shape(start, key)
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        nn.unbox(boxed),
        parallel.shardings_of(boxed, mesh, rules),
    )


def begin(
    start: Callable[..., TrainState],
    parts: Parts,
    abstract: TrainState,
    key: jax.Array,
) -> TrainState:
    """The state before the first step; what `initial` of a part gives is not initialised too."""
    given = {n: p.initial(abstract.params[n]) for n, p in parts.items() if p.initial is not None}
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    # Not under `parallel.use`: Linen would constrain kernels while DenseGeneral holds them flat.
    make = jax.jit(
        lambda key, given: nn.unbox(start(key, given)), out_shardings=shardings, donate_argnums=1
    )
    return make(key, given)


def make_train_step(parts: Parts, key: jax.Array) -> Step:
    """The function to be jitted: (state, batch, constants={}) -> (state, metrics); see `prepare`.

    All gradients are taken at the parameters before the step, as in the official tokenizer's GAN.

    Raises:
        InputError: when traced with a batch that does not divide into a part's `accumulate`.
    """

    def step(
        state: TrainState, batch: Any, constants: Mapping[str, Any] | None = None
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        step_key = jax.random.fold_in(key, state.step)
        moved, metrics, given = {}, {}, dict(constants or {})
        for name, part in parts.items():
            move = functools.partial(_move, part, name, state, batch, step_key, dict(given))
            if part.start or part.every > 1:
                moved[name], own, seen = _sometimes(part.moves(state.step), move, name, state)
            else:
                moved[name], own, seen = move()
            if seen is not None:
                given[name] = seen
            prefix = f"{name}/" if len(parts) > 1 else ""
            metrics |= {prefix + metric: value for metric, value in own.items()}
        trees = [{name: new[i] for name, new in moved.items()} for i in range(3)]
        return TrainState(state.step + 1, *trees), metrics

    return step


def _move(part: Part, name: str, state: TrainState, batch: Any, key: jax.Array, given: dict):
    """((params, opt_state, ema), metrics, seen or None) of one part after the step."""
    (own, fixed), parts = part.split(state.params[name]), part.optimizer.accumulate
    see = {"given": given} if given else {}

    def loss_of(own, *inputs):
        return part.loss(merge(own, fixed), *inputs, state=state, **see)

    grad = jax.value_and_grad(loss_of, has_aux=True)
    (loss, metrics), grads = averaged(grad, parts, own, batch, key)
    seen = metrics.pop(SEEN, None)
    transformation = make_optimizer(part.optimizer)
    updates, opt_state = transformation.update(grads, state.opt_state[name], own)
    params, ema = merge(optax.apply_updates(own, updates), fixed), state.ema[name]
    done = part.updates(state.step)
    if part.after is not None:
        params = part.after(params, seen, jax.random.fold_in(key, _AFTER), state)
    if part.ema_decay > 0:
        rate = 1 - ema_decay(part.ema_decay, done)
        # What is fixed is its own average, to the bit.
        own, fixed = part.split(params)
        ema = merge(optax.incremental_update(own, part.split(ema)[0], rate), fixed)
    metrics |= {
        "loss": loss,
        "grad_norm": optax.tree.norm(grads),
        "learning_rate": learning_rate(part.optimizer)(done),
    }
    return (params, opt_state, ema), metrics, seen


def _sometimes(moves: jax.Array, move: Callable, name: str, state: TrainState):
    """`move()` where `moves`, else what was; the metrics then mean nothing and are not shown."""
    blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(move)[1:])
    before = state.params[name], state.opt_state[name], state.ema[name]
    return jax.lax.cond(moves, move, lambda: (before, *blank))


def ema_decay(decay: float, updates: jax.Array) -> jax.Array:
    """Decay of the average at an update, which begins low: the first steps are soon forgotten.

    min(decay, (1 + n) / (10 + n)) after n updates. Source: `num_updates` of TensorFlow's
    `tf.train.ExponentialMovingAverage`.
    """
    return jnp.minimum(decay, (1.0 + updates) / (10.0 + updates))


def averaged(grad: Callable, parts: int, params: Params, batch: Any, key: jax.Array) -> Any:
    """`grad(params, batch, key, [place])`, a tree of means over the batch, in `parts` parts.

    The parts are computed one after the other, to save memory, and their sums are float32. As
    `optax.microbatching.microbatch` does it, which rounds the reported loss of two parts otherwise.

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
