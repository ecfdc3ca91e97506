"""Image i is image i: alone, in any batch, on any mesh; and clear refusals."""

import dataclasses
import json
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpd_jax import checkpoint, distributed, parallel
from lpd_jax.errors import InputError
from lpd_jax.generation import program, stepwise
from lpd_jax.generation.editing import rectangle
from lpd_jax.generation.groups import group_sizes, step_of
from lpd_jax.generation.orders import Confident, LocalityAware, Random
from lpd_jax.generation.program import edit, in_parts, preview, tokenizer_parts
from lpd_jax.generation.sampling import SamplingRule, sampling_rule
from lpd_jax.models.initial import init_decoder
from lpd_jax.models.tokenizer import to_uint8
from lpd_jax.sampler import Defaults, Sampler, checks, defaults, generate, loading

pytestmark = pytest.mark.usefixtures("no_programs")

SIZES = (1, 2, 3, 5, 6, 7)
LABELS = [0, 1, 2, 3, 4, 0, 1]
LOCAL = LocalityAware()
NAN = float("nan")


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
    # Seven images each on two devices, or 14 on one, divide into no parts of three: padded.
    labels, mesh = np.arange(14) % 5, parallel.MeshConfig(*axes)
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
        (11, 1, 256, 2),
        (61, 1, 256, 8),
        (488, 8, 256, 8),
        (2, 1, 2048, 2),
        (1, 1, 2048, 1),
        (500, 1, 32, 1),
    ],
)
def test_a_device_decodes_few_pixels_at_once(batch, ways, side, parts):
    assert tokenizer_parts(batch, ways, (side, side)) == parts


def test_a_prime_batch_is_padded():
    sizes = []

    def run(x):
        sizes.append(len(x))
        return 2 * x

    rows = jnp.arange(61.0)[:, None]
    with jax.disable_jit():
        doubled = in_parts(run, tokenizer_parts(61, 1, (256, 256)), rows)
    assert sizes == [8] * 8
    np.testing.assert_array_equal(doubled, 2 * rows)


def test_another_seed_is_another_image(sampler):
    assert (draw(sampler).codes != draw(sampler, seed=1).codes).any()


def test_given_orders_are_followed(sampler):
    orders = np.stack([np.random.default_rng(i).permutation(24) for i in range(7)])
    whole = draw(sampler, order=orders)
    np.testing.assert_array_equal(whole.orders, orders)
    for given in (jnp.asarray(orders), orders.tolist()):
        same = draw(sampler, order=given, batch_size=3)
        np.testing.assert_array_equal(same.orders, orders)
        np.testing.assert_array_equal(same.codes, whole.codes)
    # Image i of the run gets order i, wherever the call begins.
    for given in (orders, jnp.asarray(orders)):
        last = draw(sampler, labels=LABELS[4:], order=given, first_index=4)
        np.testing.assert_array_equal(last.orders, orders[4:])
        np.testing.assert_array_equal(last.codes, whole.codes[4:])
        with pytest.raises(InputError, match=r"7 orders .* 3 images up to image 7"):
            draw(sampler, labels=LABELS[4:], order=given, first_index=5)


