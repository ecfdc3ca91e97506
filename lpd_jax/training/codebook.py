"""How much each code is used in training, and codes that are not: given a new beginning.

V codes, E their dimension, M tokens of a batch.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lpd_jax import checks
from lpd_jax.errors import InputError
from lpd_jax.training.step import Params

USAGE = "usage"  # beside the parameters of the tokenizer, while it is trained


@dataclasses.dataclass(frozen=True)
class Restart:
    """When a code counts as dead, and when the dead ones begin anew.

    Attributes:
        every: steps between restarts; 0: never.
        below: a code is dead whose average share of the tokens is less than `below / V`.
        decay: of that average.
    """

    every: int = 0
    below: float = 0.01
    decay: float = 0.99

    def __post_init__(self):
        checks.whole("tokenizer_loss.restart_every", self.every, 0)
        for name in ("below", "decay"):
            field = f"tokenizer_loss.restart_{name}"
            if not 0 < checks.number(field, getattr(self, name), 0) < 1:
                raise InputError(f"{field}={getattr(self, name)} must be between 0 and 1.")

    def dead(self, usage: jax.Array) -> jax.Array:
        """bool [V] of the average shares [V]."""
        return usage * len(usage) < self.below


def shares(codes: jax.Array, size: int) -> jax.Array:
    """Share of each code among `codes`, int [...] in [0, size): float32 [size], sum 1."""
    return jnp.zeros(size, jnp.float32).at[codes.reshape(-1)].add(1) / codes.size


def with_usage(params: Params) -> Params:
    """Parameters of a tokenizer with the average share of each code beside them, equal at first."""
    size = len(jax.tree.leaves(params["quantizer"])[0])
    return params | {USAGE: jnp.full(size, 1 / size, jnp.float32)}


def restarts(config: Restart) -> Callable[..., Params]:
    """The `Part.after` of a tokenizer with `USAGE`: averages it, and places dead codes anew.

    In the steps `every - 1`, `2 * every - 1`, ... the row of each dead code becomes a latent of the
    batch, no latent twice where there are enough, and its share that of equal use. The moments of
    the optimizer stay. A loss leaves `codes` int [...] and `latents` float32 [..., E].
    """

    def after(params: Params, seen: Any, key: jax.Array, state: Any) -> Params:
        rows = params["quantizer"]["embedding"]
        size = len(rows)
        new = shares(seen["codes"], size)
        usage = config.decay * params[USAGE] + (1 - config.decay) * new

        def restart() -> tuple[jax.Array, jax.Array]:
            latents = seen["latents"].reshape(-1, rows.shape[-1])
            enough = len(latents) >= size
            places = jax.random.choice(key, len(latents), (size,), replace=not enough)
            dead = config.dead(usage)
            return jnp.where(dead[:, None], latents[places], rows), jnp.where(dead, 1 / size, usage)

        due = (state.step + 1) % config.every == 0
        rows, usage = jax.lax.cond(due, restart, lambda: (rows, usage))
        return params | {"quantizer": {"embedding": rows}, USAGE: usage}

    return after
