"""From logits to tokens: guidance, temperature, top-k, top-p (official `models/sampling.py`).

Dims: B batch, Q tokens of a group, V codes.
"""

import jax
import jax.numpy as jnp
from flax import struct

from lpd_jax import parallel
from lpd_jax.errors import InputError


@struct.dataclass
class SamplingRule:
    """How tokens are drawn. Numbers are traced: changing one compiles nothing.

    Attributes:
        temperature: divides the logits, > 0 (clamped at 1e-5 like the official code).
        guidance: scale of classifier-free guidance, >= 0, or None for none; 1 changes nothing
            but costs the unconditional branch.
        top_p: nucleus mass in (0, 1], or None for no nucleus.
        top_k: codes kept, ties included; 0 keeps all.
        guidance_schedule: "linear" grows the scale from 1 (the first token is unguided) by
            (guidance - 1) / N a token; "constant" does not.
    """

    temperature: jax.Array | float = 1.0
    guidance: jax.Array | float | None = None
    top_p: jax.Array | float | None = None
    top_k: int = struct.field(pytree_node=False, default=0)
    guidance_schedule: str = struct.field(pytree_node=False, default="linear")


def sampling_rule(
    *,
    temperature: float = 1.0,
    guidance: float = 1.0,
    guidance_schedule: str = "linear",
    top_k: int = 0,
    top_p: float = 1.0,
) -> SamplingRule:
    """The rule for plain numbers; the neutral ones (guidance 1, top-p 1) switch the work off.

    Raises:
        InputError: a number is out of its range.
    """
    if temperature < 0:
        raise InputError(f"temperature={temperature} must be at least 0 (0 takes the best code).")
    if guidance < 0:
        raise InputError(f"guidance={guidance} must be at least 0 (1 switches it off).")
    if guidance_schedule not in ("linear", "constant"):
        raise InputError(f"guidance schedule {guidance_schedule!r} must be 'linear' or 'constant'.")
    if top_k < 0:
        raise InputError(f"top_k={top_k} must be at least 0 (0 keeps every code).")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p={top_p} must be in (0, 1] (1 keeps every code).")
    return SamplingRule(
        temperature=jnp.float32(temperature),
        guidance=None if guidance == 1 else jnp.float32(guidance),
        top_p=None if top_p == 1 else jnp.float32(top_p),
        top_k=int(top_k),
        guidance_schedule=guidance_schedule,
    )


def guidance_scale(rule: SamplingRule, positions: jax.Array, num_tokens: int) -> jax.Array:
    """Scale at generation positions int [...]; float32 of that shape."""
    if rule.guidance_schedule == "constant":
        return jnp.full(positions.shape, rule.guidance, jnp.float32)
    return 1 + (rule.guidance - 1) * positions.astype(jnp.float32) / num_tokens


def guide(with_class: jax.Array, without_class: jax.Array, scale: jax.Array) -> jax.Array:
    """Classifier-free guidance of logits [B, Q, V] by scale [Q]."""
    return without_class + scale[:, None] * (with_class - without_class)


def filter_logits(logits: jax.Array, top_k: int = 0, top_p: jax.Array | None = None) -> jax.Array:
    """Logits [..., V] with the codes outside top-k, then outside the nucleus, at -inf.

    Top-k keeps all codes that tie with the k-th. The nucleus is the smallest set of best codes
    whose mass exceeds `top_p`; equal logits are taken in the order of their codes.
    """
    if top_k > 0:
        kth = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][..., -1:]
        logits = jnp.where(logits < kth, -jnp.inf, logits)
    if top_p is not None:
        best_first = jnp.argsort(logits, axis=-1, descending=True, stable=True)
        mass = jax.nn.softmax(jnp.take_along_axis(logits, best_first, axis=-1), axis=-1)
        mass_before = jnp.cumsum(mass, axis=-1)[..., :-1]
        kept = jnp.pad(
            mass_before <= top_p, [(0, 0)] * (logits.ndim - 1) + [(1, 0)], constant_values=True
        )
        kept = jnp.put_along_axis(jnp.zeros_like(kept), best_first, kept, axis=-1, inplace=False)
        logits = jnp.where(kept, logits, -jnp.inf)
    return logits


def sample(
    logits: jax.Array, keys: jax.Array, positions: jax.Array, rule: SamplingRule
) -> jax.Array:
    """Draws codes int32 [B, Q] from (guided) logits float32 [B, Q, V].

    The noise of a token is addressed by its image's key and its generation position, so that a
    token does not depend on how steps are padded or images are batched.

    Args:
        logits: float32 [B, Q, V].
        keys: typed keys [B], one per image.
        positions: int32 [Q], generation positions.
        rule: temperature, top-k and top-p are used.
    """
    return parallel.by_device(_sample, (logits, keys), positions, rule)


def _sample(logits, keys, positions, rule):
    logits = logits / jnp.maximum(rule.temperature, 1e-5)
    logits = filter_logits(logits, rule.top_k, rule.top_p)

    def noise(key, position):
        return jax.random.gumbel(jax.random.fold_in(key, position), logits.shape[-1:])

    noise = jax.vmap(jax.vmap(noise, (None, 0)), (0, None))(keys, positions)
    return jnp.argmax(logits + noise, axis=-1).astype(jnp.int32)