def test_the_model_may_choose_its_order(sampler):
    named = draw(sampler, order="confident")
    step_map = np.asarray(sampler.schedule(named, SIZES).check().step_map)
    assert np.array_equal(np.sort(step_map.reshape(7, -1)), np.tile(step_of(SIZES), (7, 1)))
    assert draw(sampler).steps is None
    before = generate._cache_size()
    sure = draw(sampler, order=Confident(0.05, 1), batch_size=7)
    assert generate._cache_size() == before
    assert sure.steps.max() < len(SIZES) - 1  # of which not all are needed
    step_map = np.asarray(sampler.schedule(sure, SIZES).check().step_map)
    assert step_map.max() == sure.steps.max() and step_map.min() == 0
    for call in (
        lambda: sampler.edit(named.images, np.ones((4, 6)), LABELS, order="confident"),
        lambda: next(sampler.stream(LABELS, order="confident")),
    ):
        with pytest.raises(InputError, match="not drawn ahead"):
            call()


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
    for guidance in (1, 2, 1.0):
        draw(sampler, rule=sampling_rule(guidance=guidance))
        draw(sampler, order="locality", rule=SamplingRule(1.0, guidance))
    assert generate._cache_size() == before
    for guidance, top_p in ((2, 0.9), (1, 0.5), (1.0, 0.99)):  # a nucleus is another program, once
        draw(sampler, rule=sampling_rule(guidance=guidance, top_p=top_p))
    assert generate._cache_size() == before + 1
    draw(sampler, order=Random())
    assert generate._cache_size() == before + 2


def test_guidance_one_is_no_guidance(sampler):
    """To rounding: here no draw is so close that a code changes."""
    guided, plain = (draw(sampler, rule=sampling_rule(guidance=g)) for g in (1.0, None))
    np.testing.assert_array_equal(guided.codes, plain.codes)


