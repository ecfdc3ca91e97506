"""Generation on eight devices: what they say to each other, and that images do not depend on it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpd_jax import parallel
from lpd_jax.compiled import hlo
from lpd_jax.generation import program
from lpd_jax.generation.groups import group_sizes
from lpd_jax.generation.orders import LocalityAware
from lpd_jax.generation.plan import make_plan
from lpd_jax.generation.sampling import sampling_rule
from lpd_jax.models.initial import init_decoder
from lpd_jax.parallel import MeshConfig

BATCH = 16
MESHES = {
    "one": MeshConfig(),
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(data=1, fsdp=8),
    "all": MeshConfig(data=2, fsdp=2, tensor=2),
}


@pytest.fixture(scope="module")
def run(decoder, decoder_params, tokenizer, tokenizer_params):
    """Name of a mesh -> `Samples` and the text of the program; half of the tokens are edited."""

    @functools.cache
    def run(name, task):
        devices = jax.devices()[: 1 if name == "one" else 8]
        mesh = parallel.make_mesh(MESHES[name], devices)
        rows, whole = parallel.batch_sharding(mesh), parallel.replicated(mesh)
        boxed = jax.eval_shape(lambda key: init_decoder(decoder, key), jax.random.key(0))
        places = parallel.shardings_of(boxed, mesh)
        params = jax.device_put((decoder_params, tokenizer_params), (places, whole))
        labels, indices = jax.device_put((jnp.arange(BATCH) % 5, jnp.arange(BATCH)), rows)
        rule = sampling_rule(guidance=2.0, temperature=0.9, top_k=20, top_p=0.9)
        seed, order = jax.random.key(7), LocalityAware(1.0, 1.0)
        with parallel.use(mesh):
            if task == "generate":
                function, given = program.generate, (labels, indices, seed, order)
                plan = make_plan(group_sizes(24, 6), 2)
            else:
                images = jax.device_put(jnp.linspace(-1, 1, BATCH * 16 * 24 * 3), whole)
                images = jax.device_put(images.reshape(BATCH, 16, 24, 3), rows)
                unknown = jax.device_put(jnp.tile(jnp.arange(24) % 2 == 0, (BATCH, 1)), rows)
                function, given = program.edit, (images, unknown, labels, indices, seed, order)
                plan = make_plan(group_sizes(12, 4), 1, num_known=12)
            parts = 2  # of the batch, in a loop through the tokenizer
            lowered = function.lower(decoder, tokenizer, params, *given, plan, rule, parts)
            compiled = lowered.compile()
            return jax.device_get(compiled(params, *given, rule)), compiled.as_text()

    return run


@pytest.mark.parametrize("task", ["generate", "edit"])
def test_copies_of_the_model_do_not_wait_for_each_other(run, task):
    samples, text = run("data", task)
    assert hlo.loop_collectives(text) == []
    if task == "generate":  # editing: tests/test_sampler.py
        check_equal(samples, run("one", task)[0])


def test_cut_parameters_are_gathered_and_nothing_else(run, decoder_params):
    """A gathered parameter is an all-gather that leaves an array of that parameter's sizes."""
    samples, text = run("fsdp", "generate")
    found = hlo.loop_collectives(text)
    sizes = {x.shape[1:] for x in jax.tree.leaves(decoder_params["blocks"])}
    assert {c.kind for c in found} == {"all-gather"}
    assert {c.dims for c in found} <= sizes
    check_equal(samples, run("one", "generate")[0])


def test_devices_that_share_products_exchange_their_results_only(run):
    """Parts of products are summed, logits are gathered over the codes; sampling asks for none."""
    samples, text = run("all", "generate")
    # Collectives of the layers; jax 0.12 names those that gather parameters after the loop only.
    layers = ("/blocks/", "/Decoder._run/while/")
    found = [c for c in hlo.loop_collectives(text) if not any(name in c.source for name in layers)]
    assert {c.kind for c in found} == {"all-gather"}
    assert {(c.dims[0], c.dims[-1]) for c in found} == {(BATCH // 4, 32)}
    assert len(found) == 2  # one for each segment
    check_equal(samples, run("one", "generate")[0])


def check_equal(samples, wanted):
    np.testing.assert_array_equal(samples.orders, wanted.orders)
    np.testing.assert_array_equal(samples.codes, wanted.codes)
    np.testing.assert_allclose(samples.images.astype(int), wanted.images, atol=1)


def test_by_device_cuts_what_divides_and_leaves_the_rest():
    mesh = parallel.make_mesh(MeshConfig(data=4, tensor=2))
    seen = []

    def double(x, y):
        seen.append(x.shape)
        return x * y

    run = jax.jit(lambda x: parallel.by_device(double, (x,), jnp.float32(2)))
    outside = run(jnp.arange(8.0))
    with parallel.use(mesh):
        inside, odd = run(jnp.arange(8.0)), run(jnp.arange(6.0))
        vectors = jax.vmap(lambda x: parallel.by_device(double, (x,), 2.0))
        mapped = jax.jit(vectors)(jnp.ones((3, 8)))
    assert seen == [(8,), (2,), (6,), (2,)]
    np.testing.assert_array_equal(outside, inside)
    np.testing.assert_array_equal(odd, 2 * np.arange(6))
    np.testing.assert_array_equal(mapped, np.full((3, 8), 2))
