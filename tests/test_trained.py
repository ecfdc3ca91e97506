"""Parameters laid out for sampling."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import keystr, tree_leaves_with_path

from lpd_jax.generation.loop import generate_codes
from lpd_jax.generation.plan import make_plan
from lpd_jax.generation.sampling import sampling_rule
from lpd_jax.models.decoder import Decoder
from lpd_jax.trained import lay_out


@pytest.mark.parametrize("layers", ["scan", "unrolled"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_laid_out_for_sampling_give_the_same_codes(decoder, decoder_params, layers, dtype):
    stacked = Decoder(dataclasses.replace(decoder.config, dtype=dtype))
    apart, apart_params = lay_out(decoder, dict(decoder_params), layers, dtype)
    assert apart.config.layers == layers
    kernels = [x for path, x in tree_leaves_with_path(apart_params) if "kernel" in keystr(path)]
    assert {x.dtype.name for x in kernels} == {dtype}
    plan, rule = make_plan((1, 3, 8, 12), 2), sampling_rule(guidance=2.0)
    keys = jax.random.split(jax.random.key(1), 2)
    orders = jnp.stack([jax.random.permutation(key, 24) for key in keys])
    labels = jnp.array([1, 4])
    run = jax.jit(generate_codes, static_argnums=(0, 5))
    expected, found = (
        run(network, params, labels, orders, keys, plan, rule)
        for network, params in ((stacked, decoder_params), (apart, apart_params))
    )
    np.testing.assert_array_equal(found, expected)
