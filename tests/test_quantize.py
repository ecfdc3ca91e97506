"""int8 kernels: the rounding, the products, the sampler and the meshes they run on."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from lpd_jax import checkpoint, parallel
from lpd_jax.errors import InputError
from lpd_jax.generation.loop import generate_codes
from lpd_jax.generation.orders import LocalityAware
from lpd_jax.generation.plan import make_plan
from lpd_jax.generation.sampling import sampling_rule
from lpd_jax.models.decoder import Decoder
from lpd_jax.models.initial import init_decoder
from lpd_jax.quantize import MODES, Int8Kernel, contracted_axes, num_bytes, quantize_decoder
from lpd_jax.sampler import Sampler
from lpd_jax.trained import lay_out

SIZES = (1, 2, 3, 5, 6, 7)


def kernels(params):
    """(path, kernel), with layers stacked or apart."""
    flat = traverse_util.flatten_dict(params)
    return [(path, flat[path]) for path in flat if path[-1] == "kernel"]


@pytest.fixture(scope="module", params=MODES)
def quantized(request, decoder_params):
    return quantize_decoder(decoder_params, request.param)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, decoder, decoder_params, tokenizer, tokenizer_params):
    """A trained model as far as `Sampler.load` can see."""
    path = tmp_path_factory.mktemp("models")
    about = {
        "kind": "decoder",
        "config": dataclasses.asdict(decoder.config),
        "tokenizer": "t",
        "class_names": list("abcde"),
        "label_drop": 0.1,
    }
    checkpoint.save_model(path / "decoder/model", about, decoder_params)
    about = {
        "kind": "tokenizer",
        "config": dataclasses.asdict(tokenizer.config),
        "fingerprint": "t",
    }
    checkpoint.save_model(path / "tokenizer/model", about, tokenizer_params)
    return path


def load(workdir, axes=(1, 1, 1), **options):
    config = parallel.MeshConfig(*axes)
    devices = jax.devices()[: axes[0] * axes[1] * axes[2]]
    return Sampler.load(workdir, parallel.make_mesh(config, devices), **options)


def draw(sampler):
    with jax.default_matmul_precision("highest"):
        return sampler.sample(
            [0, 1, 2, 3, 4, 0, 1, 2], SIZES, LocalityAware(), sampling_rule(guidance=2.0)
        )


def test_each_layer_is_rounded_alone_with_a_scale_per_output_channel(decoder_params):
    quantized = dict(kernels(quantize_decoder(decoder_params, "int8")))
    assert len(quantized) == 5
    for path, exact in kernels(decoder_params):
        kernel, contracted = quantized[path], contracted_axes(path)
        assert kernel.values.dtype == jnp.int8 and kernel.values.shape == exact.shape
        # Exactly 127: sent to 127.5, the largest would round up or down by the last bit of a float.
        assert (jnp.abs(jnp.int32(kernel.values)).max(contracted) == 127).all()
        np.testing.assert_allclose(kernel.scale * 127, jnp.abs(exact).max(contracted), rtol=1e-6)
        restored = kernel.values * jnp.expand_dims(kernel.scale, contracted)
        half_a_step = jnp.expand_dims(kernel.scale, contracted) * (0.5 + 1e-4)
        assert (jnp.abs(restored - exact) <= half_a_step).all()


def test_all_else_keeps_its_floats(decoder_params, quantized):
    floats = [kernel for _, kernel in kernels(decoder_params)]
    kept = jax.tree.map(
        lambda old, new: None if isinstance(new, Int8Kernel) else np.array_equal(old, new),
        decoder_params,
        quantized,
        is_leaf=lambda x: isinstance(x, Int8Kernel),
    )
    assert all(jax.tree.leaves(kept))
    assert len(jax.tree.leaves(kept)) == len(jax.tree.leaves(decoder_params)) - len(floats)
    scales = sum(kernel.scale.nbytes for _, kernel in kernels(quantized))
    saved = num_bytes(decoder_params) - num_bytes(quantized)
    assert saved == sum(k.nbytes - k.size for k in floats) - scales


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_those_of_the_rounded_kernels(decoder, decoder_params, batch, dtype):
    """Weight-only int8 is the float network with rounded kernels, whatever the dtype."""
    codes, labels, orders = batch
    network = Decoder(dataclasses.replace(decoder.config, dtype=dtype))
    quantized = quantize_decoder(decoder_params, "int8")
    flat = traverse_util.flatten_dict(decoder_params)
    for path, kernel in kernels(quantized):
        flat[path] = kernel.values * jnp.expand_dims(kernel.scale, contracted_axes(path))
    restored = traverse_util.unflatten_dict(flat)
    step_of = jnp.arange(24) // 4
    with jax.default_matmul_precision("highest"):
        got, want, float_logits = (
            np.asarray(network.apply({"params": p}, codes, labels, orders, step_of))
            for p in (quantized, restored, decoder_params)
        )
    scale = np.abs(want).max()
    tolerance = 1e-5 if dtype == "float32" else 0.05
    np.testing.assert_allclose(got, want, atol=tolerance * scale)
    assert np.abs(got - float_logits).max() > 1e-3 * scale  # the rounding is there


def test_integer_products_are_close_to_the_float_ones(decoder, decoder_params, batch, quantized):
    codes, labels, orders = batch
    step_of = jnp.arange(24) // 4
    exact, rough = (
        np.asarray(decoder.apply({"params": p}, codes, labels, orders, step_of))
        for p in (decoder_params, quantized)
    )
    assert 0 < np.sqrt(np.mean((exact - rough) ** 2) / np.mean(exact**2)) < 0.05


def test_only_w8a8_multiplies_integers(decoder, batch, quantized):
    codes, labels, orders = batch
    step_of = jnp.arange(24) // 4
    text = str(jax.make_jaxpr(decoder.apply)({"params": quantized}, codes, labels, orders, step_of))
    activations = quantized["head"]["kernel"].activations
    assert ("preferred_element_type=int32" in text) == activations


def test_channels_of_zeros_stay_zeros(decoder_params):
    kernel = decoder_params["head"]["kernel"].at[:, 3].set(0)
    params = {**decoder_params, "head": {"kernel": kernel}}
    for mode in MODES:
        head = quantize_decoder(params, mode)["head"]["kernel"]
        for x in (jnp.ones((1, 2, 32)), jnp.zeros((1, 2, 32))):
            product = np.asarray(head.einsum("btd,dv->btv", x))
            assert np.isfinite(product).all() and (product[..., 3] == 0).all()


def test_donated_floats_are_freed(decoder_params):
    params = jax.tree.map(jnp.copy, decoder_params)
    quantize_decoder(params, "int8", donate=True)
    assert all(kernel.is_deleted() for _, kernel in kernels(params))
    assert not params["pos_embed"].is_deleted()


def test_sampling_is_the_same_on_a_mesh(workdir):
    here, there = (load(workdir, axes, quantize="int8") for axes in ((1, 1, 1), (2, 2, 2)))
    np.testing.assert_array_equal(draw(there).codes, draw(here).codes)
    kernel = there.decoder_params["blocks_0"]["up"]["kernel"]
    assert kernel.values.sharding.shard_shape(kernel.values.shape) == (16, 64)
    assert kernel.scale.sharding.shard_shape(kernel.scale.shape) == (64,)


def test_integer_products_are_the_same_on_a_mesh(decoder, decoder_params):
    """Whole passes need not be: the last bit of a float can decide where a token rounds to."""
    mesh = parallel.make_mesh(parallel.MeshConfig(2, 2, 2))
    abstract = jax.eval_shape(lambda: init_decoder(decoder, jax.random.key(0)))
    spread = jax.device_put(decoder_params, parallel.shardings_of(abstract, mesh))
    here, there = (
        quantize_decoder(p, "int8_w8a8")["head"]["kernel"] for p in (decoder_params, spread)
    )
    x = jax.random.normal(jax.random.key(0), (8, 3, 32))
    multiply = jax.jit(lambda kernel, x: kernel.einsum("btd,dv->btv", x))
    want = np.asarray(multiply(here, x))
    got = np.asarray(multiply(there, jax.device_put(x, parallel.batch_sharding(mesh))))
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_unknown_modes_are_refused(decoder_params):
    with pytest.raises(InputError, match="quantize='int4' must be one of 'int8', 'int8_w8a8'"):
        quantize_decoder(decoder_params, "int4")


def test_without_qwix_the_extra_is_named(decoder_params, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"pip install -e '.\[quant\]'"):
        quantize_decoder(decoder_params, "int8")


def test_layers_apart_are_rounded_as_in_the_stack(decoder, decoder_params):
    _, apart = lay_out(decoder, dict(decoder_params), "unrolled")
    _, rounded_before = lay_out(decoder, quantize_decoder(decoder_params, "int8"), "unrolled")
    rounded_after = quantize_decoder(apart, "int8")
    assert jax.tree.structure(rounded_after) == jax.tree.structure(rounded_before)
    for got, want in zip(*map(jax.tree.leaves, (rounded_after, rounded_before)), strict=True):
        np.testing.assert_array_equal(got, want)


def test_the_loop_over_steps_keeps_no_float_copy_of_the_kernels(decoder, decoder_params):
    network, params = lay_out(decoder, dict(decoder_params), "unrolled")
    plan, rule, n = make_plan(SIZES), sampling_rule(), decoder.config.num_tokens
    labels, orders, keys = (
        jnp.zeros(1, int),
        jnp.arange(n)[None],
        jax.random.split(jax.random.key(0), 1),
    )

    @jax.jit
    def run(params):
        return generate_codes(network, params, labels, orders, keys, plan, rule)

    def temporary(params):
        # The default scheduler of CPUs casts all kernels of a step before its first product.
        options = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
        return run.lower(params).compile(options).memory_analysis().temp_size_in_bytes

    floats = sum(kernel.nbytes for _, kernel in kernels(params))
    extra = temporary(quantize_decoder(params, "int8")) - temporary(params)
    assert extra < floats / 2  # one kernel at a time is cast, the largest is a tenth of them