@pytest.mark.parametrize(
    ("axes", "batch_size"),
    [((8, 1, 1), 1), ((8, 1, 1), 3), ((8, 1, 1), 8), ((2, 1, 4), 8)],
    ids=str,
)
def test_a_stream_of_batches_is_the_sample(sampler, axes, batch_size):
    sampler = on_mesh(sampler, parallel.MeshConfig(*axes))
    rule, labels = sampling_rule(guidance=2.0), LABELS + LABELS[::-1][:4]
    with jax.default_matmul_precision("highest"):
        whole = sampler.sample(labels, SIZES, LOCAL, rule, batch_size=batch_size)
        batches = list(sampler.batches(labels, SIZES, LOCAL, rule, batch_size=batch_size))
    size = -(-batch_size // axes[0]) * axes[0]
    assert [len(batch.rows) for batch in batches] == [
        min(size, 11 - start) for start in range(0, 11, size)
    ]
    # One process holds everything, each row once although four devices have a copy of it.
    np.testing.assert_array_equal(np.concatenate([batch.rows for batch in batches]), np.arange(11))
    for name in ("images", "codes", "orders"):
        joined = np.concatenate([getattr(batch, name) for batch in batches])
        assert joined.tobytes() == getattr(whole, name).tobytes()


def test_a_stream_keeps_no_batch(sampler):
    rule, seen, alive = sampling_rule(guidance=2.0), [], []
    with jax.default_matmul_precision("highest"):
        for batch in sampler.batches(LABELS, SIZES, LOCAL, rule, batch_size=1):
            # Between batches the mesh of the caller is in force, not the sampler's.
            assert jax.sharding.get_abstract_mesh().empty
            assert all(earlier() is None for earlier in seen)
            seen.append(weakref.ref(batch.images))
            alive.append(sum(x.nbytes for x in jax.live_arrays()))
            del batch
    assert len(seen) == 7 and len(set(alive)) == 1


def test_a_stream_says_at_once_what_is_wrong(sampler):
    with pytest.raises(InputError, match="batch_size=0"):
        sampler.batches([1], batch_size=0)


def test_a_model_knows_how_it_is_sampled(sampler, tmp_path):
    sampling = {"group_sizes": SIZES, "guidance": 2.0, "repulsion": 2.0, "temperature": 0.9}
    for kind, about in {
        "decoder": {"tokenizer": "t", "class_names": list("abcde"), "label_drop": 0.1},
        "tokenizer": {"fingerprint": "t"},
    }.items():
        config = dataclasses.asdict(getattr(sampler, kind).config)
        about |= {"kind": kind, "config": config, "sampling": sampling}
        checkpoint.save_model(tmp_path / kind / "model", about, getattr(sampler, f"{kind}_params"))
    loaded = Sampler.load(tmp_path)
    assert loaded.defaults == Defaults(**sampling)
    text = repr(loaded)
    assert len(text) < 500 and "5 classes: a, b" in text and "4x6 codes of 32" in text

    knowing = dataclasses.replace(sampler, defaults=loaded.defaults)
    rule = sampling_rule(guidance=2.0, temperature=0.9)
    with jax.default_matmul_precision("highest"):
        np.testing.assert_array_equal(knowing(LABELS), draw(sampler, rule=rule).images)
        colder = draw(sampler, rule=rule.replace(temperature=jnp.float32(0.1))).images
        np.testing.assert_array_equal(knowing(LABELS, temperature=0.1), colder)
    assert knowing.schedule(draw(sampler)).group_sizes == SIZES

    about = checkpoint.read_model_json(tmp_path / "decoder/model", "decoder")
    for wrong, says in {
        (("steps", 25),): "25 steps",
        (("speed", 2),): "hold speed; they may hold group_schedule",
        (("temperature", NAN),): "temperature=nan",
        (("order", "spiral"),): "order='spiral' must be one of",
    }.items():
        with pytest.raises(InputError, match=says):
            defaults.read(dict(wrong), 24, True)
    file = tmp_path / "decoder/model/model.json"
    file.write_text(json.dumps(about | {"sampling": {"x": 1}}))
    with pytest.raises(InputError, match=r"model\.json: the sampling defaults hold x"):
        loading.load(tmp_path, sampler.mesh, parallel.RULES, None, "")


def test_a_model_that_says_nothing_is_sampled_as_in_the_paper():
    paper = defaults.read(None, 256, True)
    assert len(paper.sizes(256)) == 20 and len(paper.sizes(16)) == 16
    assert (paper.order, paper.guidance, paper.temperature) == ("locality", 1.0, 1.0)
    assert defaults.read({"guidance": 4.8}, 256, False).guidance is None


def test_classes_have_names(sampler):
    named = dataclasses.replace(sampler, class_names=("cat", "dog", "3", "crane", "crane"))
    take = {"class_names": named.class_names, "num_classes": 5, "guidable": True}
    assert checks.labels(["dog", 0, "3", 5, np.int64(3)], **take).tolist() == [1, 0, 2, 5, 3]
    assert checks.labels(jnp.array([4, 1]), **take).tolist() == [4, 1]
    for label, says in {
        "dug": "no class is named 'dug'; did you mean 'dog'",
        "zebra": "no class is named 'zebra'; the classes are cat, dog",
        "crane": "classes 3 and 4 are all named 'crane'",
    }.items():
        with pytest.raises(InputError, match=says):
            named([label])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"labels": [0, 6]}, "label 6 is out of range"),
        ({"labels": [-1]}, "label -1 is out of range"),
        ({"labels": []}, r"labels=\[\] must be a list"),
        ({"group_sizes": (1, 2, 3)}, "sum to 6"),
        ({"group_sizes": (24, 0)}, "size 0"),
        ({"group_sizes": ("a",)}, "group size='a' must be a whole number"),
        ({"group_sizes": 24}, "group_sizes=24 must be a list"),
        ({"labels": 3}, r"labels=3 must be a list .* \[3\]"),
        ({"labels": "a"}, "labels='a' must be a list"),
        ({"labels": 3.5}, "labels=3.5 must be a list"),
        ({"labels": [3.5]}, "label=3.5 must be a whole number"),
        ({"labels": [True, False]}, "label=True must be a whole number"),
        ({"labels": np.array([True])}, "label=True must be a whole number"),
        ({"labels": None}, "labels=None must be a list"),
        ({"labels": [[1, 2]]}, "must be a whole number"),
        ({"labels": ["z"]}, "no class is named 'z'"),
        ({"batch_size": 0}, "batch_size=0 must be a whole number of at least 1"),
        ({"batch_size": -5}, "batch_size=-5"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"segments": 0}, "segments=0"),
        ({"seed": 2**32}, "seed=4294967296"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**64}, "seed=18446744073709551616"),
        ({"first_index": -1}, "first_index=-1"),
        ({"rule": SamplingRule(temperature=NAN)}, "temperature=nan"),
        ({"rule": SamplingRule(guidance=float("inf"))}, "guidance=inf"),
        ({"rule": "greedy"}, "rule='greedy' must be"),
        ({"order": "spiral"}, "order='spiral' must be one of locality"),
        ({"order": LocalityAware(NAN, 1.0)}, "proximity=nan"),
        ({"order": LocalityAware(1.0, float("inf"))}, "repulsion=inf"),
        ({"order": Confident(0.0)}, "confidence_threshold=0"),
        ({"order": 7}, "order=7 must be the name"),
        ({"order": np.zeros((7, 24), int)}, "Order 0 visits cell 0 24 times"),
        ({"order": jnp.arange(24)[None].repeat(7, 0) + 1}, "Order 0 visits cell 24"),
        ({"order": -np.arange(24)[None].repeat(7, 0)}, "visits cell -1"),
        ({"order": jnp.arange(24)}, r"orders of shape \[24\]"),
        ({"order": jnp.arange(20)[None].repeat(7, 0)}, "7 orders of 20 tokens"),
        ({"order": jnp.arange(24)[None].repeat(6, 0)}, "6 orders of 24 tokens"),
        ({"order": np.arange(24.0)[None].repeat(7, 0)}, "whole numbers"),
        ({"order": [[1, 2], [3]]}, "rows differ in length"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(sampler, wrong, says):
    asked = {"labels": LABELS, "group_sizes": SIZES, "order": Random(), "rule": sampling_rule()}
    with pytest.raises(InputError, match=says):
        sampler.sample(**asked | wrong)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"steps": 2.5}, "steps=2.5 must be a whole number"),
        ({"steps": 0}, "0 steps"),
        ({"guidance": "x"}, "guidance='x' must be a number"),
        ({"guidance": NAN}, "guidance=nan"),
        ({"temperature": float("inf")}, "temperature=inf"),
        ({"order": "halt"}, "must be one of .*halton"),
    ],
    ids=str,
)
def test_a_call_that_does_not_fit_is_refused(sampler, wrong, says):
    for ask in (sampler, sampler.stream, lambda labels, **x: change(sampler, rule=None, **x)):
        with pytest.raises(InputError, match=says):
            ask([1], **wrong)


