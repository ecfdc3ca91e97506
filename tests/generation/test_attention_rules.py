"""The attention rule and its variants: one function, followed by training and by generation."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpd_jax.errors import InputError
from lpd_jax.generation.loop import generate_codes
from lpd_jax.generation.plan import make_plan
from lpd_jax.generation.sampling import guidance_scale, sampling_rule
from lpd_jax.models.decoder import Decoder
from lpd_jax.models.mask import training_mask

SIZES = (2, 3, 5, 6, 8)
RULES = list(itertools.product(("group", "independent"), ("group", "causal")))


def variant(decoder, query_attention, context_attention):
    return Decoder(
        dataclasses.replace(
            decoder.config, query_attention=query_attention, context_attention=context_attention
        )
    )


def test_masks_spelled_out():
    """Class, context 0, 1, 1, queries 0, 1, 1, 2."""
    step_of = jnp.array([0, 1, 1, 2])
    group = np.asarray(training_mask(step_of))
    independent = np.array(training_mask(step_of, "independent", "group"))
    causal = np.array(training_mask(step_of, "group", "causal"))
    assert np.argwhere(group != independent).tolist() == [[5, 6], [6, 5]]
    assert np.argwhere(group != causal).tolist() == [[2, 3]]
    assert group[[5, 6, 2], [6, 5, 3]].all()
    both = np.asarray(training_mask(step_of, "independent", "causal"))
    np.testing.assert_array_equal(both, independent & causal)


@pytest.mark.parametrize("rule", RULES, ids="-".join)
def test_each_step_samples_what_training_predicts(decoder, decoder_params, batch, rule):
    """Cached logits of every group, padded and guided, are those of the teacher-forced pass."""
    network = variant(decoder, *rule)
    codes, labels, orders = batch
    forced = jnp.take_along_axis(codes, orders, 1)
    step_of = jnp.repeat(jnp.arange(len(SIZES)), jnp.array(SIZES))
    guided = sampling_rule(guidance=3.0)
    keys = jax.random.split(jax.random.key(0), 3)
    with jax.default_matmul_precision("highest"):
        train = jax.jit(functools.partial(network.apply, {"params": decoder_params}))
        with_class = train(codes, labels, orders, step_of)
        without = train(codes, jnp.full_like(labels, 5), orders, step_of)
        scale = guidance_scale(guided, jnp.arange(24), 24)[:, None]
        expected = without + scale * (with_class - without)
        seen = generation_logits(network, decoder_params, labels, orders, keys, forced, guided)
    np.testing.assert_allclose(seen, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def generation_logits(network, params, labels, orders, keys, forced, rule):
    """Logits float [B, N, V] that the loop samples from when it is fed `forced`."""
    seen = np.zeros((*orders.shape, network.config.vocab_size), np.float32)

    def record(logits, positions):
        inside = positions < orders.shape[1]
        seen[:, positions[inside]] = logits[:, inside]

    def draw(logits, keys, positions, rule):
        del keys, rule
        jax.debug.callback(record, logits, positions, ordered=True)
        return jnp.pad(forced, [(0, 0), (0, 8)])[:, positions]

    plan = make_plan(SIZES, 2)
    generate = jax.jit(functools.partial(generate_codes, network, plan=plan, draw=draw))
    generated = generate(params, labels, orders, keys, rule=rule)
    jax.effects_barrier()
    np.testing.assert_array_equal(generated, forced)
    return seen


def test_known_tokens_follow_the_rule(decoder, decoder_params, batch):
    """Greedy generation goes on from its own first group, given as known, as if it had made it."""
    network = variant(decoder, "independent", "causal")
    _, labels, orders = batch
    keys = jax.random.split(jax.random.key(7), 3)
    greedy = sampling_rule(guidance=2.0, top_k=1)
    compiled = jax.jit(generate_codes, static_argnums=(0, 5))
    args = decoder_params, labels
    with jax.default_matmul_precision("highest"):
        first = compiled(network, *args, orders, keys, make_plan((11, 6, 7)), greedy)
        plan, known = make_plan((6, 7), num_known=11), (first[:, :11], orders[:, :11])
        rest = compiled(network, *args, orders[:, 11:], keys, plan, greedy, known)
    np.testing.assert_array_equal(first[:, 11:], rest)


def test_variants_differ_where_groups_are_wider_than_one(decoder, decoder_params, batch):
    codes, labels, orders = batch
    wide, one = jnp.repeat(jnp.arange(len(SIZES)), jnp.array(SIZES)), jnp.arange(24)
    default = decoder.apply({"params": decoder_params}, codes, labels, orders, wide)
    single = decoder.apply({"params": decoder_params}, codes, labels, orders, one)
    for rule in RULES[1:]:
        apply = functools.partial(variant(decoder, *rule).apply, {"params": decoder_params})
        other = np.abs(apply(codes, labels, orders, wide) - default).max(-1)
        # The first group is asked before there is context that could differ.
        assert (other[:, SIZES[0] :].max(0) > 1e-3).any()
        np.testing.assert_allclose(apply(codes, labels, orders, one), single, rtol=0, atol=1e-5)


@pytest.mark.parametrize("field", ["query_attention", "context_attention"])
def test_unknown_rules_are_refused(decoder, field):
    with pytest.raises(InputError, match=f"decoder.{field}='none' must be 'group' or"):
        dataclasses.replace(decoder.config, **{field: "none"})
