"""Confidence-aware generation against a loop of whole passes, and what it may not depend on."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpd_jax import parallel
from lpd_jax.errors import InputError
from lpd_jax.generation import confident
from lpd_jax.generation.orders import Confident
from lpd_jax.generation.plan import make_plan
from lpd_jax.generation.sampling import sampling_rule
from lpd_jax.generation.schedule import Schedule
from lpd_jax.models.decoder import Decoder

SIZES = (1, 3, 6, 6, 8)
LABELS = np.int32([0, 4, 5, 1] * 2)


@pytest.fixture(scope="module")
def run(decoder, decoder_params):
    # As users compile: see test_loop.py.
    options = {"xla_backend_optimization_level": 3}
    compiled = jax.jit(confident.generate_codes, static_argnums=(0, 4), compiler_options=options)

    def generate(order, rule, labels=LABELS, first=0, sizes=SIZES):
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(3), i))(
            first + jnp.arange(len(labels))
        )
        with jax.default_matmul_precision("highest"):
            given = decoder, decoder_params, jnp.asarray(labels), keys, make_plan(sizes)
            return jax.device_get(compiled(*given, rule, order))

    generate.compiled = compiled
    return generate


@functools.partial(jax.jit, static_argnums=0)
def ask(network, params, label, raster, *given):
    return network.apply({"params": params}, raster[None], label[None], *given)


def by_hand(decoder, params, label, order, rule):
    """Codes, cells and passes of one image: a teacher-forced pass over the whole image for each.

    Greedy, so that the likeliest codes are what is drawn.
    """
    network = Decoder(dataclasses.replace(decoder.config, query_attention="independent"))
    tokens, widest = decoder.config.num_tokens, max(SIZES)
    raster, cells, steps = np.zeros(tokens, np.int32), [], []
    for number, size in enumerate(SIZES):
        if not (left := [cell for cell in range(tokens) if cell not in cells]):
            break
        given = np.int32([cells + left]), np.int32([steps + [len(SIZES)] * len(left)])
        with jax.default_matmul_precision("highest"):
            logits, without = (
                np.asarray(ask(network, params, who, raster, *given))[0, len(cells) :]
                for who in np.int32([label, decoder.config.num_classes])
            )
        if rule.guidance is not None:
            scale = 1 + (float(rule.guidance) - 1) * len(cells) / tokens
            logits = without + scale * (logits - without)
        sure = np.asarray(jax.nn.log_softmax(logits)).max(-1)
        size = min(max(size, (sure > np.log(float(order.threshold))).sum()), widest, len(left))
        best = np.argsort(-sure, kind="stable")[:size]
        picked = [left[i] for i in best]
        raster[picked] = logits[best].argmax(-1)
        cells, steps = cells + picked, steps + [number] * size
    return raster[cells], cells, steps


@pytest.mark.parametrize("threshold", [1.0, 0.3])
@pytest.mark.parametrize("guidance", [None, 2.5])
def test_the_surest_cells_are_kept(run, decoder, decoder_params, threshold, guidance):
    order = Confident(jnp.float32(threshold), jnp.float32(0))
    # The likeliest code is in every nucleus, which the other tests need: one program with theirs.
    rule = sampling_rule(temperature=0, guidance=guidance, top_p=None if guidance is None else 0.9)
    found = run(order, rule)
    for i in (0, 2):
        wanted = by_hand(decoder, decoder_params, LABELS[i], order, rule)
        for array, own in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(array[i], own)
    schedule = Schedule(found[1], SIZES, decoder.config.grid, found[2]).check()
    last = schedule.step_map.reshape(len(LABELS), -1).max(1)
    np.testing.assert_array_equal(last, found[2].max(1))
    if threshold == 1:
        np.testing.assert_array_equal(found[2], np.tile(np.repeat(range(5), SIZES), (8, 1)))
    else:
        assert (found[2].max(1) < 4).any()  # fewer passes than groups


@pytest.mark.parametrize("threshold", [1.0, 0.3])
def test_an_image_is_the_same_alone_and_on_eight_devices(run, threshold):
    order = Confident(jnp.float32(threshold), jnp.float32(0.7))
    rule = sampling_rule(guidance=2.0, top_p=0.9)
    together = run(order, rule)
    alone = run(order, rule, LABELS[3:4], first=3)
    for all_, one in zip(together, alone, strict=True):
        np.testing.assert_array_equal(all_[3:4], one)
    mesh = parallel.make_mesh(parallel.MeshConfig(data=8))
    with parallel.use(mesh):
        rows = jax.device_put(LABELS, parallel.batch_sharding(mesh))
        apart = run(order, rule, rows)
    jax.tree.map(np.testing.assert_array_equal, together, apart)


def test_other_numbers_compile_nothing_and_noise_moves_the_choice(run):
    rule = functools.partial(sampling_rule, guidance=2.0, top_p=0.9)
    before = run(Confident(jnp.float32(1), jnp.float32(0)), rule(temperature=0.5))
    count = run.compiled._cache_size()
    moved = run(Confident(jnp.float32(1), jnp.float32(5)), rule(temperature=0.5))
    assert (before[1] != moved[1]).any()
    assert (np.sort(moved[1]) == np.arange(24)).all()
    run(Confident(jnp.float32(0.2), jnp.float32(0)), rule(temperature=2), LABELS[::-1].copy(), 7)
    assert run.compiled._cache_size() == count


def test_codes_are_drawn_as_often_as_their_probability(run, decoder, decoder_params):
    """The first code of many images: the choice of its cell says nothing about its draw."""
    rule = sampling_rule(temperature=1.0)
    order, labels = Confident(jnp.float32(1), jnp.float32(0)), np.zeros(2000, np.int32)
    codes, cells, _ = run(order, rule, labels, sizes=(1, 23))
    assert len(np.unique(cells[:, 0])) == 1
    logits = decoder.apply(
        {"params": decoder_params},
        jnp.zeros((1, 24), jnp.int32),
        jnp.zeros(1, jnp.int32),
        jnp.asarray(np.r_[cells[0, :1], np.delete(np.arange(24), cells[0, 0])][None]),
        jnp.arange(24)[None],
    )
    wanted = 2000 * np.asarray(jax.nn.softmax(logits[0, 0]))
    seen = np.bincount(codes[:, 0], minlength=32)
    common = wanted > 5
    assert ((seen - wanted) ** 2 / wanted)[common].sum() < 2.2 * common.sum() + 10


def test_what_needs_an_order_ahead_is_refused():
    with pytest.raises(InputError, match="chosen by the model while it generates"):
        Confident().draw(jax.random.key(0), (4, 6), SIZES)
