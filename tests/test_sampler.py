"""Image i is image i: alone, in any batch, on any mesh; and clear refusals."""

import dataclasses

import jax
import numpy as np
import pytest

from lpd_jax import parallel
from lpd_jax.errors import InputError
from lpd_jax.generation.orders import LocalityAware, Random
from lpd_jax.generation.sampling import sampling_rule
from lpd_jax.sampler import Sampler, generate
from lpd_jax.trained import init_decoder

SIZES = (1, 2, 3, 5, 6, 7)
LABELS = [0, 1, 2, 3, 4, 0, 1]
LOCAL = LocalityAware()


@pytest.fixture(scope="module")
def sampler(decoder, decoder_params, tokenizer, tokenizer_params):
    return Sampler(
        decoder=decoder,
        decoder_params=decoder_params,
        tokenizer=tokenizer,
        tokenizer_params=tokenizer_params,
        class_names=tuple("abcde"),
        guidable=True,
        mesh=parallel.make_mesh(parallel.MeshConfig(), jax.devices()[:1]),
    )


def on_mesh(sampler, config):
    mesh = parallel.make_mesh(config)
    shardings = parallel.shardings_of(
        jax.eval_shape(lambda: init_decoder(sampler.decoder, jax.random.key(0))),
        mesh,
        parallel.RULES,
    )
    return dataclasses.replace(
        sampler,
        mesh=mesh,
        decoder_params=jax.device_put(sampler.decoder_params, shardings),
        tokenizer_params=jax.device_put(sampler.tokenizer_params, parallel.replicated(mesh)),
    )


def draw(sampler, labels=LABELS, order=LOCAL, rule=None, **options):
    with jax.default_matmul_precision("highest"):
        return sampler.sample(labels, SIZES, order, rule or sampling_rule(guidance=2.0), **options)


def test_images_are_pixels_of_the_grid(sampler):
    samples = draw(sampler)
    assert samples.images.shape == (7, 16, 24, 3) and samples.images.dtype == np.uint8
    assert (np.sort(samples.orders, axis=1) == np.arange(24)).all()
    assert samples.codes.min() >= 0 and samples.codes.max() < 32


def test_an_image_does_not_depend_on_its_batch(sampler):
    together = draw(sampler)
    in_threes = draw(sampler, batch_size=3)
    alone = draw(sampler, labels=LABELS[5:6], first_index=5)
    np.testing.assert_array_equal(together.codes, in_threes.codes)
    np.testing.assert_array_equal(together.orders, in_threes.orders)
    np.testing.assert_array_equal(together.codes[5:6], alone.codes)


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2), (2, 1, 4)], ids=str)
def test_an_image_does_not_depend_on_the_mesh(sampler, axes):
    here = draw(sampler)
    there = draw(on_mesh(sampler, parallel.MeshConfig(*axes)))
    np.testing.assert_array_equal(here.codes, there.codes)
    np.testing.assert_array_equal(here.orders, there.orders)


def test_another_seed_is_another_image(sampler):
    assert (draw(sampler).codes != draw(sampler, seed=1).codes).any()


def test_given_orders_are_followed(sampler):
    orders = np.stack([np.random.default_rng(i).permutation(24) for i in range(7)])
    np.testing.assert_array_equal(draw(sampler, order=orders).orders, orders)


def test_nothing_is_compiled_again_for_other_numbers(sampler):
    draw(sampler)
    before = generate._cache_size()
    draw(
        sampler,
        labels=LABELS[::-1],
        seed=5,
        order=LocalityAware(0.5, 3.0),
        rule=sampling_rule(guidance=7.0, temperature=0.3),
    )
    assert generate._cache_size() == before
    draw(sampler, order=Random())
    assert generate._cache_size() == before + 1


def test_steps_are_all_a_notebook_needs_to_say(sampler):
    assert sampler([1, 2], steps=6, guidance=1.5, seed=3).shape == (2, 16, 24, 3)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"labels": [0, 6]}, "label 6 is out of range"),
        ({"labels": [-1]}, "label -1 is out of range"),
        ({"labels": []}, "labels are a list"),
        ({"group_sizes": (1, 2, 3)}, "sum to 6"),
        ({"group_sizes": (24, 0)}, "size 0"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(sampler, wrong, says):
    asked = {"labels": LABELS, "group_sizes": SIZES, "order": Random(), "rule": sampling_rule()}
    with pytest.raises(InputError, match=says):
        sampler.sample(**asked | wrong)


def test_guidance_needs_label_dropout(sampler):
    unguidable = dataclasses.replace(sampler, guidable=False)
    with pytest.raises(InputError, match="label dropout"):
        draw(unguidable)
    assert draw(unguidable, rule=sampling_rule()).codes.shape == (7, 24)
    with pytest.raises(InputError, match="label dropout"):
        draw(unguidable, labels=[5], rule=sampling_rule())
