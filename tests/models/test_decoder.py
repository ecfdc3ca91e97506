"""The decoder by its invariants; `tests/parity` compares it with the official numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lpd_jax.errors import InputError
from lpd_jax.models.decoder import Decoder, DecoderConfig
from lpd_jax.models.initial import init_decoder
from lpd_jax.models.mask import training_mask
from lpd_jax.models.norm import LayerNorm

SIZES = (1, 2, 3, 5, 6, 7)
STEP_OF = jnp.repeat(jnp.arange(len(SIZES)), jnp.array(SIZES))


def test_a_query_depends_on_earlier_steps_only(decoder, decoder_params, batch):
    """Zero gradient from tokens of its own and later steps, some from every earlier one."""
    codes, labels, orders = batch
    tokens = jnp.take_along_axis(codes, orders, 1)
    positions, seen = orders[:1], orders[:1, :-1]

    def logit_of(step, embedded):
        context = jnp.concatenate([class_embedding, embedded], axis=1)
        logits = decoder.apply(
            {"params": decoder_params},
            context,
            queries,
            training_mask(STEP_OF),
            method="step",
        ).logits
        # Not the plain sum: the head's columns could cancel.
        return jnp.sum(jnp.where(STEP_OF[:, None] == step, logits[0] ** 2, 0))

    apply = lambda *a, method: decoder.apply({"params": decoder_params}, *a, method=method)  # noqa: E731
    class_embedding = apply(labels[:1], method="embed_class")
    queries = apply(positions, method="embed_queries")
    embedded = apply(tokens[:1, :-1], seen, method="embed_codes")
    gradient_of = jax.jit(jax.grad(logit_of, argnums=1))
    for step in range(len(SIZES)):
        gradient = gradient_of(step, embedded)
        influence = np.abs(np.asarray(gradient[0])).max(-1)
        assert (influence[np.asarray(STEP_OF)[:-1] >= step] == 0).all()
        assert (influence[np.asarray(STEP_OF)[:-1] < step] > 0).all()


def test_queries_of_a_group_see_each_other_and_no_other_queries(decoder, decoder_params, batch):
    codes, labels, orders = batch
    logits = jax.jit(lambda o: decoder.apply({"params": decoder_params}, codes, labels, o, STEP_OF))

    # Swapping two positions in the last group leaves every earlier answer as it is.
    swapped = orders.at[:, jnp.array([-1, -2])].set(orders[:, jnp.array([-2, -1])])
    before, after = logits(orders), logits(swapped)
    np.testing.assert_array_equal(before[:, : -SIZES[-1]], after[:, : -SIZES[-1]])
    np.testing.assert_allclose(before[:, -1], after[:, -2], rtol=1e-4, atol=1e-4)

    # Asking for another position beside them changes what the others of the group say.
    alone = decoder.apply(
        {"params": decoder_params}, codes, labels, orders, jnp.arange(24).at[-1].set(23)
    )
    assert np.abs(np.asarray(alone - before))[:, -1].max() > 1e-3


def test_batched_schedules_equal_single_ones(decoder, decoder_params, batch):
    codes, labels, orders = batch
    other = jnp.arange(24) // 4
    steps = jnp.stack([STEP_OF, other, STEP_OF])
    mixed = decoder.apply({"params": decoder_params}, codes, labels, orders, steps)
    for image, step_of in enumerate(steps):
        alone = decoder.apply({"params": decoder_params}, codes, labels, orders, step_of)
        np.testing.assert_allclose(mixed[image], alone[image], rtol=1e-5, atol=1e-5)


def test_permuting_the_batch_permutes_the_output(decoder, decoder_params, batch):
    forward = jax.jit(lambda *arrays: decoder.apply({"params": decoder_params}, *arrays, STEP_OF))
    shuffle = jnp.array([2, 0, 1])
    np.testing.assert_allclose(
        forward(*(x[shuffle] for x in batch)), forward(*batch)[shuffle], rtol=1e-5, atol=1e-5
    )


def test_execution_choices_do_not_change_the_gradient(decoder, decoder_params, batch):
    def gradient(config):
        network = Decoder(config)

        def loss(params):
            return jnp.mean(network.apply({"params": params}, *batch, STEP_OF) ** 2)

        return jax.jit(jax.grad(loss))(decoder_params)

    plain = gradient(decoder.config)
    for change in ({"remat": "full"}, {"remat": "dots"}, {"unroll": 2}):
        other = gradient(dataclasses.replace(decoder.config, **change))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), plain, other
        )


def test_bfloat16_stays_near_float32(decoder, decoder_params, batch):
    exact = decoder.apply({"params": decoder_params}, *batch, STEP_OF)
    network = Decoder(dataclasses.replace(decoder.config, dtype="bfloat16"))
    rounded = network.apply({"params": decoder_params}, *batch, STEP_OF)
    assert rounded.dtype == jnp.float32
    error = np.abs(np.asarray(rounded - exact)).max() / np.abs(np.asarray(exact)).max()
    assert 0 < error < 0.03


def test_dropout_acts_in_training_only(decoder, decoder_params, batch):
    network = Decoder(dataclasses.replace(decoder.config, dropout=0.5))
    still = network.apply({"params": decoder_params}, *batch, STEP_OF)
    np.testing.assert_array_equal(still, decoder.apply({"params": decoder_params}, *batch, STEP_OF))
    dropped = [
        network.apply(
            {"params": decoder_params},
            *batch,
            STEP_OF,
            train=True,
            rngs={"dropout": jax.random.key(seed)},
        )
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert np.abs(np.asarray(dropped[0] - dropped[2])).max() > 0.1
    assert np.abs(np.asarray(dropped[0] - still)).max() > 0.1


@pytest.mark.parametrize(
    ("size", "grid", "millions"),
    [
        ((1024, 24, 16), 16, 337.2),
        ((1280, 36, 20), 16, 751.9),
        ((1536, 48, 24), 16, 1412.2),
        ((1024, 24, 16), 32, 337.9),
        ((1280, 36, 20), 32, 752.9),
    ],
)
def test_published_sizes(size, grid, millions):
    width, depth, heads = size
    network = Decoder(DecoderConfig(grid=(grid, grid), width=width, depth=depth, heads=heads))
    abstract = nn.unbox(jax.eval_shape(lambda: init_decoder(network, jax.random.key(0))))
    count = sum(x.size for x in jax.tree.leaves(abstract))
    # The published figures cut the digits off: 1413.4 of 1413.2.. is not rounding.
    assert count / 1e6 == pytest.approx(millions, abs=0.15)


def test_initialisation_is_the_official_one():
    network = Decoder(DecoderConfig(grid=(8, 8), vocab_size=512, width=128, depth=3, heads=4))
    params = jax.jit(lambda key: nn.unbox(init_decoder(network, key)))(jax.random.key(0))
    for name in ("pos_embed", "query", "null_class"):
        assert np.std(params[name]) == pytest.approx(0.02, rel=0.25)
    bound = (6 / (128 + 3 * 128)) ** 0.5
    assert np.abs(params["blocks"]["qkv"]["kernel"]).max() == pytest.approx(bound, rel=0.01)
    assert np.abs(params["blocks"]["proj"]["kernel"]).max() == pytest.approx(
        (6 / 256) ** 0.5, rel=0.01
    )
    assert not np.any(params["blocks"]["qkv"]["bias"])
    layers = params["blocks"]["up"]["kernel"]
    assert np.abs(layers[0] - layers[1]).max() > 0.01


@pytest.mark.parametrize("wrong", [{"heads": 7}, {"dtype": "float16"}, {"remat": "some"}], ids=str)
def test_impossible_configs_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        DecoderConfig(**wrong)


@pytest.mark.parametrize("offset", [0, 10, 100])
def test_the_norm_is_that_of_flax_and_no_further_from_float64(offset):
    """A one-pass variance would cancel where the mean is large."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (64, 5, 48)) + offset * jax.random.normal(keys[1], (64, 5, 1))
    params = {"scale": jax.random.normal(keys[2], (48,)), "bias": jnp.arange(48.0) / 48}
    networks = LayerNorm(epsilon=1e-6), nn.LayerNorm(epsilon=1e-6, use_fast_variance=False)
    assert jax.tree.structure(nn.unbox(networks[0].init(keys[0], x)["params"])) == (
        jax.tree.structure(params)
    )

    def run(network):
        def loss(x, params):
            y = network.apply({"params": params}, x)
            return jnp.sum(jnp.sin(y)), y

        (_, y), gradients = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, params)
        return np.asarray(y), jax.tree.leaves(gradients)

    centred = np.asarray(x, np.float64)
    centred -= centred.mean(-1, keepdims=True)
    exact = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    exact = exact * np.asarray(params["scale"], np.float64) + np.asarray(params["bias"], np.float64)
    (ours, gradients), (theirs, wanted) = map(run, networks)
    assert np.abs(ours - exact).mean() < 1.2 * np.abs(theirs - exact).mean()
    if offset == 0:
        for a, b in zip(gradients, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * np.abs(b).max())
