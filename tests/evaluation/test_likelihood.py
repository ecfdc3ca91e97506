"""The measure against what it means: probabilities that sum to 1, and those of the sampler."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lpd_jax import parallel
from lpd_jax.evaluation.likelihood import bits_given, difference, score, scorer, token_bits
from lpd_jax.generation import editing, orders
from lpd_jax.generation.groups import step_of
from lpd_jax.generation.loop import generate_codes
from lpd_jax.generation.plan import make_plan
from lpd_jax.generation.sampling import sampling_rule
from lpd_jax.models.decoder import Decoder, DecoderConfig
from lpd_jax.models.initial import init_decoder

GRID, CODES = (2, 2), 3
EVERY = np.array(list(itertools.product(range(CODES), repeat=4)), np.int32)
SIZES = ((1, 3), (2, 2), (1, 1, 2), (4,), (1, 1, 1, 1))


@pytest.fixture(scope="module")
def tiny():
    """A decoder of 2x2 tokens of 3 codes that is far from uniform."""
    sizes = {"grid": GRID, "vocab_size": CODES, "num_classes": 2}
    network = Decoder(DecoderConfig(**sizes, width=16, depth=2, heads=2, dropout=0.0))
    params = nn.unbox(init_decoder(network, jax.random.key(0)))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return network, jax.tree.unflatten(tree, noisy)


def probabilities(tiny, order, sizes, label=1):
    """float64 [81] of every image."""
    labels = np.full(len(EVERY), label, np.int32)
    tiled = np.tile(order, (len(EVERY), 1))
    bits = token_bits(*tiny, EVERY, labels, tiled, step_of(sizes))
    return 2.0 ** -np.asarray(bits, np.float64).sum(-1)


@pytest.mark.parametrize("name", ["locality", "spread", "random", "raster", "halton", "regions"])
def test_the_probabilities_of_all_images_sum_to_one(tiny, name):
    """Under any schedule, with a class and without; the networks compute in float32."""
    for sizes in SIZES:
        order = np.asarray(orders.named(name).draw(jax.random.key(3), GRID, sizes))
        for label in (0, 1, 2):
            found = probabilities(tiny, order, sizes, label)
            assert found.sum() == pytest.approx(1, abs=3e-6)
            assert found.max() > 3 / 81  # not uniform


def test_one_token_a_step_is_the_chain_rule(tiny):
    """Each token's conditional, from marginals over what comes after it."""
    order = np.array([2, 0, 3, 1])
    joint = probabilities(tiny, order, (1, 1, 1, 1))
    labels, tiled = np.ones(len(EVERY), np.int32), np.tile(order, (len(EVERY), 1))
    bits = np.asarray(token_bits(*tiny, EVERY, labels, tiled, step_of((1, 1, 1, 1))), np.float64)
    for image, own in zip(EVERY, bits, strict=True):
        marginal = 1.0
        for place in range(4):
            same = (EVERY[:, order[: place + 1]] == image[order[: place + 1]]).all(-1)
            assert joint[same].sum() / marginal == pytest.approx(2.0 ** -own[place], rel=2e-5)
            marginal = joint[same].sum()


@pytest.mark.parametrize("sizes", [(1, 3), (1, 1, 2), (4,)])
def test_the_sampler_draws_images_as_often_as_the_measure_says(tiny, sizes):
    """Chi-squared of 200,000 samples, 80 degrees of freedom."""
    network, params = tiny
    order, count = np.array([3, 1, 0, 2], np.int32), 200_000
    plan, rule = make_plan(sizes), sampling_rule(guidance=None)
    # Compiled as users do, since it runs for long.
    options = {"xla_backend_optimization_level": 3}
    run = jax.jit(generate_codes, static_argnums=(0, 5), compiler_options=options)
    seen = np.zeros(len(EVERY))
    for part in range(10):
        size = count // 10
        keys = jax.vmap(jax.random.fold_in, (None, 0))(
            jax.random.key(7), part * size + jnp.arange(size)
        )
        labels, orders_ = jnp.ones(size, jnp.int32), jnp.tile(order, (size, 1))
        codes = np.asarray(run(network, params, labels, orders_, keys, plan, rule, None))
        raster = np.empty_like(codes)
        np.put_along_axis(raster, np.tile(order, (size, 1)), codes, axis=1)
        seen += np.bincount(raster @ (CODES ** np.arange(3, -1, -1)), minlength=len(EVERY))
    expected = count * probabilities(tiny, order, sizes)
    assert ((seen - expected) ** 2 / expected).sum() < 80 + 4 * np.sqrt(160)


