"""Attention of a whole image: one result, whatever computes it."""

import dataclasses
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpd_jax import parallel
from lpd_jax.errors import InputError
from lpd_jax.generation.groups import step_of
from lpd_jax.models import attention
from lpd_jax.models.attention import ImageMask, Keys, attend, attend_image, check_kernel
from lpd_jax.models.decoder import Decoder, DecoderConfig
from lpd_jax.models.mask import training_mask

STEPS_OF = jnp.stack([step_of((1, 2, 3, 5, 6, 7)), step_of((4, 20))])
PLACES = 2 * 24


@pytest.fixture(scope="module")
def inputs():
    """query, key, value of two images, with 4 heads of width 8; the mask of each image."""
    keys = jax.random.split(jax.random.key(0), 3)
    return *(jax.random.normal(k, (2, PLACES, 4, 8)) for k in keys), training_mask(STEPS_OF)


def value_and_gradients(inputs, **how):
    """The answers, and gradients for query, key and value of a loss that weighs them unevenly."""
    query, key, value, visible = inputs

    @jax.jit
    def run(*qkv):
        answer = attend_image(*qkv, ImageMask(visible, 24, **how))
        return jnp.sum(jnp.sin(answer)), answer

    gradients, answer = jax.grad(run, argnums=(0, 1, 2), has_aux=True)(query, key, value)
    return answer, *gradients


def assert_close(a, b, rounding=2e-6):
    """Equal to some float32 roundings of the largest number."""
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=rounding * np.abs(y).max())


@pytest.mark.parametrize("split", [False, True])
def test_attention_is_the_masked_softmax(inputs, split):
    query, key, value, visible = map(np.asarray, inputs)
    scores = np.einsum("bthk,bshk->bhts", query, key, dtype=np.float64) / 8**0.5
    weights = np.exp(scores) * visible[:, None]
    weights /= weights.sum(-1, keepdims=True)
    expected = np.einsum("bhts,bshk->bthk", weights, value)
    with jax.default_matmul_precision("highest"):
        answer, *_ = value_and_gradients(inputs, split=split)
    assert_close([answer], [expected])


def test_keys_in_parts_are_one_softmax_even_where_a_part_is_hidden(inputs):
    query, key, value, visible = inputs
    key, value, visible = key.swapaxes(1, 2), value.swapaxes(1, 2), visible[0][None]
    visible = visible.at[..., 30:].set(False)
    edges = (0, 1, 7, 30, PLACES)
    parts = [Keys(key[:, :, a:b], value[:, :, a:b], visible[..., a:b]) for a, b in pairwise(edges)]
    with jax.default_matmul_precision("highest"):
        whole = attend(query, [Keys(key, value, visible)])
        assert_close([attend(query, parts)], [whole])


def test_splitting_changes_neither_values_nor_gradients(inputs):
    assert_close(value_and_gradients(inputs, split=True), value_and_gradients(inputs, split=False))


def test_splitting_leaves_out_the_scores_that_are_masked(inputs):
    def products(split):
        run = lambda *qkv: attend_image(*qkv, ImageMask(inputs[3], 24, split=split))  # noqa: E731
        return jax.jit(run).lower(*inputs[:3]).cost_analysis()["flops"]

    assert products(True) < 0.8 * products(False)


@pytest.mark.parametrize("split", [False, True])
def test_tokamax_gives_what_ours_gives(inputs, split):
    pytest.importorskip("tokamax")
    ours = value_and_gradients(inputs, split=split)
    assert_close(value_and_gradients(inputs, split=split, kernel="tokamax"), ours)
    with parallel.use(parallel.make_mesh(parallel.MeshConfig(data=2, tensor=4))):
        placed = value_and_gradients(inputs, split=split, kernel="tokamax")
    assert_close(placed, ours)


def test_cudnn_gets_even_lengths_and_no_padded_key_is_seen(inputs, monkeypatch):
    """The kernel itself needs a GPU; what is handed to it does not."""
    seen = []

    def xla(query, key, value, *, mask, implementation):
        seen.append((query.shape[1] % 2, key.shape[1] % 2, implementation))
        return plain(query, key, value, mask=mask, implementation="xla")

    plain = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", xla)
    *arrays, visible = inputs
    odd = *(x[:, :-1] for x in arrays), visible[:, :-1, :-1]
    for split in (True, False):
        ours = value_and_gradients(odd, split=split)
        assert_close(value_and_gradients(odd, split=split, kernel="cudnn"), ours)
    assert set(seen) == {(0, 0, "cudnn")}


def test_the_decoder_learns_the_same_from_every_kernel(decoder, decoder_params, batch):
    def gradient(**change):
        network = Decoder(dataclasses.replace(decoder.config, **change))
        steps = STEPS_OF[jnp.array([0, 1, 0])]

        def loss(params):
            return jnp.mean(network.apply({"params": params}, *batch, steps) ** 2)

        return jax.tree.leaves(jax.jit(jax.grad(loss))(decoder_params))

    whole = gradient(attention_split=False)
    assert_close(gradient(attention_split=True), whole, rounding=1e-5)
    pytest.importorskip("tokamax")
    assert_close(gradient(attention="tokamax"), whole, rounding=1e-5)


@pytest.mark.parametrize(
    ("kernel", "dtype", "platform", "words"),
    [
        ("cudnn", "bfloat16", "cpu", "NVIDIA GPUs, not on cpu"),
        ("cudnn", "float32", "gpu", "decoder.dtype='bfloat16'"),
        ("tokamax", "bfloat16", "tpu", "no TPU kernel"),
    ],
)
def test_kernels_that_cannot_run_are_refused(kernel, dtype, platform, words):
    with pytest.raises(InputError, match=words):
        check_kernel(kernel, dtype, platform)


def test_a_kernel_that_is_not_installed_is_asked_for(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokamax", None)
    with pytest.raises(InputError, match="pip install tokamax"):
        check_kernel("tokamax", "float32", "gpu")


def test_kernels_that_can_run_are_not_refused():
    check_kernel("cudnn", "bfloat16", "gpu")
    for platform in ("cpu", "gpu", "tpu"):
        check_kernel("xla", "float32", platform)
    assert set(attention.KERNELS) == {"xla", "cudnn", "tokamax"}
    with pytest.raises(InputError, match=r"decoder\.attention"):
        DecoderConfig(attention="flash")
