"""The loss on images that training never sees: all of them, and how far to trust the mean.

B batch, N image tokens, M held-out images, R schedules of group sizes.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lpd_jax import distributed, parallel
from lpd_jax.models.decoder import Decoder
from lpd_jax.training.objectives import DrawOrder, decoder_losses, uniform_order

# (params, steps_of int32 [R, N]) -> float64 [M], the loss of every image.
Heldout = Callable[[Any, np.ndarray], np.ndarray]


def heldout_losses(
    decoder: Decoder,
    images: Mapping[str, np.ndarray],
    *,
    batch_size: int,
    key: jax.Array,
    mesh: jax.sharding.Mesh,
    chunk: int = 0,
    draw_order: DrawOrder = uniform_order,
) -> Heldout:
    """Losses per token of held-out images, each in an order that its index and `key` decide.

    Args:
        decoder: what is trained; without dropout here.
        images: `codes` int32 [M, N] and `label` int32 [M], the same in every process.
        batch_size: images at a time, over all devices; rounded up to what they divide. The
            losses do not depend on it.
        key: of the orders, and of the schedule of each image where there are several.
        mesh: devices. The result is called within `parallel.use` of it, in all processes.
        chunk, draw_order: as in `decoder_loss`.
    """
    network = Decoder(dataclasses.replace(decoder.config, dropout=0.0))
    count = len(images["label"])

    @jax.jit
    def run(params, batch, steps_of):
        index = batch["index"]
        losses = decoder_losses(network, steps_of, chunk, draw_order)
        return losses(params, batch, key, index)

    def take(index):
        return {
            "codes": images["codes"][index],
            "label": images["label"][index],
            "index": index.astype(np.int32),
        }

    def losses(params, steps_of):
        steps = jnp.asarray(steps_of)
        batches = parallel.in_batches(
            count, batch_size, mesh, take, lambda batch: run(params, batch, steps)
        )
        return np.concatenate(distributed.to_host([*batches]))[:count].astype(np.float64)

    return losses


def mean_and_error(losses: np.ndarray) -> tuple[float, float]:
    """Mean of [M] values, and its standard error (NaN of a single value)."""
    if len(losses) < 2:
        return float(losses.mean()), math.nan
    return float(losses.mean()), float(losses.std(ddof=1) / math.sqrt(len(losses)))
