"""Steps that are programs of their own make what the one program makes, to the bit."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpd_jax import parallel
from lpd_jax.generation import program, stepwise
from lpd_jax.generation.loop import Passes, padded, places, with_room
from lpd_jax.generation.orders import LocalityAware, Random
from lpd_jax.generation.plan import make_plan
from lpd_jax.generation.sampling import sampling_rule
from lpd_jax.models.initial import init_decoder
from lpd_jax.parallel import MeshConfig
from lpd_jax.trained import lay_out

SIZES = (1, 2, 3, 5, 6, 7)
GRID = (4, 6)
KEY = jax.random.key(7)
PLAIN, GUIDED = sampling_rule(), sampling_rule(guidance=3.0, top_k=20)
# As users compile (`tests/conftest.py` has the tests compile faster): where XLA fuses, roundings
# could differ between the body of a loop and a program of its own.
as_users = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})


def given(order, count=8):
    """Labels, indices, key and order of as many images."""
    return jnp.arange(count) % 6, jnp.arange(count), KEY, order


def go_on(step, decoder, params, begun, plan, rule):
    run, cache = begun
    for number, segment in stepwise.later_steps(plan):
        run, cache = step(decoder, params, run, cache, number, plan, segment, rule)
    return run, cache


def check_same(one, other):
    for field in dataclasses.fields(other):
        left, right = (np.asarray(getattr(x, field.name)) for x in (one, other))
        assert left.dtype == right.dtype and left.tobytes() == right.tobytes(), field.name


@pytest.mark.parametrize(("dtype", "rule"), [("float32", GUIDED), ("bfloat16", PLAIN)])
def test_every_bit_is_that_of_the_program(decoder, decoder_params, dtype, rule):
    """Not the tokens alone, which forgive roundings: all keys and values of all layers."""
    decoder, params = lay_out(decoder, dict(decoder_params), "unrolled", dtype)
    plan, (labels, indices, key, _) = make_plan(SIZES, 1), given(None, 3)
    orders = jax.vmap(lambda k: jax.random.permutation(k, 24))(jax.random.split(KEY, 3))

    @as_users
    def whole(params, labels, orders, rule):
        run = Passes(decoder, params, plan, rule, program.image_keys(key, indices)[1])
        padded_orders = padded(orders, plan)
        carry = run.prefill(labels, padded_orders)
        for segment in plan.segments:
            step = functools.partial(run.step, segment, padded_orders)
            tokens, cache = carry
            carry = tokens, with_room(cache, segment)
            carry, _ = jax.lax.scan(step, carry, places(plan, segment))
        return carry

    tokens, cache = whole(params, labels, orders, rule)
    begun = as_users(stepwise.begin, static_argnames=("decoder", "plan"))(
        decoder, params, labels, indices, key, orders, plan, rule
    )
    step = as_users(stepwise.step, static_argnames=("decoder", "plan", "segment"))
    run, own_cache = go_on(step, decoder, params, begun, plan, rule)
    np.testing.assert_array_equal(run.tokens, tokens)
    leaves, own_leaves = jax.tree.leaves(cache), jax.tree.leaves(own_cache)
    assert leaves[0].dtype == dtype
    for leaf, own in zip(leaves, own_leaves, strict=True):
        # The last places are those of an overhang: written, and never read.
        length = 1 + sum(SIZES[:-1])
        leaf, own = (np.asarray(x)[..., :length, :] for x in (leaf, own))
        assert leaf.tobytes() == own.tobytes()


def test_images_are_those_of_the_program(decoder, decoder_params, tokenizer, tokenizer_params):
    params, plan = (decoder_params, tokenizer_params), make_plan(SIZES, 2)
    asked = *given(LocalityAware()), plan, GUIDED
    whole = program.generate(decoder, tokenizer, params, *asked)
    begun = stepwise.begin(decoder, params[0], *asked)
    run, _ = go_on(stepwise.step, decoder, params[0], begun, plan, GUIDED)
    check_same(stepwise.finish(tokenizer, params[1], run, plan, GRID), whole)


def test_edits_are_those_of_the_program(decoder, decoder_params, tokenizer, tokenizer_params):
    params, plan = (decoder_params, tokenizer_params), make_plan((2, 3, 7), 1, num_known=12)
    images = jax.random.uniform(KEY, (3, 16, 24, 3), minval=-1, maxval=1)
    unknown = jax.vmap(lambda k: jax.random.permutation(k, jnp.arange(24) < 12))(
        jax.random.split(KEY, 3)
    )
    asked = images, unknown, *given(Random(), 3), plan, GUIDED
    whole = program.edit(decoder, tokenizer, params, *asked)
    begun = stepwise.begin_edit(decoder, tokenizer, params, *asked)
    _, known = stepwise.look(tokenizer, params[1], begun[0], np.int32(0), plan, GRID)
    np.testing.assert_array_equal(known, ~unknown)
    run, _ = go_on(stepwise.step, decoder, params[0], begun, plan, GUIDED)
    check_same(stepwise.finish(tokenizer, params[1], run, plan, GRID), whole)


def test_a_look_shows_what_is_done_and_leaves_the_next_step_alone(
    decoder, decoder_params, tokenizer, tokenizer_params
):
    plan, asked = make_plan(SIZES, 2), given(Random(), 3)
    run, cache = stepwise.begin(decoder, decoder_params, *asked, plan, PLAIN)
    looks, used = [], None
    for done, (number, segment) in enumerate(stepwise.later_steps(plan), 1):
        before, used = run, jax.tree.leaves(cache)[0]
        run, cache = stepwise.step(
            decoder, decoder_params, run, cache, number, plan, segment, PLAIN
        )
        # After the next step has begun: its cache is gone, what a look reads is not. Between
        # segments it grew, and the smaller one was nobody's.
        assert used.is_deleted() == (number != segment.first)
        looks.append(stepwise.look(tokenizer, tokenizer_params, before, done, plan, GRID))
    samples = stepwise.finish(tokenizer, tokenizer_params, run, plan, GRID)
    for (images, known), done in zip(looks, np.cumsum(SIZES), strict=False):
        rows = np.arange(3)[:, None]
        assert known.sum() == 3 * done and np.asarray(known)[rows, samples.orders[:, :done]].all()
        seen = program.preview(tokenizer, tokenizer_params, samples.codes, known, GRID)
        np.testing.assert_array_equal(images, seen)


@pytest.fixture
def compilations():
    """Names of what is compiled from here on."""
    names = []

    def note(event: str, _: float, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


def test_a_segment_is_compiled_once_on_eight_devices(
    decoder, decoder_params, tokenizer, tokenizer_params, compilations
):
    mesh = parallel.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    boxed = jax.eval_shape(lambda key: init_decoder(decoder, key), KEY)
    places = parallel.shardings_of(boxed, mesh), parallel.replicated(mesh)
    params = jax.device_put((decoder_params, tokenizer_params), places)
    rows, plan, rule = parallel.batch_sharding(mesh), make_plan(SIZES, 2), sampling_rule
    orders = jax.vmap(lambda k: jax.random.permutation(k, 24))(jax.random.split(KEY, 16))

    def generate(labels, orders, seed, rule):
        labels, indices, orders = jax.device_put((labels, jnp.arange(8), orders), rows)
        asked = labels, indices, jax.random.key(seed), orders, plan, rule
        with parallel.use(mesh):
            run, cache = stepwise.begin(decoder, params[0], *asked)
            for number, segment in stepwise.later_steps(plan):
                stepwise.look(tokenizer, params[1], run, number, plan, GRID)
                run, cache = stepwise.step(
                    decoder, params[0], run, cache, number, plan, segment, rule
                )
            return stepwise.finish(tokenizer, params[1], run, plan, GRID), asked

    with jax.default_matmul_precision("highest"):
        samples, asked = generate(jnp.arange(8) % 6, orders[:8], 7, rule(guidance=3.0, top_p=0.9))
        assert [compilations.count(name) for name in PROGRAMS] == [1, 2, 1, 1]
        del compilations[:]
        generate(jnp.zeros(8, int), orders[8:], 8, rule(guidance=1.0, temperature=0.5, top_p=0.3))
        assert not {*compilations} & {*PROGRAMS}
        with parallel.use(mesh):
            whole = program.generate(decoder, tokenizer, params, *asked)
    np.testing.assert_array_equal(samples.codes, whole.codes)
    np.testing.assert_allclose(samples.images.astype(int), whole.images, atol=1)


PROGRAMS = ("jit(begin)", "jit(_step)", "jit(look)", "jit(finish)")


def test_the_cache_stays_where_it_is(decoder, decoder_params):
    plan = make_plan(SIZES, 1)
    run, cache = stepwise.begin(decoder, decoder_params, *given(Random()), plan, PLAIN)
    segment = plan.segments[0]
    run, cache = stepwise.step(
        decoder, decoder_params, run, cache, np.int32(1), plan, segment, PLAIN
    )
    later = jax.jit(
        stepwise.step,
        static_argnames=("decoder", "plan", "segment"),
        donate_argnames="cache",
    )
    asked = decoder, decoder_params, run, cache, np.int32(2), plan, segment, PLAIN
    compiled = later.lower(*asked).compile()
    size = sum(x.nbytes for x in jax.tree.leaves(cache))
    assert compiled.memory_analysis().alias_size_in_bytes >= size
    text = compiled.as_text()
    for transfer in ("outfeed", "infeed", "send(", "recv(", 'custom_call_target="xla_python'):
        assert transfer not in text
