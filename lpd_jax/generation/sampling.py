"""From logits to tokens: guidance, temperature, top-k, top-p (official `models/sampling.py`).

Dims: B batch, Q tokens of a group, V codes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lpd_jax import checks, parallel
from lpd_jax.errors import InputError

_MOST = 10**9  # of a number that the logits are multiplied or divided by: beyond lies infinity


@struct.dataclass
class SamplingRule:
    """How tokens are drawn. Numbers are traced: changing one compiles nothing.

    Attributes:
        temperature: divides the logits, >= 0 (clamped at 1e-5 like the official code).
        guidance: scale of classifier-free guidance, >= 0; 1 changes nothing but costs the
            unconditional branch. None leaves that branch out, half the work: another program.
        top_p: nucleus mass in (0, 1], or None for no nucleus: another program.
        top_k: codes kept, ties included; 0 keeps all. Static.
        guidance_schedule: "linear" grows the scale from 1 (the first token is unguided) by
            (guidance - 1) / N a token; "constant" does not. Static.
    """

    temperature: jax.Array | float = 1.0
    guidance: jax.Array | float | None = None
    top_p: jax.Array | float | None = None
    top_k: int = struct.field(pytree_node=False, default=0)
    guidance_schedule: str = struct.field(pytree_node=False, default="linear")


def sampling_rule(
    *,
    temperature: float = 1.0,
    guidance: float | None = None,
    guidance_schedule: str = "linear",
    top_k: int = 0,
    top_p: float | None = 1.0,
) -> SamplingRule:
    """The checked rule for plain numbers; all of one kind share a program.

    Args:
        temperature: 0 takes the best code.
        guidance: a number computes the unconditional branch, also 1; None does not.
        top_p: 1 has no nucleus, like None; any other number shares a program.
        guidance_schedule, top_k: see `SamplingRule`.

    Raises:
        InputError: a number is none, not finite, or out of its range.
    """
    if guidance is not None:
        guidance = jnp.float32(checks.number("guidance", guidance, 0, _MOST))
    if guidance_schedule not in ("linear", "constant"):
        raise InputError(f"guidance_schedule={guidance_schedule!r} must be 'linear' or 'constant'.")
    top_p = checks.number("top_p", 1.0 if top_p is None else top_p, 0, 1)
    if top_p == 0:
        raise InputError("top_p=0 keeps no code; give a number above 0 (1 keeps every code).")
    return SamplingRule(
        temperature=jnp.float32(checks.number("temperature", temperature, 0, _MOST)),
        guidance=guidance,
        # The bisection in every step costs what the loop does without it, so that 1 does without.
        top_p=None if top_p == 1 else jnp.float32(top_p),
        top_k=checks.whole("top_k", top_k, 0),
        guidance_schedule=guidance_schedule,
    )


def guidance_scale(rule: SamplingRule, positions: jax.Array, num_tokens: int) -> jax.Array:
    """Scale at generation positions int [...]; float32 of that shape."""
    if rule.guidance_schedule == "constant":
        return jnp.full(positions.shape, rule.guidance, jnp.float32)
    return 1 + (rule.guidance - 1) * positions.astype(jnp.float32) / num_tokens


def guide(with_class: jax.Array, without_class: jax.Array, scale: jax.Array) -> jax.Array:
    """Classifier-free guidance of logits [B, Q, V] by scale [Q], or [B, 1] where images differ."""
    return without_class + scale[..., None] * (with_class - without_class)


def filter_logits(logits: jax.Array, top_k: int = 0, top_p: jax.Array | None = None) -> jax.Array:
    """Logits [..., V] with the codes outside top-k, then outside the nucleus, at -inf.

    Top-k keeps all codes that tie with the k-th. The nucleus is the smallest set of best codes
    whose mass exceeds `top_p`; equal logits are taken in the order of their codes.
    """
    if top_k > 0:
        best, codes = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))
        # The best is kept by its place: XLA may compute the logits twice, in two roundings, and a
        # comparison alone would then keep none.
        place = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
        kept = (logits >= best[..., -1:]) | (place == codes[..., :1])
        logits = jnp.where(kept, logits, -jnp.inf)
    if top_p is None:
        return logits
    return _nucleus(logits, top_p)


def _nucleus(logits: jax.Array, top_p: jax.Array) -> jax.Array:
    """Logits [..., V] with the codes outside the nucleus at -inf.

    A code is inside if the mass of the better ones is at most `top_p`. The least logit of which
    this holds is found by bisection over its bits: a sort of the codebook in each body of the loop
    takes TPU compilers longer than all the rest of it.
    """
    mass = jax.nn.softmax(logits, axis=-1)
    bits = jax.lax.bitcast_convert_type(jnp.where(logits == 0, 0, logits), jnp.uint32)
    sign = np.uint32(1 << 31)
    key = jnp.where(bits >= sign, ~bits, bits | sign)  # in the order of the logits

    def better(least: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(key > least, mass, 0), axis=-1, keepdims=True)

    def halve(_, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        holds = better(middle) <= top_p
        return jnp.where(holds, low, middle + 1), jnp.where(holds, middle, high)

    low = jnp.zeros_like(key[..., :1])
    least, _ = jax.lax.fori_loop(0, 32, halve, (low, ~low))
    tied = key == least
    before = jnp.cumsum(tied, axis=-1) - tied  # equal logits are taken in the order of their codes
    inside = (key > least) | (tied & (better(least) + before * mass <= top_p))
    return jnp.where(inside, logits, -jnp.inf)


def sample(
    logits: jax.Array, keys: jax.Array, positions: jax.Array, rule: SamplingRule
) -> jax.Array:
    """Draws codes int32 [B, Q] from (guided) logits float32 [B, Q, V].

    The noise of a token is addressed by its image's key and its generation position, so that a
    token does not depend on how steps are padded or images are batched.

    Args:
        logits: float32 [B, Q, V].
        keys: typed keys [B], one per image.
        positions: int32 [Q], generation positions; [B, Q] where images differ in them.
        rule: temperature, top-k and top-p are used.
    """
    if positions.ndim == 2:
        return _sample(logits, keys, positions, rule)
    return parallel.by_device(_sample, (logits, keys), positions, rule)


def _sample(logits, keys, positions, rule):
    logits = logits / jnp.maximum(rule.temperature, 1e-5)
    logits = filter_logits(logits, rule.top_k, rule.top_p)

    def draw(key: jax.Array, position: jax.Array, logits: jax.Array) -> jax.Array:
        return jax.random.categorical(jax.random.fold_in(key, position), logits)

    per_image = None if positions.ndim == 1 else 0
    drawn = jax.vmap(jax.vmap(draw, (None, 0, 0)), (0, per_image, 0))(keys, positions, logits)
    return drawn.astype(jnp.int32)