def test_models_are_somewhere():
    with pytest.raises(InputError, match="the models cannot be in None"):
        Sampler.load(None)


def test_guidance_needs_label_dropout(sampler):
    unguidable = dataclasses.replace(sampler, guidable=False)
    with pytest.raises(InputError, match="label dropout"):
        draw(unguidable)
    plain, before = draw(sampler, rule=sampling_rule()), generate._cache_size()
    for rule in (sampling_rule(), sampling_rule(guidance=1.0)):
        np.testing.assert_array_equal(draw(unguidable, rule=rule).codes, plain.codes)
    assert generate._cache_size() == before
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


def test_a_look_that_is_not_asked_for_is_not_taken(sampler):
    with jax.default_matmul_precision("highest"):
        every = list(sampler.stream([1, 4], steps=6, guidance=2.0, seed=3, cover=False))
        few = list(sampler.stream([1, 4], steps=6, guidance=2.0, seed=3, cover=False, every=4))
    assert [partial.step for partial in few] == [4, 6]
    for partial in few:
        np.testing.assert_array_equal(partial.images, every[partial.step - 1].images)
        np.testing.assert_array_equal(partial.known, every[partial.step - 1].known)


def test_the_next_step_is_under_way_before_a_look_is_waited_for(sampler, monkeypatch):
    done = []

    def note(owner, name):
        function = getattr(owner, name)

        def noted(*args, **kwargs):
            done.append(name)
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, noted)

    for name in ("begin", "step", "look", "finish"):
        note(stepwise, name)
    note(distributed, "to_host")
    with jax.default_matmul_precision("highest"):
        stream = sampler.stream([1, 4], steps=6, guidance=2.0, seed=3)
        assert not done  # nothing runs before it is asked for
        assert next(stream).step == 1
        assert done == ["begin", "look", "step", "to_host"]
        assert [partial.step for partial in stream] == [2, 3, 4, 5, 6]
    assert done[4:] == 4 * ["look", "step", "to_host"] + ["finish", "to_host"]


