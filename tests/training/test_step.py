"""One step, however it is computed: batches in parts, logits in chunks."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from lpd_jax import parallel
from lpd_jax.errors import InputError
from lpd_jax.generation import mixture, orders
from lpd_jax.generation.groups import step_of
from lpd_jax.models.decoder import Decoder
from lpd_jax.models.initial import init_decoder
from lpd_jax.training.objectives import decoder_loss
from lpd_jax.training.optimizer import OptimizerConfig
from lpd_jax.training.step import Part, averaged, prepare

STEPS_OF = np.stack([step_of(sizes) for sizes in ((1, 2, 3, 5, 6, 7), (4, 20))])
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def wide(decoder):
    """The tiny decoder with more codes than hidden units, so that shapes tell the two apart."""
    return Decoder(dataclasses.replace(decoder.config, vocab_size=40))


@pytest.fixture(scope="module")
def params(wide):
    return jax.jit(lambda key: nn.unbox(init_decoder(wide, key)))(jax.random.key(0))


@pytest.fixture(scope="module")
def sixteen():
    rng = np.random.default_rng(0)
    return {
        "codes": rng.integers(0, 40, (16, 24), dtype=np.int32),
        "label": rng.integers(0, 5, 16, dtype=np.int32),
    }


def gradient(loss_fn, params, batch, parts=1):
    """((loss, metrics), gradients)"""
    grad = jax.value_and_grad(loss_fn, has_aux=True)
    with jax.default_matmul_precision("highest"):
        return jax.jit(lambda p, b: averaged(grad, parts, p, b, KEY))(params, batch)


def assert_close(a, b, relative=1e-6):
    """Equal in relation to the largest number of each array."""

    def check(x, y):
        np.testing.assert_allclose(x, y, rtol=0, atol=relative * np.abs(y).max())

    jax.tree.map(check, jax.device_get(a), jax.device_get(b))


@pytest.fixture(scope="module")
def plain(wide, params, sixteen):
    """Loss, metrics and gradients of the whole batch at once, in random orders."""
    return gradient(decoder_loss(wide, STEPS_OF, label_drop=0.3), params, sixteen)


def test_parts_of_a_batch_give_the_gradient_of_the_whole(wide, params, sixteen, plain):
    loss = decoder_loss(wide, STEPS_OF, label_drop=0.3)
    assert_close(gradient(loss, params, sixteen, 4), plain)


def test_gradients_are_averaged_before_they_are_cut():
    """Two parts whose gradients cancel but for a little: cut apart, the little would be lost."""

    def loss_fn(params, batch, key, place, state):
        return jnp.mean(batch * params["w"]), {}

    config = OptimizerConfig(schedule="constant", clip_norm=1.0, accumulate=2)
    parts = {"w": Part(lambda key: {"w": jnp.float32(0)}, loss_fn, config)}
    mesh = parallel.make_mesh(parallel.MeshConfig(), jax.devices()[:1])
    start, step = prepare(parts, key=KEY, mesh=mesh, rules=parallel.RULES)
    state, metrics = step(start(KEY), jnp.array([9.0, -8.0]))
    assert metrics["grad_norm"] == 0.5
    moment = optax.tree.get(state.opt_state, "mu")["w"]
    np.testing.assert_allclose(moment, (1 - config.b1) * 0.5, rtol=1e-6)


def test_parts_leave_every_example_on_its_device(wide, sixteen):
    """All that devices tell each other is gradients and metrics; they never pass examples on."""
    mesh = parallel.make_mesh(parallel.MeshConfig())
    text = compiled_step(wide, sixteen, mesh, accumulate=2).as_text()
    talk = set(re.findall(r"(all-\w+|collective-permute|reduce-scatter)\(", text))
    assert talk == {"all-reduce"}


def test_accumulated_gradients_are_sharded_like_the_parameters(wide, sixteen):
    """The carry of the loop over parts holds a device's share of each sum, not the whole."""
    mesh = parallel.make_mesh(parallel.MeshConfig(data=2, fsdp=4))
    text = compiled_step(wide, sixteen, mesh, accumulate=2).as_text()
    loops = [line for line in text.splitlines() if re.search(r" while\(", line)]
    carried = {shape for line in loops for shape in re.findall(r"f32\[[\d,]+\]", line)}
    # The MLP's kernels (2 layers, 32 hidden units over 4 devices) and the head's.
    assert carried >= {"f32[2,8,128]", "f32[2,128,8]", "f32[8,40]"}
    assert not carried & {"f32[2,32,128]", "f32[2,128,32]"}


