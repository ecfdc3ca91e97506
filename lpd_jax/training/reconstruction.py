"""What the tokenizer minimises: LlamaGen's `vq_loss.py`, of which every term but one is optional.

B batch, H W pixels, C channels.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from lpd_jax import checks
from lpd_jax.errors import InputError
from lpd_jax.models.tokenizer import Tokenizer
from lpd_jax.pixels import to_unit
from lpd_jax.training.adversarial import DISCRIMINATOR, Adversary, adaptive_weight
from lpd_jax.training.codebook import USAGE, Restart, shares
from lpd_jax.training.step import SEEN, LossFn, Params

PIXELS = ("l2", "l1")
PERCEPTUAL = "perceptual"  # of the constants of the run
_LAST_LAYER = ("decoder", "conv_out", "kernel")
# (constants[PERCEPTUAL], a, b), images float32 [B, H, W, C] in [-1, 1] -> distances float32 [B].
Perceptual = Callable[[Any, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class ReconstructionConfig:
    """Weights of what is asked of an image; the quantiser's are in `TokenizerConfig`.

    Attributes:
        pixels: "l2", mean squared error of pixels in [-1, 1], or "l1", mean absolute error.
        pixel_weight, perceptual_weight: of that, and of a perceptual distance where there is one.
    """

    pixels: str = "l2"
    pixel_weight: float = 1.0
    perceptual_weight: float = 1.0

    def __post_init__(self):
        if self.pixels not in PIXELS:
            raise InputError(
                f"tokenizer_loss.pixels={self.pixels!r} must be one of {', '.join(PIXELS)}."
            )
        for name in ("pixel_weight", "perceptual_weight"):
            checks.number(f"tokenizer_loss.{name}", getattr(self, name), 0)


def tokenizer_loss(
    tokenizer: Tokenizer,
    config: ReconstructionConfig = ReconstructionConfig(),
    perceptual: Perceptual | None = None,
    adversary: Adversary | None = None,
    restart: Restart | None = None,
) -> LossFn:
    """Error of the reconstruction, plus the quantiser's own losses.

    Args:
        tokenizer: the network.
        config: pixels and weights; squared error by default.
        perceptual: a distance of images whose parameters are the constant `PERCEPTUAL` of the run.
        adversary: the part "discriminator", whose verdict counts from its start on.
        restart: of dead codes; where there is one, the parameters have `USAGE`.

    Returns:
        (params, batch, key, place, state, given) -> (loss, metrics), for batches of `image` uint8
        [B, H, W, C]. It leaves what `discriminator_loss` and `codebook.restarts` need.
    """

    def loss_fn(params, batch, key, place=None, state=None, given=None):
        del key, place
        images, seen = to_unit(batch["image"]), {}

        def of_pixels(reconstruction):
            return _error(config, perceptual, reconstruction, images, given or {})

        if adversary is None:
            reconstruction, quantized = tokenizer.apply({"params": params}, images)
            error, metrics = of_pixels(reconstruction)
        else:
            error, metrics, quantized, reconstruction = _opposed(
                tokenizer, adversary, of_pixels, params, images, state
            )
            seen["reconstruction"] = reconstruction
        used = shares(quantized.codes, tokenizer.config.codebook_size)
        metrics |= {
            "vq": quantized.vq,
            "commitment": quantized.commitment,
            "entropy": quantized.entropy,
            "codes_in_batch": jnp.mean(used > 0),
            "perplexity": jnp.exp(-jnp.sum(used * jnp.log(jnp.where(used > 0, used, 1)))),
        }
        if restart is not None:
            metrics["dead_codes"] = jnp.mean(restart.dead(params[USAGE]))
            seen |= {"codes": quantized.codes, "latents": quantized.inputs}
        if seen:
            metrics[SEEN] = jax.lax.stop_gradient(seen)
        return error + quantized.vq + quantized.commitment + quantized.entropy, metrics

    return loss_fn


def _error(
    config: ReconstructionConfig,
    perceptual: Perceptual | None,
    reconstruction: jax.Array,
    images: jax.Array,
    given: Mapping[str, Any],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted error of images float32 [B, H, W, C] without a discriminator, and metrics."""
    mse = error = jnp.mean(jnp.square(reconstruction - images))
    metrics = {"mse": mse}
    if config.pixels == "l1":
        error = metrics["l1"] = jnp.mean(jnp.abs(reconstruction - images))
    error = config.pixel_weight * error
    if perceptual is not None:
        distance = jnp.mean(perceptual(given[PERCEPTUAL], images, reconstruction))
        error += config.perceptual_weight * distance
        metrics["lpips"] = distance
    return error, metrics


def _opposed(
    tokenizer: Tokenizer,
    adversary: Adversary,
    of_pixels: Callable,
    params: Params,
    images: jax.Array,
    state: Any,
) -> tuple[jax.Array, dict[str, jax.Array], Any, jax.Array]:
    """Weighted error with the verdict of the discriminator, metrics, quantised, reconstruction.

    Both gradients by the image are taken once, for the adaptive weight and for training: behind
    them lie the two deepest networks.
    """
    flat, config, still = flatten_dict(params), adversary.config, jax.lax.stop_gradient

    def decode(kernel):
        changed = unflatten_dict(flat | {_LAST_LAYER: kernel})
        return tokenizer.apply({"params": changed}, images)

    reconstruction, by_kernel, quantized = jax.vjp(decode, flat[_LAST_LAYER], has_aux=True)
    own, judge = still(reconstruction), state.params[DISCRIMINATOR]
    (error, metrics), pull = jax.value_and_grad(of_pixels, has_aux=True)(own)
    begun = state.step >= config.start
    verdict, push = jax.lax.cond(
        begun,
        jax.value_and_grad(lambda made: adversary.judge(judge, made)),
        lambda made: (jnp.float32(0), jnp.zeros_like(made)),
        own,
    )
    weight = jnp.where(begun, config.weight, 0.0)
    if config.adaptive:
        weight *= adaptive_weight(*(still(by_kernel(x)[0]) for x in (pull, push)))
    metrics |= {"adversarial": verdict, "adversarial_weight": weight}
    # A number that has the value of the error, and by the image the gradient that was found.
    slope = jnp.sum(still(pull + weight * push) * reconstruction)
    return still(error + weight * verdict) + (slope - still(slope)), metrics, quantized, own
