"""The tokenizer's contract: shapes, ranges, gradients, errors. Its numbers: tests/parity."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpd_jax.errors import InputError
from lpd_jax.models.quantizer import VectorQuantizer, entropy_loss, squared_distances
from lpd_jax.models.tokenizer import Tokenizer, TokenizerConfig, to_uint8, to_uint8_truncated

CONFIG = TokenizerConfig(
    ch=8,
    ch_mult=(1, 2),
    num_res_blocks=1,
    z_channels=8,
    codebook_size=32,
    codebook_dim=4,
    norm_groups=4,
)


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(0), (2, 8, 12, 3), minval=-1, maxval=1)


@pytest.fixture(scope="module")
def params(images):
    """Random numbers everywhere: no scale is 1 and no bias 0 by accident."""
    shapes = jax.eval_shape(Tokenizer(CONFIG).init, jax.random.key(0), images)["params"]
    draw = np.random.default_rng(1).standard_normal
    return jax.tree.map(lambda leaf: 0.2 * draw(leaf.shape, np.float32), shapes)


def apply(params, *args, config=CONFIG, **kwargs):
    return Tokenizer(config).apply({"params": params}, *args, **kwargs)


def test_shapes_of_rectangles(params, images):
    codes = apply(params, images, method="encode")
    assert codes.shape == (2, 24)
    assert codes.dtype == jnp.int32
    assert apply(params, codes, (4, 6), method="decode").shape == images.shape
    reconstruction, quantized = apply(params, images)
    assert reconstruction.shape == images.shape
    np.testing.assert_array_equal(quantized.codes.reshape(2, -1), codes)


def test_decoding_codes_is_the_reconstruction(params, images):
    reconstruction, quantized = apply(params, images)
    decoded = apply(params, quantized.codes.reshape(2, -1), (4, 6), method="decode")
    np.testing.assert_allclose(decoded, reconstruction, atol=1e-5)


def test_the_stride_follows_the_widths():
    assert CONFIG.stride == 2
    assert TokenizerConfig().stride == 16


def test_the_published_tokenizer_has_72_million_parameters():
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    shapes = jax.eval_shape(Tokenizer(TokenizerConfig()).init, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 71_883_403


def test_every_parameter_is_trained(params, images):
    def loss(params):
        reconstruction, quantized = apply(params, images)
        losses = quantized.vq + quantized.commitment + quantized.entropy
        return jnp.mean((reconstruction - images) ** 2) + losses

    gradients = jax.jit(jax.grad(loss))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert jnp.isfinite(leaf).all(), path
        # A bias in front of a softmax over keys shifts nothing.
        if [key.key for key in path[-2:]] != ["k", "bias"]:
            assert jnp.abs(leaf).max() > 0, path


def test_reconstruction_gradients_pass_the_quantiser_straight(params, images):
    def loss(latents):
        return jnp.sum(apply(params, latents, method=lambda m, z: m.quantizer(z).latents) * weight)

    weight = jax.random.normal(jax.random.key(2), (2, 4, 6, 4))
    latents = apply(params, images, method="latents")
    unit = latents / jnp.linalg.norm(latents, axis=-1, keepdims=True)
    # Through the normalisation alone: the component along the latent is projected out.
    tangent = weight - jnp.sum(weight * unit, -1, keepdims=True) * unit
    expected = tangent / jnp.linalg.norm(latents, axis=-1, keepdims=True)
    np.testing.assert_allclose(jax.grad(loss)(latents), expected, rtol=1e-4, atol=1e-5)


def test_a_zero_latent_has_a_finite_gradient():
    quantizer = VectorQuantizer(8, 4)
    params = quantizer.init(jax.random.key(0), jnp.ones((1, 1, 1, 4)))
    grad = jax.grad(lambda z: quantizer.apply(params, z).commitment)(jnp.zeros((1, 1, 1, 4)))
    assert jnp.isfinite(grad).all()


def test_codes_are_the_nearest_rows(params, images):
    latents = np.asarray(apply(params, images, method="latents"), np.float64)
    codebook = np.asarray(params["quantizer"]["embedding"], np.float64)
    codebook /= np.linalg.norm(codebook, axis=-1, keepdims=True)
    latents /= np.linalg.norm(latents, axis=-1, keepdims=True)
    nearest = np.linalg.norm(latents[..., None, :] - codebook, axis=-1).argmin(-1)
    np.testing.assert_array_equal(apply(params, images, method="encode"), nearest.reshape(2, -1))


def test_entropy_is_lowest_for_certain_tokens_and_all_codes():
    rows = jnp.eye(4)
    used = entropy_loss(squared_distances(rows, rows), 0.01)
    one_code = entropy_loss(squared_distances(jnp.tile(rows[:1], (4, 1)), rows), 0.01)
    undecided = entropy_loss(squared_distances(jnp.zeros((4, 4)), rows), 0.01)
    np.testing.assert_allclose(used, -np.log(4), rtol=1e-3)
    assert used < one_code
    assert used < undecided


def test_without_normalisation_the_codebook_is_as_stored(params):
    config = dataclasses.replace(CONFIG, l2_normalize=False)
    codebook = apply(params, config=config, method=lambda m: m.quantizer.codebook())
    np.testing.assert_array_equal(codebook, params["quantizer"]["embedding"])


def test_the_initial_codebook_lies_on_the_sphere():
    rows = VectorQuantizer(8, 4).init(jax.random.key(0), jnp.ones((1, 1, 1, 4)))
    norms = jnp.linalg.norm(rows["params"]["embedding"], axis=-1)
    np.testing.assert_allclose(norms, 1, rtol=1e-6)


def test_bfloat16_keeps_parameters_and_results_in_float32(params, images):
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    init = jax.eval_shape(Tokenizer(config).init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(init)} == {jnp.dtype("float32")}
    reconstruction, quantized = apply(params, images, config=config)
    assert reconstruction.dtype == quantized.latents.dtype == jnp.float32
    assert apply(params, images, config=config, method="features").dtype == jnp.bfloat16


def test_only_decoding_takes_the_dtype_of_decoding(params, images):
    rounded = functools.partial(Tokenizer(CONFIG, "bfloat16").apply, {"params": params})
    latents = apply(params, images, method="latents")
    np.testing.assert_array_equal(latents, rounded(images, method="latents"))
    codes, grid = apply(params, images, method="encode"), latents.shape[1:3]
    one = apply(params, codes, grid, method="decode")
    other = rounded(codes, grid, method="decode")
    assert other.dtype == jnp.float32
    error = jnp.sqrt(jnp.mean((one - other) ** 2) / jnp.mean(one**2))
    assert 1e-4 < error < 3e-2  # eight bits of mantissa, a few layers


def test_images_that_do_not_divide_into_patches(params):
    with pytest.raises(InputError, match="9x8 pixels"):
        apply(params, jnp.zeros((1, 9, 8, 3)), method="encode")


def test_codes_that_do_not_fill_the_grid(params):
    with pytest.raises(InputError, match="24 codes do not fill a 5x5 grid"):
        apply(params, jnp.zeros((1, 24), jnp.int32), (5, 5), method="decode")


def test_sizes_that_do_not_fit_together():
    with pytest.raises(InputError, match="norm_groups=32"):
        TokenizerConfig(ch=16)
    with pytest.raises(InputError, match="float16"):
        TokenizerConfig(dtype="float16")


def test_the_two_conversions_to_bytes():
    values = jnp.array([-2.0, -1.0, -0.999, 0.0, 0.006, 1.0, 2.0])
    np.testing.assert_array_equal(to_uint8(values), [0, 0, 0, 128, 128, 255, 255])
    np.testing.assert_array_equal(to_uint8_truncated(values), [0, 0, 0, 128, 128, 255, 255])
    assert to_uint8(jnp.float32(0.004)) == 128
    assert to_uint8(jnp.float32(-0.006)) == 127
    assert to_uint8_truncated(jnp.float32(-0.003)) == 127
