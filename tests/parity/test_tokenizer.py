"""The tokenizer against the official VQModel: latents, codes, pixels, losses and gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange

from lpd_jax import weights
from lpd_jax.models.tokenizer import Tokenizer, to_uint8, to_uint8_truncated


class Model:
    """The tokenizer with the reference's weights, and the reference's arrays."""

    def __init__(self, arrays, params, config):
        self.arrays, self.params, self.config = arrays, params, config

    @functools.cache  # noqa: B019
    def jitted(self, method, **static):
        tokenizer = Tokenizer(self.config)
        return jax.jit(
            lambda params, x: tokenizer.apply({"params": params}, x, method=method, **static)
        )

    def __call__(self, method, x, **static):
        return self.jitted(method, **static)(self.params, x)

    def image(self, key="image"):
        return nhwc(self.arrays[key])


def nhwc(x):
    return rearrange(x, "b c h w -> b h w c")


@pytest.fixture(scope="session")
def model(tokenizer_name, reference, reference_configs, reference_directory):
    path = reference_directory / f"{tokenizer_name}.weights.npz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in {reference_directory}")
    config, params = weights.tokenizer_from_official(weights.read(path))
    stated = reference_configs("codebook_size")[tokenizer_name]
    config = dataclasses.replace(
        config, commitment=stated["commit_loss_beta"], entropy=stated["entropy_loss_ratio"]
    )
    return Model(reference(f"{tokenizer_name}.npz"), params, config)


def test_the_shapes_tell_the_config(model, tokenizer_name, reference_configs):
    stated = reference_configs("codebook_size")[tokenizer_name]
    for field in ("ch", "num_res_blocks", "z_channels", "codebook_size"):
        assert getattr(model.config, field) == stated[field]
    assert model.config.codebook_dim == stated["codebook_embed_dim"]
    assert list(model.config.ch_mult) == stated["ch_mult"]


def test_encoder_features(model, close):
    close(model("features", model.image()), nhwc(model.arrays["enc_features"]))


def test_latents(model, close):
    close(model("latents", model.image()), nhwc(model.arrays["pre_quant"]))


def test_codes(model):
    np.testing.assert_array_equal(model("encode", model.image()), model.arrays["code_indices"])


def test_codes_of_flipped_images(model):
    flipped = model.image()[:, :, ::-1]
    np.testing.assert_array_equal(model("encode", flipped), model.arrays["code_indices_flip"])


def test_codes_of_rectangles(model):
    codes = model("encode", model.image("rect_image"))
    np.testing.assert_array_equal(codes, model.arrays["rect_code_indices"])


def test_codebook(model, close):
    codebook = Tokenizer(model.config).apply(
        {"params": model.params}, method=lambda m: m.quantizer.codebook()
    )
    close(codebook, model.arrays["codebook_normalized"])


def test_looked_up_codes(model, close):
    theirs = nhwc(model.arrays["code_entries"])
    ours = Tokenizer(model.config).apply(
        {"params": model.params},
        model.arrays["code_in"],
        method=lambda m, codes: m.quantizer.lookup(codes),
    )
    close(ours.reshape(theirs.shape), theirs)


def test_reconstruction(model, close):
    reconstruction, quantized = model("__call__", model.image())
    close(quantized.latents, nhwc(model.arrays["quantized"]), "quantized")
    close(reconstruction, nhwc(model.arrays["recon"]), "reconstruction")


def test_reconstruction_of_rectangles(model, close):
    reconstruction, _ = model("__call__", model.image("rect_image"))
    close(reconstruction, nhwc(model.arrays["rect_recon"]))


@pytest.mark.parametrize(
    ("codes", "pixels"),
    [("code_in", "code_decoded"), ("rect_code_indices", "rect_code_decoded")],
)
def test_decoded_codes(model, close, codes, pixels):
    theirs = nhwc(model.arrays[pixels])
    grid = tuple(side // model.config.stride for side in theirs.shape[1:3])
    close(model("decode", model.arrays[codes], grid=grid), theirs)


def test_uint8_of_the_evaluation(model):
    ours = to_uint8(nhwc(model.arrays["code_decoded"]))
    np.testing.assert_array_equal(ours, model.arrays["code_png"])


def test_uint8_of_decode_codes_to_img(model):
    ours = to_uint8_truncated(nhwc(model.arrays["code_decoded"]))
    np.testing.assert_array_equal(ours, model.arrays["code_u8_codes_to_img"])


def test_uint8_of_codes(model, close):
    """From codes to bytes: a byte may differ only where the value lies on a rounding edge."""
    theirs = nhwc(model.arrays["code_decoded"])
    grid = tuple(side // model.config.stride for side in theirs.shape[1:3])
    ours = model("decode", model.arrays["code_in"], grid=grid)
    edge = 2e-5 * np.abs(theirs).max() * 127.5
    for convert, key, offset in (
        (to_uint8, "code_png", 128.0),
        (to_uint8_truncated, "code_u8_codes_to_img", 128.0),
    ):
        value = theirs.astype(np.float64) * 127.5 + offset
        on_edge = np.abs(value - np.round(value)) <= edge
        same = np.asarray(convert(ours)) == model.arrays[key]
        assert (same | on_edge).all()


def test_uint8_of_resized_codes(model):
    theirs = model.arrays["code_u8_codes_to_img_resized"]
    decoded = nhwc(model.arrays["code_decoded"])
    resized = jax.image.resize(
        decoded,
        (len(decoded), *theirs.shape[1:]),
        "bicubic-pytorch",
        antialias=False,
        precision="highest",
    )
    value = np.asarray(resized, np.float64) * 127.5 + 128
    on_edge = np.abs(value - np.round(value)) <= 2e-5 * np.abs(decoded).max() * 127.5
    assert ((np.asarray(to_uint8_truncated(resized)) == theirs) | on_edge).all()


def test_training_losses(model, close):
    _, quantized = model("__call__", model.image())
    close(quantized.vq, model.arrays["vq_loss"], "vq")
    close(quantized.commitment, model.arrays["commit_loss"], "commitment")
    close(quantized.entropy, model.arrays["entropy_loss"], "entropy")
    close(quantized.latents, nhwc(model.arrays["train_quantized"]), "straight-through")


def test_codebook_usage_on_the_first_step(model):
    """The official figure counts the zeros that its buffer starts with as code 0."""
    codes = np.asarray(model("encode", model.image()))
    usage = len(np.union1d(codes, [0])) / model.config.codebook_size
    assert usage == model.arrays["codebook_usage"]


LOSSES = ("vq_loss", "commit_loss", "entropy_loss", "vqtotal", "recon_mse")


@pytest.fixture(scope="session")
def losses_and_gradients(model):
    """(losses [5], gradients under official names, each with a leading axis of 5).

    The latents are moved onto the reference's own: the entropy loss has temperature 0.01 and
    magnifies the rounding of the encoder a hundred times, in the official code too.
    """
    images, at = model.image(), nhwc(model.arrays["pre_quant"])
    tokenizer = Tokenizer(model.config)

    def losses(params, shift):
        def run(m):
            latents = m.latents(images)
            q = m.quantizer(latents + jax.lax.stop_gradient(at - latents) + shift)
            mse = jnp.mean((m.decode_latents(q.latents) - images) ** 2)
            parts = [q.vq, q.commitment, q.entropy]
            losses = jnp.stack([*parts, sum(parts), mse])
            return losses, losses

        return tokenizer.apply({"params": params}, method=run)

    jacobian = jax.jit(jax.jacrev(losses, argnums=(0, 1), has_aux=True))
    (params, latents), values = jacobian(model.params, jnp.zeros(at.shape))
    gradients = [
        weights.tokenizer_to_official(jax.tree.map(lambda leaf, i=i: leaf[i], params))
        | {"pre_quant": rearrange(np.asarray(latents[i]), "b h w c -> b c h w")}
        for i in range(len(LOSSES))
    ]
    return values, gradients


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(model, close, name, losses_and_gradients):
    theirs = model.arrays.under(f"grad_{name}/")
    losses, gradients = losses_and_gradients
    index = LOSSES.index(name)
    if name in model.arrays:
        close(losses[index], model.arrays[name], name)
    for key, gradient in theirs.items():
        close(gradients[index][key], gradient, key)
