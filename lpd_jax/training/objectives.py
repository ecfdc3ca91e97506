"""What is minimised: the decoder's cross-entropy, the tokenizer's reconstruction.

Dims: B batch, N image tokens, R schedules of group sizes, V codes.
"""

import jax
import jax.numpy as jnp
import optax

from lpd_jax.models.decoder import Decoder
from lpd_jax.models.tokenizer import Tokenizer
from lpd_jax.training.state import LossFn


def decoder_loss(decoder: Decoder, steps_of: jax.Array, label_drop: float) -> LossFn:
    """The training scheme of the paper (section 3.1; official `LPD.forward`).

    Every example of every step draws a uniformly random order, one of the schedules of group
    sizes, and whether its label is dropped, all addressed by its place in the global batch.

    Args:
        decoder: the network.
        steps_of: int32 [R, N], group number of the i-th generated token, for each schedule.
        label_drop: probability of training an example without its class.

    Returns:
        (params, batch, key) -> (loss, metrics), for batches of `codes` int32 [B, N] and `label`
        int32 [B].
    """
    num_classes = decoder.config.num_classes
    steps_of = jnp.asarray(steps_of)

    def draw(key, label):
        order_key, schedule_key, drop_key = jax.random.split(key, 3)
        order = jax.random.permutation(order_key, steps_of.shape[1])
        schedule = jax.random.randint(schedule_key, (), 0, len(steps_of))
        dropped = jax.random.bernoulli(drop_key, label_drop)
        return order, steps_of[schedule], jnp.where(dropped, num_classes, label)

    def loss_fn(params, batch, key):
        draw_key, dropout_key = jax.random.split(key)
        addresses = jnp.arange(batch["label"].shape[0])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(draw_key, addresses)
        order, step_of, label = jax.vmap(draw)(keys, batch["label"])
        logits = decoder.apply(
            {"params": params},
            batch["codes"],
            label,
            order,
            step_of,
            train=True,
            rngs={"dropout": dropout_key},
        )
        target = jnp.take_along_axis(batch["codes"], order, axis=1)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, target).mean()
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == target)
        return loss, {"accuracy": accuracy}

    return loss_fn


def tokenizer_loss(tokenizer: Tokenizer) -> LossFn:
    """Squared error of the reconstruction, plus the quantiser's own losses.

    Returns:
        (params, batch, key) -> (loss, metrics), for batches of `image` uint8 [B, H, W, C].
    """

    def loss_fn(params, batch, key):
        del key
        images = batch["image"].astype(jnp.float32) / 127.5 - 1
        reconstruction, quantized = tokenizer.apply({"params": params}, images)
        mse = jnp.mean(jnp.square(reconstruction - images))
        counts = jnp.zeros(tokenizer.config.codebook_size).at[quantized.codes.reshape(-1)].add(1)
        metrics = {
            "mse": mse,
            "vq": quantized.vq,
            "commitment": quantized.commitment,
            "entropy": quantized.entropy,
            "codes_in_batch": jnp.mean(counts > 0),
        }
        return mse + quantized.vq + quantized.commitment + quantized.entropy, metrics

    return loss_fn
