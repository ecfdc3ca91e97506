"""The decoder against the official LPD: masks, logits, losses, gradients and greedy generation.

Dims: B batch, N tokens, V codes, S steps. "Decode order" arrays have the generation position on
axis 1.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lpd_jax import weights
from lpd_jax.generation.groups import step_of
from lpd_jax.generation.loop import generate_codes, to_raster
from lpd_jax.generation.plan import make_plan
from lpd_jax.generation.sampling import guidance_scale, sampling_rule
from lpd_jax.models.decoder import Decoder
from lpd_jax.models.mask import training_mask, visibility

MODES = ("cfg1", "linear", "constant", "uncond")


class Model:
    """A decoder with the reference's weights, and the reference's arrays."""

    def __init__(self, arrays, params, config, stated):
        self.arrays, self.params, self.config, self.stated = arrays, params, config, stated
        self.decoder = Decoder(config)

    def batch(self):
        return tuple(
            jnp.asarray(self.arrays[k], jnp.int32) for k in ("tokens", "labels", "orders", "target")
        )

    def group_sizes(self, prefix):
        return tuple(int(size) for size in self.arrays[f"{prefix}group_sizes"])

    @functools.cached_property
    def loss_and_gradients(self):
        """(params, tokens, labels, orders, target, step_of) -> ((loss, logits), gradients)."""

        def loss(params, tokens, labels, orders, target, steps):
            logits = self.decoder.apply({"params": params}, tokens, labels, orders, steps)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, target)
            return losses.mean(), logits

        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    def train(self, prefix, labels=None):
        """Loss, logits and gradients under official names."""
        tokens, own_labels, orders, target = self.batch()
        labels = own_labels if labels is None else labels
        steps = step_of(self.group_sizes(prefix))
        (loss, logits), gradients = self.loss_and_gradients(
            self.params, tokens, labels, orders, target, steps
        )
        return loss, logits, weights.decoder_to_official(gradients)

    def generate(self, group_sizes, mode, forced=False):
        """Greedy (or given) codes and the guided logits they were taken from, in decode order."""
        _, labels, orders, _ = self.batch()
        guidance = self.stated["cfg"] if mode in ("linear", "constant") else 1.0
        rule = sampling_rule(
            guidance=guidance, guidance_schedule="constant" if mode == "constant" else "linear"
        )
        if mode == "uncond":
            labels = jnp.full_like(labels, self.config.num_classes)
        self.seen = np.full((*orders.shape, self.config.vocab_size), np.nan, np.float32)
        codes = self.generator(group_sizes, forced)(
            self.params, labels, orders, jax.random.split(jax.random.key(0), len(labels)), rule=rule
        )
        jax.effects_barrier()
        return np.asarray(codes), self.seen

    @functools.cache  # noqa: B019
    def generator(self, group_sizes, forced):
        target = self.batch()[-1]

        def look(positions, logits):
            # The overhang of a padded group is written again by the groups it belongs to.
            inside = positions < self.seen.shape[1]
            self.seen[:, positions[inside]] = logits[:, inside]

        def draw(logits, keys, positions, rule):
            jax.debug.callback(look, positions, logits, ordered=True)
            if forced:
                return target[:, jnp.minimum(positions, target.shape[1] - 1)]
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)

        return jax.jit(
            functools.partial(generate_codes, self.decoder, plan=make_plan(group_sizes), draw=draw)
        )


@functools.cache
def load(name, make_arrays, make_configs, directory):
    path = directory / f"{name}.weights.npz"
    if not path.is_file():
        return None
    stated = make_configs("decoder_depth")[name]
    official = weights.read(path)
    config, params = weights.decoder_from_official(official, heads=stated["decoder_num_heads"])
    config = dataclasses.replace(config, norm_eps=stated["layer_norm_eps"], dropout=0.0)
    return Model(make_arrays(f"{name}.npz"), params, config, stated)


def load_or_skip(name, reference, reference_configs, reference_directory):
    model = load(name, reference, reference_configs, reference_directory)
    if model is None:
        pytest.skip(f"{name}.weights.npz is not in {reference_directory}")
    return model


@pytest.fixture
def model(decoder_name, reference, reference_configs, reference_directory):
    return load_or_skip(decoder_name, reference, reference_configs, reference_directory)


@pytest.fixture
def scheduled(schedule_case, reference, reference_configs, reference_directory):
    """A model and the prefix of one of its schedules' arrays."""
    name, index = schedule_case
    model = load_or_skip(name, reference, reference_configs, reference_directory)
    return model, "" if "group_sizes" in model.arrays else f"g{index}/"


def official_mask(group_sizes):
    """Our training mask without the last group's context, which the official code leaves out."""
    mask = np.asarray(training_mask(jnp.asarray(step_of(group_sizes))))
    n = sum(group_sizes)
    kept = np.r_[0 : 1 + n - group_sizes[-1], n : 2 * n]
    return mask[np.ix_(kept, kept)]


def test_the_shapes_tell_the_config(model):
    stated, config = model.stated, model.config
    side = stated["img_size"] // stated["vqgan_stride"]
    assert config.grid == (side, side)
    assert (config.width, config.depth) == (stated["decoder_embed_dim"], stated["decoder_depth"])
    assert (config.vocab_size, config.num_classes) == (
        stated["vqgan_vocab_size"],
        stated["class_num"],
    )
    assert config.mlp_ratio == stated["mlp_ratio"]


