"""AdamW as in the official recipe: learning-rate schedules, decay groups, clipping."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from lpd_jax import checks
from lpd_jax.errors import InputError

Schedule = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule; steps are optimizer steps, fractions allowed.

    Attributes:
        learning_rate: after warm-up.
        min_learning_rate: at the end of a cosine.
        schedule: "constant", "cosine" (from the end of warm-up to `steps`) or "constant+cosine"
            (constant until `decay_start`, then cosine).
        steps: length of training.
        warmup_steps: linear from 0.
        decay_start: first step of the cosine of "constant+cosine".
        b1, b2, eps: of Adam.
        weight_decay: decoupled; not on biases and norm scales.
        clip_norm: global norm that gradients are cut to; 0 leaves them.
        accumulate: parts of a batch that are computed one after the other, to save memory; the
            gradients are averaged before they are cut.
    """

    learning_rate: float = 1e-4
    min_learning_rate: float = 1e-5
    schedule: str = "constant+cosine"
    steps: int = 1000
    warmup_steps: int = 0
    decay_start: int = 0
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.02
    clip_norm: float = 3.0
    accumulate: int = 1

    def __post_init__(self):
        if self.schedule not in ("constant", "cosine", "constant+cosine"):
            raise InputError(
                f"learning-rate schedule {self.schedule!r} must be 'constant', 'cosine' or "
                "'constant+cosine'."
            )
        checks.whole("accumulate", self.accumulate, 1)
        for name in ("steps", "learning_rate", "eps"):
            if not checks.number(name, getattr(self, name), 0) > 0:
                raise InputError(f"{name}={getattr(self, name)!r} must be greater than 0.")
        zero_or_more = ("min_learning_rate", "weight_decay", "clip_norm", "warmup_steps")
        for name in (*zero_or_more, "decay_start"):
            checks.number(name, getattr(self, name), 0)
        for name in ("b1", "b2"):
            if not checks.number(name, getattr(self, name), 0) < 1:
                raise InputError(f"{name}={getattr(self, name)!r} must be less than 1.")
        if not self.warmup_steps < self.steps:
            raise InputError(
                f"warmup_steps={self.warmup_steps} must be less than steps={self.steps}."
            )
        if self.schedule == "constant+cosine" and not self.decay_start < self.steps:
            raise InputError(
                f"decay_start={self.decay_start} must be less than steps={self.steps}."
            )


def learning_rate(config: OptimizerConfig) -> Schedule:
    """Step (may be fractional) -> learning rate, float32. Source: official `util/lr_sched.py`.

    Not `optax.join_schedules`: it rounds otherwise in up to half of the steps, so that runs that go
    on would change, and gives another rate where `decay_start` lies in the warm-up.
    """
    c = config

    def cosine(step, start):
        phase = jnp.pi * (step - start) / (c.steps - start)
        return c.min_learning_rate + (c.learning_rate - c.min_learning_rate) * 0.5 * (
            1 + jnp.cos(phase)
        )

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        if c.schedule == "constant":
            rate = jnp.full_like(step, c.learning_rate)
        elif c.schedule == "cosine":
            rate = cosine(step, c.warmup_steps)
        else:
            rate = jnp.where(step <= c.decay_start, c.learning_rate, cosine(step, c.decay_start))
        if c.warmup_steps:
            warmup = c.learning_rate * step / c.warmup_steps
            rate = jnp.where(step < c.warmup_steps, warmup, rate)
        return rate

    return schedule


def decays(params):
    """True where weight decay applies: everywhere but on biases and norm scales.

    Source: official `util/misc.py`, which leaves out 1-d parameters and biases; its embeddings,
    `fake_latent`, `mask_token` and `pos_embed` have more dimensions, so they decay.
    """

    def decays_at(path, _) -> bool:
        # Partitioned parameters are boxed, which adds an attribute to their path.
        name = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)][-1]
        return name not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(decays_at, params)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clipping, then AdamW with the schedule above."""
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    return optax.chain(
        clip,
        optax.adamw(
            learning_rate(config),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=decays,
        ),
    )