def test_unknown_cells_cost_what_an_edit_gives_them(tiny):
    """Of the codes that a cell can have, an edit without chance takes the one that costs least."""
    network, params = tiny
    mesh = parallel.make_mesh(parallel.MeshConfig(), jax.devices()[:1])
    images = {"codes": EVERY, "label": np.ones(len(EVERY), np.int32)}
    unknown = np.array([False, True, False, True])
    given = np.tile(np.array([3, 1], np.int32), (len(EVERY), 1))
    with parallel.use(mesh, parallel.RULES):
        scored = scorer(network, params, images, batch_size=81, mesh=mesh)
        bits = bits_given(scored, given, step_of((1, 1)), unknown)
    assert bits.shape == (81, 2)
    alike = (EVERY[:, None, [0, 2]] == EVERY[None, :, [0, 2]]).all(-1)
    total = (2.0 ** -bits.sum(-1)) @ alike  # over all images that share the known cells
    np.testing.assert_allclose(total, 1, atol=3e-6)
    edited = np.asarray(
        editing.regenerate(
            network,
            params,
            EVERY,
            np.tile(unknown, (81, 1)),
            images["label"],
            given,
            jax.random.split(jax.random.key(0), 81),
            make_plan((1, 1), num_known=2),
            sampling_rule(temperature=0),
        )
    )
    for own, found in zip(EVERY, edited, strict=True):
        rivals = (EVERY[:, [0, 2]] == own[[0, 2]]).all(-1)
        first = EVERY[rivals][bits[rivals, 0].argmin(), 3]
        second = rivals & (EVERY[:, 3] == first)
        assert (found[3], found[1]) == (first, EVERY[second][bits[second, 1].argmin(), 1])


def test_batches_devices_and_chunks_change_nothing(decoder, decoder_params):
    network = Decoder(dataclasses.replace(decoder.config, dropout=0.0))
    rng = np.random.default_rng(0)
    tokens = decoder.config.num_tokens
    images = {
        "codes": rng.integers(0, decoder.config.vocab_size, (11, tokens), dtype=np.int32),
        "label": rng.integers(0, 5, 11, dtype=np.int32),
    }
    given = np.stack([rng.permutation(tokens) for _ in range(11)]).astype(np.int32)
    found = []
    for config, size, chunk in (({}, 64, 0), ({}, 3, 0), ({"data": 4, "fsdp": 2}, 8, 6)):
        devices = jax.devices()[: 8 if config else 1]
        mesh = parallel.make_mesh(parallel.MeshConfig(**config), devices)
        with parallel.use(mesh, parallel.RULES):
            bits = scorer(network, decoder_params, images, batch_size=size, mesh=mesh, chunk=chunk)
            found.append(bits(given, step_of((1, 3, 8, 12))))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=0, atol=2e-5)


def test_scores_and_differences_of_known_numbers():
    rng = np.random.default_rng(0)
    hard = rng.normal(2, 0.5, (1, 200, 1))  # images differ
    draws = rng.normal(0, 0.1, (4, 200, 1))  # and so do draws, of all tokens of an image alike
    orders_ = np.tile(np.arange(6), (4, 200, 1))
    cells = np.arange(6) / 10
    found = score(hard + draws + cells, orders_, 6)
    assert found.bits_per_token == pytest.approx(2.25, abs=0.1)
    assert found.standard_error == pytest.approx(0.1 / np.sqrt(800), rel=0.1)
    assert found.standard_error_images == pytest.approx(0.5 / np.sqrt(200), rel=0.1)
    np.testing.assert_allclose(np.diff(found.by_cell), 0.1)
    np.testing.assert_allclose(found.by_position, found.by_cell)
    reverse = score(hard + draws + cells, orders_[..., ::-1], 6)
    np.testing.assert_allclose(reverse.by_cell, found.by_cell[::-1])
    other = score(hard + rng.normal(0.01, 0.1, (4, 200, 1)) + cells, orders_, 6)
    apart, error = difference(other, found)
    assert error == pytest.approx(0.1 / np.sqrt(4) * np.sqrt(2) / np.sqrt(200), rel=0.15)
    assert abs(apart - 0.01) < 4 * error < found.standard_error_images
    alone = score(hard, orders_[:1, :, :1] * 0, 2)
    assert np.isnan(alone.standard_error)
    np.testing.assert_array_equal(np.isnan(alone.by_cell), [False, True])