def test_training_mask(scheduled):
    model, prefix = scheduled
    sizes = model.group_sizes(prefix)
    if f"{prefix}train_mask" in model.arrays:
        theirs = model.arrays[f"{prefix}train_mask"]
    else:
        shape = model.arrays["train/mask_shape"]
        bits = np.unpackbits(model.arrays["train/mask_packed"])
        theirs = bits[: np.prod(shape)].reshape(shape).astype(bool)
    np.testing.assert_array_equal(official_mask(sizes), theirs)


def test_generation_mask(scheduled):
    model, prefix = scheduled
    theirs = model.arrays[f"{prefix}infer_mask"]
    step = np.r_[-1, step_of(model.group_sizes(prefix))]
    ours = visibility(jnp.asarray(step), np.zeros(len(step), bool))
    np.testing.assert_array_equal(ours, theirs == 0)


def test_training_logits_loss_and_gradients(scheduled, close):
    model, prefix = scheduled
    theirs = model.arrays[f"{prefix}train_logits"]
    loss, logits, gradients = model.train(prefix)
    close(logits, theirs, "logits")
    close(loss, model.arrays[f"{prefix}train_loss"], "loss")
    for name, gradient in model.arrays.under(f"{prefix}grad/").items():
        close(gradients[name], gradient, name)


def test_dropped_labels(model, close):
    theirs = model.arrays["dropped/train_logits"]
    labels = jnp.full_like(model.batch()[1], model.config.num_classes)
    loss, logits, gradients = model.train("g0/", labels)
    close(logits, theirs, "logits")
    close(loss, model.arrays["dropped/train_loss"], "loss")
    for name, gradient in model.arrays.under("dropped/grad/").items():
        close(gradients[name], gradient, name)


@pytest.mark.parametrize("mode", MODES)
def test_greedy_generation(scheduled, close, mode):
    model, prefix = scheduled
    theirs = model.arrays[f"{prefix}infer/{mode}/logits"]
    codes, logits = model.generate(model.group_sizes(prefix), mode)
    np.testing.assert_array_equal(codes, model.arrays[f"{prefix}infer/{mode}/tokens_decode_order"])
    raster = to_raster(codes, model.batch()[2], model.config.num_tokens)
    np.testing.assert_array_equal(raster, model.arrays[f"{prefix}infer/{mode}/tokens"])
    close(logits, theirs)


@pytest.mark.parametrize("mode", MODES)
def test_logits_of_given_tokens(scheduled, close, mode):
    model, prefix = scheduled
    theirs = model.arrays[f"{prefix}forced/{mode}/logits"]
    close(model.generate(model.group_sizes(prefix), mode, forced=True)[1], theirs)


def test_guidance_scale(scheduled, close):
    model, prefix = scheduled
    theirs = model.arrays[f"{prefix}infer/linear/cfg_per_token"]
    rule = sampling_rule(guidance=model.stated["cfg"])
    close(guidance_scale(rule, jnp.arange(len(theirs)), len(theirs)), theirs)


def close_statistics(close, logits, target, model, part):
    """Per place, over the vocabulary; equal top-8 lists unless two logits tie within tolerance."""
    theirs = model.arrays.under(f"{part}/")
    logits = logits.astype(np.float64)
    top = np.argsort(-logits, axis=-1, kind="stable")[..., :8]
    ours = {
        "mean": logits.mean(-1),
        "std": logits.std(-1),
        "min": logits.min(-1),
        "logsumexp": np.logaddexp.reduce(logits, axis=-1),
        "top8_values": np.take_along_axis(logits, top, -1),
        "target_logit": np.take_along_axis(logits, np.asarray(target)[..., None], -1)[..., 0],
        "logits_b0": logits[0],
        "logits_b0_first8": logits[0, :8],
        "logits_b0_last8": logits[0, -8:],
    }
    compared = ours.keys() & theirs.keys()
    assert compared, f"no statistics under {part}/"
    for name in compared:
        close(ours[name], theirs[name], f"{part}/{name}")
    by_theirs = np.take_along_axis(logits, theirs["top8_indices"].astype(int), -1)
    close(by_theirs, theirs["top8_values"], f"{part}/top8_indices")


def test_statistics_of_training(model, close):
    theirs = model.arrays["train/loss"]
    loss, logits, gradients = model.train("")
    close(loss, theirs, "loss")
    close_statistics(close, np.asarray(logits), model.batch()[3], model, "train")
    names = [str(name) for name in model.arrays["train/grad_norm_names"]]
    norms = [np.linalg.norm(gradients[name].astype(np.float64)) for name in names]
    close(norms, model.arrays["train/grad_norms"], "gradient norms")
    total = np.sqrt(np.sum(np.square(norms)))
    close(total, model.arrays["train/grad_norm_total"], "norm of all gradients")


def test_statistics_of_generation(model, close):
    theirs = model.arrays["infer/tokens_decode_order"]
    sizes, mode = model.group_sizes(""), model.stated.get("cfg_schedule", "linear")
    codes, logits = model.generate(sizes, mode)
    np.testing.assert_array_equal(codes, theirs)
    raster = to_raster(codes, model.batch()[2], model.config.num_tokens)
    np.testing.assert_array_equal(raster, model.arrays["infer/tokens"])
    close_statistics(close, logits, model.batch()[3], model, "infer")


def test_statistics_of_given_tokens(model, close):
    model.arrays["forced/mean"]
    sizes, mode = model.group_sizes(""), model.stated.get("cfg_schedule", "linear")
    _, logits = model.generate(sizes, mode, forced=True)
    close_statistics(close, logits, model.batch()[3], model, "forced")
