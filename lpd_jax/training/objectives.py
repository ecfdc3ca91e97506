"""What the decoder minimises: the cross-entropy of the codes.

Dims: B batch, N image tokens, R schedules of group sizes, V codes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from lpd_jax import parallel
from lpd_jax.errors import InputError
from lpd_jax.models.decoder import Decoder
from lpd_jax.training.step import LossFn

# (key, step_of int32 [N]) -> int32 [N]: an order for the groups of `step_of`.
DrawOrder = Callable[[jax.Array, jax.Array], jax.Array]


def uniform_order(key: jax.Array, step_of: jax.Array) -> jax.Array:
    """A uniformly random permutation, whatever the groups: the paper's training scheme."""
    return jax.random.permutation(key, len(step_of))


def decoder_loss(
    decoder: Decoder,
    steps_of: jax.Array,
    label_drop: float,
    chunk: int = 0,
    draw_order: DrawOrder = uniform_order,
) -> LossFn:
    """The training scheme of the paper (section 3.1; official `LPD.forward`).

    Every example of every step draws one of the schedules of group sizes, an order (a uniformly
    random one in the paper), and whether its label is dropped, all addressed by its place in the
    global batch.

    Args:
        decoder: the network.
        steps_of: int32 [R, N], group number of the i-th generated token, for each schedule.
        label_drop: probability of training an example without its class.
        chunk: tokens of each image whose logits [B, chunk, V] are in memory at once (they are
            computed again for the gradient); a divisor of N, or 0 for all of them.
        draw_order: of an example, for the groups that it has drawn; jittable, under vmap.

    Returns:
        (params, batch, key, place, state) -> (loss, metrics), for batches of `codes` int32 [B, N]
        and `label` int32 [B].

    Raises:
        InputError: the tokens do not divide into such chunks.
    """
    sums = _decoder_sums(decoder, steps_of, label_drop, chunk, draw_order)

    def loss_fn(params, batch, key, place=None, state=None):
        del state
        loss, hits = sums(params, batch, key, place)
        tokens = batch["codes"].size
        return loss / tokens, {"accuracy": hits / tokens}

    return loss_fn


def decoder_losses(
    decoder: Decoder,
    steps_of: jax.Array,
    chunk: int = 0,
    draw_order: DrawOrder = uniform_order,
) -> Callable:
    """The loss of `decoder_loss` without dropout of labels, of each image by itself.

    Returns:
        (params, batch, key, index) -> float32 [B], mean cross-entropy of an image's tokens.
        Image i draws from `fold_in(key', index[i])`, so that its loss is the same in any batch.
    """
    sums = _decoder_sums(decoder, steps_of, 0.0, chunk, draw_order, axis=1)

    def losses(params, batch, key, index):
        return sums(params, batch, key, index)[0] / batch["codes"].shape[1]

    return losses


def _decoder_sums(
    decoder: Decoder, steps_of, label_drop, chunk, draw_order: DrawOrder, axis=None
) -> Callable:
    """(params, batch, key, place) -> cross-entropy and hits, summed over all tokens or an axis."""
    num_classes = decoder.config.num_classes
    steps_of = jnp.asarray(steps_of)
    if chunk < 0 or (chunk and steps_of.shape[1] % chunk):
        raise InputError(
            f"train.loss_chunk={chunk} must divide the {steps_of.shape[1]} tokens of an image, or "
            "be 0 for all of them at once."
        )

    def draw(key, label):
        order_key, schedule_key, drop_key = jax.random.split(key, 3)
        step_of = steps_of[jax.random.randint(schedule_key, (), 0, len(steps_of))]
        dropped = jax.random.bernoulli(drop_key, label_drop)
        return draw_order(order_key, step_of), step_of, jnp.where(dropped, num_classes, label)

    def sums(params, batch, key, place):
        place = jnp.arange(batch["label"].shape[0]) if place is None else place
        draw_key, dropout_key = jax.random.split(key)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(draw_key, place)
        order, step_of, label = jax.vmap(draw)(keys, batch["label"])
        hidden = decoder.apply(
            {"params": params},
            batch["codes"],
            label,
            order,
            step_of,
            train=True,
            # Parts of a batch must not drop the same units.
            rngs={"dropout": jax.random.fold_in(dropout_key, place[0])},
            method="hidden",
        )
        target = jnp.take_along_axis(batch["codes"], order, axis=1)
        return _sums(decoder, params, hidden, target, chunk or target.shape[1], axis)

    return sums


def _sums(decoder: Decoder, params, hidden, target, chunk, axis) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy and hits, summed, `chunk` tokens of each image at a time."""

    def score(hidden, target):
        logits = decoder.apply({"params": params}, hidden, method="logits")
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, target)
        own = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
        # A maximum, which the loss needs anyway, and not the place of it, which is slow to find.
        return jnp.sum(loss, axis), jnp.sum(own >= jnp.max(logits, axis=-1), axis)

    if chunk == target.shape[1]:
        return score(hidden, target)

    def add(total, part):
        return jax.tree.map(jnp.add, total, score(*parallel.constrain_batch(part))), None

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(len(x), -1, chunk, *x.shape[2:]), 1, 0)

    sums = () if axis is None else (len(hidden),)
    zero = jnp.zeros(sums, jnp.float32), jnp.zeros(sums, jnp.int32)
    return jax.lax.scan(jax.checkpoint(add), zero, (split(hidden), split(target)))[0]
