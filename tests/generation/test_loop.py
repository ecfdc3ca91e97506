"""One XLA program whose result does not depend on how the work is cut.

That its logits are those of training is in `test_attention_rules.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpd_jax.generation.loop import generate_codes, to_raster
from lpd_jax.generation.plan import make_plan
from lpd_jax.generation.sampling import sampling_rule

SIZES = (1, 2, 3, 5, 6, 7)
RULES = {
    "plain": sampling_rule(),
    "guided": sampling_rule(guidance=3.0),
    "constant": sampling_rule(guidance=3.0, guidance_schedule="constant", top_k=5),
    "nucleus": sampling_rule(temperature=0.8, top_p=0.9),
}


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(7), 3)


@pytest.fixture(scope="module")
def run(decoder, decoder_params):
    # As users compile: without it (`tests/conftest.py`) products of two shapes round differently
    # in jax 0.12, and a draw between two codes that are almost level falls the other way.
    options = {"xla_backend_optimization_level": 3}
    compiled = jax.jit(generate_codes, static_argnums=(0, 5), compiler_options=options)

    def generate(labels, orders, keys, plan, rule, known=None):
        with jax.default_matmul_precision("highest"):
            return compiled(decoder, decoder_params, labels, orders, keys, plan, rule, known)

    return generate


@pytest.mark.parametrize(
    ("rule", "sizes", "count"),
    [
        *((rule, SIZES, 2) for rule in RULES),
        *(("guided", sizes, 99) for sizes in (SIZES, (1,) * 24, (24,), (4, 1, 12, 2, 5))),
    ],
    ids=str,
)
def test_segments_do_not_change_the_codes(run, batch, keys, rule, sizes, count):
    """Compiling takes long: two segments under every rule, as many as there are under one."""
    _, labels, orders = batch
    one, some = (run(labels, orders, keys, make_plan(sizes, n), RULES[rule]) for n in (1, count))
    np.testing.assert_array_equal(one, some)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_an_image_is_the_same_alone(run, batch, keys, rule):
    _, labels, orders = batch
    plan = make_plan(SIZES)
    together = run(labels, orders, keys, plan, rule)
    for i in range(3):
        row = slice(i, i + 1)
        alone = run(labels[row], orders[row], keys[row], plan, rule)
        np.testing.assert_array_equal(together[row], alone)


def test_known_tokens_are_context(run, batch, keys):
    """Greedy generation goes on from its own first tokens as if it had made them."""
    _, labels, orders = batch
    rule = sampling_rule(guidance=2.0, top_k=1)
    whole = run(labels, orders, keys, make_plan(SIZES), rule)
    # Known tokens are one group: seen from all sides, as after a first step of that size.
    first = run(labels, orders, keys, make_plan((11, 6, 7)), rule)
    rest = run(
        labels,
        orders[:, 11:],
        keys,
        make_plan((6, 7), num_known=11),
        rule,
        known=(first[:, :11], orders[:, :11]),
    )
    np.testing.assert_array_equal(first[:, 11:], rest)
    assert (whole != first).any()


def test_nothing_is_compiled_again_for_other_numbers(decoder, decoder_params, batch, keys):
    _, labels, orders = batch
    # Its own function: programs are counted per function, and other tests compile this one too.
    compiled = jax.jit(lambda *args: generate_codes(*args), static_argnums=(0, 5))
    plan = make_plan(SIZES)

    def generate(labels, orders, seed, **numbers):
        rule = sampling_rule(**{"guidance": 2.0, "top_p": 0.9} | numbers)
        keys = jax.random.split(jax.random.key(seed), 3)
        return compiled(decoder, decoder_params, labels, orders, keys, plan, rule)

    generate(labels, orders, 0)
    generate(labels + 0, orders[:, ::-1], 1, guidance=7.0, temperature=0.5, top_p=0.3)
    generate(jnp.zeros_like(labels), orders, 2, guidance=0.5)
    assert compiled._cache_size() == 1


def test_a_step_has_no_host_transfer(decoder, decoder_params, batch, keys):
    _, labels, orders = batch
    lowered = jax.jit(generate_codes, static_argnums=(0, 5)).lower(
        decoder, decoder_params, labels, orders, keys, make_plan(SIZES), sampling_rule(guidance=2.0)
    )
    text = lowered.compile().as_text()
    assert "while" in text
    for transfer in ("outfeed", "infeed", "send(", "recv(", 'custom_call_target="xla_python'):
        assert transfer not in text


def test_to_raster_puts_codes_where_the_order_says():
    codes = jnp.array([[7, 8, 9]])
    raster = to_raster(codes, jnp.array([[4, 0, 2]]), 6)
    assert raster.tolist() == [[8, 0, 9, 0, 7, 0]]
