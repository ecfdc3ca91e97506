"""A discriminator against the tokenizer: what each of the two minimises (LlamaGen's `vq_loss.py`).

B batch, H W pixels, C channels, h w outputs of the discriminator.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lpd_jax import checks
from lpd_jax.errors import InputError
from lpd_jax.models.discriminator import Discriminator
from lpd_jax.pixels import to_unit
from lpd_jax.training.step import SEEN, LossFn, Params

TOKENIZER, DISCRIMINATOR = "tokenizer", "discriminator"  # names of the parts
LOSSES = ("hinge", "non_saturating")
LECAM = "lecam"  # averages of the outputs, beside the parameters of the network
_LARGEST = 1e4  # of the adaptive weight


@dataclasses.dataclass(frozen=True)
class AdversarialConfig:
    """How the two are set against each other; the defaults are LlamaGen's.

    Attributes:
        weight: of the discriminator's verdict in the tokenizer's loss, and of its own loss.
        adaptive: multiplies the former by `adaptive_weight`.
        start: step from which on there is a discriminator.
        loss: "hinge", or "non_saturating" (Goodfellow et al., 2014).
        lecam: weight of the LeCam regularisation (Tseng et al., 2021); 0: none.
        lecam_decay: of the averages that it holds the outputs to.
    """

    weight: float = 0.5
    adaptive: bool = False
    start: int = 20_000
    loss: str = "hinge"
    lecam: float = 0.0
    lecam_decay: float = 0.999

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise InputError(
                f"discriminator.loss={self.loss!r} must be one of {', '.join(LOSSES)}."
            )
        checks.whole("discriminator.start", self.start, 0)
        for name in ("weight", "lecam"):
            checks.number(f"discriminator.{name}", getattr(self, name), 0)
        if not checks.number("discriminator.lecam_decay", self.lecam_decay, 0) < 1:
            raise InputError(f"discriminator.lecam_decay={self.lecam_decay} must be less than 1.")


@dataclasses.dataclass(frozen=True)
class Adversary:
    """The discriminator as the tokenizer's loss sees it."""

    network: Discriminator
    config: AdversarialConfig

    def judge(self, params: Params, images: jax.Array) -> jax.Array:
        """What the tokenizer minimises for images float32 [B, H, W, C] that it made."""
        logits = self.network.apply({"params": params}, images)
        return generator_loss(self.config.loss, logits)


def generator_loss(loss: str, made: jax.Array) -> jax.Array:
    """What the tokenizer minimises: low where `made`, outputs for its images, are high."""
    return -jnp.mean(made) if loss == "hinge" else jnp.mean(jax.nn.softplus(-made))


def opposing_loss(loss: str, real: jax.Array, made: jax.Array) -> jax.Array:
    """What the discriminator minimises, given its outputs of any shape."""
    bend = jax.nn.relu if loss == "hinge" else jax.nn.softplus
    margin = 1.0 if loss == "hinge" else 0.0
    return 0.5 * (jnp.mean(bend(margin - real)) + jnp.mean(bend(margin + made)))


def adaptive_weight(pixels: jax.Array, verdict: jax.Array) -> jax.Array:
    """By how much to multiply the verdict, so that both pull alike at the last layer.

    |pixels| / (|verdict| + 1e-4), at most 10,000 (Esser et al., 2021), of the gradients of the two
    losses by the last layer's kernel. No gradient passes.
    """
    ratio = jnp.linalg.norm(pixels.ravel()) / (jnp.linalg.norm(verdict.ravel()) + 1e-4)
    return jax.lax.stop_gradient(jnp.minimum(ratio, _LARGEST))


def lecam_loss(
    real: jax.Array, made: jax.Array, mean_real: jax.Array, mean_made: jax.Array
) -> jax.Array:
    """Keeps outputs from running away from the averages of those for the other kind of images."""
    away = jnp.square(jax.nn.relu(real - mean_made)), jnp.square(jax.nn.relu(mean_real - made))
    return jnp.mean(away[0]) + jnp.mean(away[1])


def discriminator_loss(network: Discriminator, config: AdversarialConfig) -> LossFn:
    """Tells images from what the tokenizer makes of them, with its parameters before the step.

    Returns:
        (params, batch, key, place, state, given) -> (loss, metrics), for batches of `image` uint8
        [B, H, W, C], and reconstructions float32 [B, H, W, C] that the loss of the part "tokenizer"
        left. With LeCam, `params` have its averages, see `with_averages`.
    """

    def loss_fn(params, batch, key, place=None, state=None, given=None):
        del key, place, state
        real = network.apply({"params": params}, to_unit(batch["image"]))
        made = network.apply({"params": params}, given[TOKENIZER]["reconstruction"])
        loss = config.weight * opposing_loss(config.loss, real, made)
        means = {"real": jnp.mean(real), "made": jnp.mean(made)}
        metrics = {"logits_real": means["real"], "logits_made": means["made"]}
        if config.lecam:
            away = lecam_loss(real, made, params[LECAM]["real"], params[LECAM]["made"])
            loss += config.lecam * away
            metrics |= {"lecam": away, SEEN: jax.lax.stop_gradient(means)}
        return loss, metrics

    return loss_fn


def with_averages(params: Params) -> Params:
    """Parameters of a discriminator, with the averages of LeCam beside them, at 0."""
    return params | {LECAM: {"real": jnp.float32(0), "made": jnp.float32(0)}}


def follow(decay: float) -> Callable[..., Params]:
    """The `Part.after` that moves the averages of LeCam towards the outputs of the step."""

    def after(params: Params, seen: Any, key: jax.Array, state: Any) -> Params:
        del key, state
        moved = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, params[LECAM], seen)
        return params | {LECAM: moved}

    return after
