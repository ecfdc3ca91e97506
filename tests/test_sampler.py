"""Image i is image i: alone, in any batch, on any mesh; and clear refusals."""

import dataclasses

import jax
import numpy as np
import pytest

from lpd_jax import parallel
from lpd_jax.errors import InputError
from lpd_jax.generation import program
from lpd_jax.generation.editing import rectangle
from lpd_jax.generation.groups import group_sizes
from lpd_jax.generation.orders import LocalityAware, Random
from lpd_jax.generation.program import edit, preview, tokenizer_parts
from lpd_jax.generation.sampling import sampling_rule
from lpd_jax.models.tokenizer import to_uint8
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


@pytest.mark.parametrize("axes", [(1, 1, 1), (2, 1, 4)], ids=str)
def test_decoding_in_parts_changes_nothing(sampler, axes, monkeypatch):
    labels, mesh = np.arange(12) % 5, parallel.MeshConfig(*axes)
    if axes != (1, 1, 1):
        sampler = on_mesh(sampler, mesh)
    before, whole = generate._cache_size(), draw(sampler, labels)
    monkeypatch.setattr(program, "_PIXELS_AT_ONCE", 3 * 16 * 24)
    in_parts = draw(sampler, labels)
    assert generate._cache_size() == before + 2
    np.testing.assert_array_equal(in_parts.codes, whole.codes)
    # Sums in another order may send a value at a border to the next of 256 levels.
    off = np.abs(in_parts.images.astype(int) - whole.images)
    assert off.max() <= 1 and (off > 0).mean() < 1e-3


@pytest.mark.parametrize(
    ("batch", "ways", "side", "parts"),
    [
        (64, 1, 256, 8),
        (64, 8, 256, 1),
        (64, 4, 512, 8),
        (10, 1, 256, 2),
        (11, 1, 256, 11),
        (2, 1, 2048, 2),
        (1, 1, 2048, 1),
        (500, 1, 32, 1),
    ],
)
def test_a_device_decodes_few_pixels_at_once(batch, ways, side, parts):
    assert tokenizer_parts(batch, ways, (side, side)) == parts


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


def test_a_stream_shows_every_step_and_ends_with_the_image(sampler):
    with jax.default_matmul_precision("highest"):
        partials = list(sampler.stream([1, 4], steps=6, guidance=2.0, seed=3))
        whole = sampler([1, 4], steps=6, guidance=2.0, seed=3)
    assert [partial.step for partial in partials] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(partials[-1].images, whole)
    seen = np.stack([partial.known for partial in partials])
    assert seen[-1].all() and (seen[1:] >= seen[:-1]).all()
    sizes = group_sizes(24, 6)
    np.testing.assert_array_equal(seen.sum(axis=2), np.cumsum(sizes)[:, None].repeat(2, axis=1))
    for partial in partials[:-1]:
        covered = partial.images[0].reshape(4, 4, 6, 4, 3).transpose(0, 2, 1, 3, 4)
        plain = np.isin(covered.reshape(24, -1), (150, 170)).all(axis=1)
        np.testing.assert_array_equal(plain, ~partial.known[0])


def test_a_stream_decodes_what_is_known_so_far(sampler):
    """Uncovered, an unfinished image is the known codes among means of the codebook."""
    samples = draw(sampler, order=Random())
    step_map = np.asarray(sampler.schedule(samples, SIZES).step_map)
    before = preview._cache_size()
    frames = list(sampler.replay(samples.images, samples.codes, step_map, cover=False))
    assert preview._cache_size() <= before + 1
    other = samples.codes.copy()
    other[~frames[2].known] = 7
    again = list(sampler.replay(samples.images, other, step_map, cover=False))
    np.testing.assert_array_equal(frames[2].images, again[2].images)
    assert (frames[3].images != again[3].images).any()
    assert len(frames) == len(SIZES)


IMAGES = np.random.default_rng(0).integers(0, 256, (7, 16, 24, 3), dtype=np.uint8)
MASK = rectangle((16, 24), (0.25, 0.25, 0.75, 0.75))
CELLS = MASK.reshape(4, 4, 6, 4).any(axis=(1, 3))


def change(sampler, mask=MASK, images=IMAGES, labels=LABELS, **options):
    options = {"steps": 6, "rule": sampling_rule(guidance=2.0), "order": LOCAL} | options
    with jax.default_matmul_precision("highest"):
        return sampler.edit(images, mask, labels, **options)


@pytest.fixture(scope="module")
def round_trip(sampler):
    """The images through the tokenizer and back: codes and images."""
    edits = change(sampler, np.zeros((4, 6), bool))
    assert (edits.step_map == -1).all()
    return edits


def test_an_image_without_a_mask_is_encoded_and_decoded(sampler, round_trip):
    params, grid = {"params": sampler.tokenizer_params}, sampler.decoder.config.grid
    codes = sampler.tokenizer.apply(params, IMAGES / np.float32(127.5) - 1, method="encode")
    np.testing.assert_array_equal(round_trip.codes, codes)
    images = to_uint8(sampler.tokenizer.apply(params, codes, grid, method="decode"))
    assert np.abs(np.int32(round_trip.images) - np.int32(images)).max() <= 1