def test_a_stream_does_not_depend_on_the_mesh(sampler):
    options = {"steps": 6, "guidance": 2.0, "seed": 3, "cover": False}
    spread = on_mesh(sampler, parallel.MeshConfig(2, 1, 4))
    with jax.default_matmul_precision("highest"):
        here = list(sampler.stream([1, 4], **options))
        for partial, there in zip(here, spread.stream([1, 4], **options), strict=True):
            # Between images the mesh of the caller is in force, not the sampler's.
            assert jax.sharding.get_abstract_mesh().empty
            np.testing.assert_array_equal(partial.known, there.known)
            np.testing.assert_allclose(partial.images.astype(int), there.images, atol=1)


def test_replayed_images_decode_what_was_known(sampler):
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


def test_an_edit_takes_numbers_as_a_call_does(sampler):
    numbers = {"guidance": 2.0, "temperature": 0.9}
    with_rule = change(sampler, rule=sampling_rule(**numbers))
    np.testing.assert_array_equal(change(sampler, rule=None, **numbers).codes, with_rule.codes)
    with pytest.raises(InputError, match="or a rule"):
        change(sampler, guidance=1.8)


def test_an_edit_that_does_not_fit_is_refused(sampler):
    for says, wrong in {
        "no class is named 'z'": {"labels": ["z"] * 7},
        "NumPy array of uint8": {"images": IMAGES.tolist()},
        "masks must all be of one shape": {"mask": [[True], [True, False]]},
        "batch_size=0": {"batch_size": 0},
        "seed=-1": {"seed": -1},
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


def test_an_edit_can_be_watched(sampler):
    options = {"steps": 6, "guidance": 2.0, "order": LOCAL, "seed": 4}
    edits = change(sampler, rule=None, **options)
    with jax.default_matmul_precision("highest"):
        live = list(sampler.stream(LABELS, images=IMAGES, mask=MASK, **options))
        replayed = list(sampler.replay(edits.images, edits.codes, edits.step_map))
        everything = list(
            sampler.stream(LABELS[:2], images=IMAGES[:2], mask=~(MASK & False), **options)
        )
    assert len(live) == len(replayed) == edits.step_map.max() + 2
    for one, other in zip(live, replayed, strict=True):
        assert one.step == other.step
        np.testing.assert_array_equal(one.known, other.known)
        np.testing.assert_allclose(one.images.astype(int), other.images, atol=1)
    assert live[-1].images.tobytes() == edits.images.tobytes()
    assert [partial.step for partial in everything] == [1, 2, 3, 4, 5, 6]


def test_an_edit_that_cannot_be_watched_is_refused(sampler):
    uneven = np.stack([CELLS, np.roll(CELLS, 1), ~CELLS])
    for says, wrong in {
        "masks ask for 8 to 16 cells": {"mask": uneven},
        "masks ask for 0 to 0 cells": {"mask": CELLS & False},
        "NumPy array of uint8": {"images": None},
        "the mask has shape": {"mask": None},
        "every=0": {"every": 0},
        "segments=0": {"segments": 0},
    }.items():
        with pytest.raises(InputError, match=says):
            sampler.stream(LABELS[:3], **{"images": IMAGES[:3], "mask": MASK} | wrong)
