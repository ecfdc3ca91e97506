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
    count, ways = len(images["label"]), parallel.batch_ways(mesh)
    size = ways * math.ceil(min(batch_size, count) / ways)
    rows = parallel.process_rows(mesh, size)

    @jax.jit
    def run(params, batch, steps_of):
        index = batch["index"]
        losses = decoder_losses(network, steps_of, chunk, draw_order)
        return losses(params, batch, key, index)

    def losses(params, steps_of):
        found = []
        for first in range(0, count, size):
            # The last batch is filled up with images from the beginning, whose losses are dropped.
            index = (first + rows) % count
            batch = {
                "codes": images["codes"][index],
                "label": images["label"][index],
                "index": index.astype(np.int32),
            }
            batch = parallel.put_batch(batch, mesh)
            found.append(parallel.in_turn(run(params, batch, jnp.asarray(steps_of))))
        return np.concatenate(distributed.to_host(found))[:count].astype(np.float64)

    return losses


def mean_and_error(losses: np.ndarray) -> tuple[float, float]:
    """Mean of [M] values, and its standard error (NaN of a single value)."""
    if len(losses) < 2:
        return float(losses.mean()), math.nan
    return float(losses.mean()), float(losses.std(ddof=1) / math.sqrt(len(losses)))