def compiled_step(network, batch, mesh, accumulate):
    optimizer = OptimizerConfig(schedule="constant", accumulate=accumulate)
    loss = decoder_loss(network, STEPS_OF, label_drop=0.1)
    part = Part(lambda key: init_decoder(network, key), loss, optimizer)
    start, step = prepare({"decoder": part}, key=KEY, mesh=mesh, rules=parallel.RULES)
    state = nn.unbox(jax.eval_shape(start, KEY))
    with parallel.use(mesh):
        return step.lower(state, parallel.put_batch(batch, mesh)).compile()


@pytest.mark.parametrize("parts", [3, 0])
def test_parts_that_do_not_divide_the_batch_are_refused(wide, params, sixteen, parts):
    with pytest.raises(InputError, match="accumulate"):
        gradient(decoder_loss(wide, STEPS_OF, 0.1), params, sixteen, parts)


def test_dropout_differs_between_the_parts(wide, params, sixteen):
    """Twice the same examples in both parts: with the same masks their losses would be equal."""
    network = Decoder(dataclasses.replace(wide.config, dropout=0.5))
    loss = jax.jit(decoder_loss(network, STEPS_OF, label_drop=0.0))
    places = jnp.arange(16)
    first, again, second = (loss(params, sixteen, KEY, places + i)[0] for i in (0, 0, 1))
    assert first == again != second


def test_logits_in_chunks_give_the_same_loss_and_gradient(wide, params, sixteen, plain):
    assert_close(gradient(decoder_loss(wide, STEPS_OF, 0.3, 8), params, sixteen), plain)


def test_logits_in_chunks_are_never_all_in_memory(wide, params, sixteen):
    """Nor on another device than their images: 16 images on 8 devices, 4 tokens a chunk."""
    mesh = parallel.make_mesh(parallel.MeshConfig())
    loss = decoder_loss(wide, STEPS_OF, 0.3, 4)
    with parallel.use(mesh):
        run = jax.jit(jax.grad(lambda p, b: loss(p, b, KEY)[0]))
        text = run.lower(params, parallel.put_batch(sixteen, mesh)).compile().as_text()
    sizes = {math.prod(map(int, s.split(","))) for s in re.findall(r"f32\[([\d,]+),40\]", text)}
    assert 2 * 4 in sizes
    assert not sizes & {2 * 24, 16 * 4, 16 * 24} and "all-to-all" not in text


@pytest.mark.parametrize("chunk", [5, 48, -1])
def test_chunks_that_do_not_divide_the_tokens_are_refused(wide, chunk):
    with pytest.raises(InputError, match="loss_chunk"):
        decoder_loss(wide, STEPS_OF, 0.1, chunk)


def test_mixed_orders_give_the_same_step_on_any_mesh_and_in_parts(wide, params, sixteen, plain):
    draw = mixture.mixture([orders.Random(), orders.LocalityAware(1.0, 1.0)], (0.5, 0.5), (4, 6))
    loss = decoder_loss(wide, STEPS_OF, 0.3, draw_order=draw)
    whole = gradient(loss, params, sixteen)
    assert whole[0][0] != plain[0][0]
    mesh = parallel.make_mesh(parallel.MeshConfig(data=4, fsdp=1), jax.devices()[:4])
    with parallel.use(mesh):
        batch = parallel.put_batch(sixteen, mesh)
        # Sums over devices round otherwise; another order of one image would change them by 1 %.
        assert_close(gradient(loss, params, batch, 4), whole, 1e-5)


def test_a_mixture_of_random_orders_alone_is_the_step_without_it(wide, params, sixteen, plain):
    draw = mixture.mixture([orders.Random(), orders.Raster()], (1.0, 0.0), (4, 6))
    mixed = gradient(decoder_loss(wide, STEPS_OF, 0.3, draw_order=draw), params, sixteen)
    assert_close(mixed, plain)