def test_kept_cells_keep_their_codes(sampler, round_trip):
    edits = change(sampler)
    np.testing.assert_array_equal(edits.step_map >= 0, np.broadcast_to(CELLS, (7, 4, 6)))
    kept = ~CELLS.ravel()
    np.testing.assert_array_equal(edits.codes[:, kept], round_trip.codes[:, kept])
    assert (edits.codes[:, ~kept] != round_trip.codes[:, ~kept]).any(axis=1).all()


def test_everything_masked_is_plain_generation(sampler):
    rule = sampling_rule(guidance=2.0)
    with jax.default_matmul_precision("highest"):
        plain = sampler.sample(LABELS, group_sizes(24, 6), LOCAL, rule, seed=4)
    edits = change(sampler, np.ones((16, 24), bool), seed=4)
    np.testing.assert_array_equal(edits.codes, plain.codes)
    np.testing.assert_array_equal(edits.images, plain.images)


def test_pixels_outside_the_mask_can_be_kept(sampler):
    edits, pasted = change(sampler), change(sampler, keep_pixels=True)
    inside = CELLS.repeat(4, axis=0).repeat(4, axis=1)
    np.testing.assert_array_equal(pasted.images[:, inside], edits.images[:, inside])
    np.testing.assert_array_equal(pasted.images[:, ~inside], IMAGES[:, ~inside])
    assert (edits.images[:, ~inside] != IMAGES[:, ~inside]).any()


def test_masks_of_any_size_share_a_call(sampler):
    """Image i is edited with its own mask as it would be alone."""
    masks = np.stack([CELLS, ~CELLS, CELLS * False, np.roll(CELLS, 1)])
    edits = change(sampler, masks, IMAGES[:4], LABELS[:4])
    np.testing.assert_array_equal(edits.step_map >= 0, masks)
    for i in range(4):
        row = slice(i, i + 1)
        alone = change(sampler, masks[i], IMAGES[row], LABELS[row], first_index=i)
        np.testing.assert_array_equal(edits.codes[row], alone.codes)
        np.testing.assert_array_equal(edits.step_map[row], alone.step_map)


def test_an_edit_in_parts_keeps_and_generates_the_same(sampler, monkeypatch):
    whole, before = change(sampler), edit._cache_size()
    monkeypatch.setattr(program, "_PIXELS_AT_ONCE", 3 * 16 * 24)
    in_parts = change(sampler)
    assert edit._cache_size() == before + 1
    np.testing.assert_array_equal(in_parts.codes, whole.codes)
    np.testing.assert_array_equal(in_parts.step_map, whole.step_map)


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_an_edit_does_not_depend_on_batch_or_mesh(sampler, axes):
    here = change(sampler)
    there = change(on_mesh(sampler, parallel.MeshConfig(*axes)), batch_size=3)
    np.testing.assert_array_equal(here.codes, there.codes)
    np.testing.assert_array_equal(here.step_map, there.step_map)


def test_the_class_and_given_orders_are_followed(sampler):
    assert (change(sampler).codes != change(sampler, labels=LABELS[::-1]).codes).any()
    orders = np.stack([np.random.default_rng(i).permutation(24) for i in range(7)])
    step_map = change(sampler, order=orders, steps=24).step_map.reshape(7, 24)
    for order, steps in zip(orders, step_map, strict=True):
        assert np.argsort(steps)[-8:].tolist() == [c for c in order if CELLS.ravel()[c]]


def test_an_edit_is_not_compiled_again_for_another_mask_of_its_size(sampler):
    change(sampler)
    before = edit._cache_size()
    change(
        sampler,
        np.roll(CELLS, 1, axis=1),
        255 - IMAGES,
        LABELS[::-1],
        seed=5,
        order=LocalityAware(0.5, 3.0),
        rule=sampling_rule(guidance=7.0, temperature=0.3),
    )
    assert edit._cache_size() == before
    change(sampler, CELLS & (np.arange(6) > 2))
    assert edit._cache_size() == before + 1


def test_an_edit_that_does_not_fit_is_refused(sampler):
    for says, wrong in {
        "label 6 is out of range": {"labels": [6] * 7},
        "uint8": {"images": IMAGES / 255},
        "7, 16, 24, 3": {"images": IMAGES[:, :8]},
        "in pixels or": {"mask": MASK[1:]},
        "25 steps": {"steps": 25},
        "6 orders": {"order": np.arange(24)[None].repeat(6, axis=0)},
        "'uniform'": {"group_schedule": "linear"},
    }.items():
        with pytest.raises(InputError, match=says):
            change(sampler, **wrong)


def test_an_edit_can_be_replayed_from_what_was_kept(sampler):
    edits = change(sampler)
    frames = list(sampler.replay(edits.images, edits.codes, edits.step_map))
    np.testing.assert_array_equal(frames[0].known, edits.step_map.reshape(7, 24) < 0)
    assert [frame.step for frame in frames] == list(range(edits.step_map.max() + 2))
    np.testing.assert_array_equal(frames[-1].images, edits.images)
