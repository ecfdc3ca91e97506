"""Fitted group sizes against every possible cut."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from lpd_jax import parallel
from lpd_jax.errors import InputError
from lpd_jax.evaluation.fitting import fitted_sizes, group_costs
from lpd_jax.evaluation.likelihood import scorer
from lpd_jax.generation.groups import step_of
from lpd_jax.models.decoder import Decoder


def cuts(tokens, steps):
    """All tuples of that many positive sizes."""
    for ends in itertools.combinations(range(1, tokens), steps - 1):
        yield tuple(np.diff([0, *ends, tokens]).tolist())


def cost_of(costs, sizes):
    ends = np.cumsum([0, *sizes])
    return sum(costs[a, b] for a, b in itertools.pairwise(ends))


@pytest.mark.parametrize("steps", range(1, 10))
def test_no_cut_is_cheaper(steps):
    rng = np.random.default_rng(steps)
    costs = np.full((10, 10), np.inf)
    for a in range(9):
        costs[a, a + 1 :] = np.cumsum(rng.uniform(0, 3, 9 - a))
    sizes = fitted_sizes(costs, steps)
    assert len(sizes) == steps and sum(sizes) == 9 and min(sizes) > 0
    assert cost_of(costs, sizes) == pytest.approx(min(cost_of(costs, c) for c in cuts(9, steps)))


@pytest.mark.parametrize("steps", [0, 10])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(InputError, match="9 tokens cannot be generated in"):
        fitted_sizes(np.zeros((10, 10)), steps)


@pytest.mark.parametrize("query_attention", ["independent", "group"])
def test_the_cost_of_a_cut_is_the_likelihood_under_it(decoder, decoder_params, query_attention):
    """Of queries that do not see each other for all groups, else for the last one."""
    network = Decoder(
        dataclasses.replace(decoder.config, dropout=0.0, query_attention=query_attention)
    )
    rng, tokens = np.random.default_rng(0), decoder.config.num_tokens
    images = {
        "codes": rng.integers(0, decoder.config.vocab_size, (5, tokens), dtype=np.int32),
        "label": rng.integers(0, 5, 5, dtype=np.int32),
    }
    orders = np.stack([rng.permutation(tokens) for _ in range(5)]).astype(np.int32)
    mesh = parallel.make_mesh(parallel.MeshConfig(), jax.devices()[:1])
    with parallel.use(mesh, parallel.RULES):
        bits = scorer(network, decoder_params, images, batch_size=5, mesh=mesh)
        for sizes in ((24,), (1, 3, 8, 12), (1,) * 24):
            costs = group_costs(bits, orders, sizes)
            exact = bits(orders, step_of(sizes)).mean(0)
            last = sizes[-1]
            assert costs[tokens - last, tokens] == pytest.approx(exact[-last:].sum(), rel=1e-5)
            if query_attention == "independent":
                assert cost_of(costs, sizes) == pytest.approx(exact.sum(), rel=1e-5)
