"""PatchGAN, hinge and adaptive weight against PyTorch (`tests/reference/patchgan.py`)."""

import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from lpd_jax.errors import InputError
from lpd_jax.models.discriminator import Discriminator, DiscriminatorConfig, init_discriminator
from lpd_jax.models.quantizer import Quantized
from lpd_jax.training import adversarial, reconstruction
from lpd_jax.training.adversarial import AdversarialConfig, Adversary
from lpd_jax.training.step import SEEN
from tests.reference import patchgan


@pytest.fixture(scope="module")
def reference():
    return patchgan, np.load(Path(patchgan.__file__).with_suffix(".npz"))


def nested(flat):
    return unflatten_dict({tuple(name.split(".")): x for name, x in flat.items()})


def close(ours, theirs, rtol=2e-5):
    assert np.shape(ours) == theirs.shape
    assert np.abs(ours - theirs).max() <= rtol * np.abs(theirs).max()


class LastLayer:
    """Stands for a tokenizer of which only the last layer is trained."""

    config = types.SimpleNamespace(codebook_size=4)

    def __init__(self, hidden):
        self.hidden = hidden

    def apply(self, variables, images):
        kernel = variables["params"]["decoder"]["conv_out"]["kernel"]
        made = jax.lax.conv_general_dilated(
            self.hidden, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        zero = jnp.float32(0)
        return made, Quantized(zero, jnp.zeros((1, 2, 2), int), zero, zero, zero, zero)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_both_losses_and_their_gradients_are_those_of_pytorch(reference, norm):
    module, theirs = reference
    given, params = module.inputs(), nested(module.parameters(norm))
    network = Discriminator(DiscriminatorConfig(module.WIDTH, module.LAYERS, norm))
    expected = jax.eval_shape(lambda: init_discriminator(network, jax.random.key(0)))
    assert jax.tree.map(np.shape, expected) == jax.tree.map(np.shape, params)
    config = AdversarialConfig(weight=0.5, adaptive=True, start=7)
    tokenizer, batch = LastLayer(given["hidden"]), {"image": jnp.asarray(given["real"])}
    opposing = adversarial.discriminator_loss(network, config)
    own = reconstruction.tokenizer_loss(tokenizer, adversary=Adversary(network, config))

    @jax.jit
    def losses(step, params, kernel):
        state = types.SimpleNamespace(step=step, params={"discriminator": params})
        last = {"decoder": {"conv_out": {"kernel": kernel}}}
        (_, metrics), grads = jax.value_and_grad(own, has_aux=True)(last, batch, None, state=state)
        (_, judged), theirs = jax.value_and_grad(opposing, has_aux=True)(
            params, batch, None, given={"tokenizer": metrics[SEEN]}
        )
        logits = network.apply({"params": params}, metrics[SEEN]["reconstruction"])
        return metrics, grads["decoder"]["conv_out"]["kernel"], judged, theirs, logits

    with jax.default_matmul_precision("highest"):
        metrics, by_kernel, judged, grads, logits = losses(7, params, given["kernel"])
        before, alone, *_ = losses(6, params, given["kernel"])
    close(logits, theirs[f"{norm}/made"])
    close(judged["logits_real"], theirs[f"{norm}/real"].mean(), 1e-4)
    close(metrics["adversarial"], theirs[f"{norm}/verdict"], 1e-4)
    close(metrics["adversarial_weight"], 0.5 * theirs[f"{norm}/weight"])
    close(by_kernel, theirs[f"{norm}/by_kernel"])
    for name, array in flatten_dict(grads, sep=".").items():
        close(array, 0.5 * theirs[f"{norm}/grad/{name}"], 1e-4)
    # Before its start it neither counts nor is asked.
    assert before["adversarial_weight"] == 0 == before["adversarial"]
    assert np.abs(alone - by_kernel).max() > 1e-3 * np.abs(by_kernel).max()


def test_losses_of_the_outputs(reference):
    _, theirs = reference
    for norm in ("batch", "none"):
        outputs = theirs[f"{norm}/real"], theirs[f"{norm}/made"]
        for loss in adversarial.LOSSES:
            close(adversarial.opposing_loss(loss, *outputs), theirs[f"{norm}/{loss}"])
    made = jnp.array([0.0, 2.0])
    assert adversarial.generator_loss("hinge", made) == -1
    soft = -np.log(1 / (1 + np.exp(-np.array([0.0, 2.0])))).mean()
    np.testing.assert_allclose(adversarial.generator_loss("non_saturating", made), soft, rtol=1e-6)


def test_the_adaptive_weight_is_bounded():
    zero, one = jnp.zeros(4), jnp.ones(4)
    assert adversarial.adaptive_weight(one, zero) == 1e4
    np.testing.assert_allclose(adversarial.adaptive_weight(one, 2 * one), 0.5, rtol=1e-4)
    assert adversarial.adaptive_weight(zero, one) == 0


def test_lecam_holds_outputs_to_the_averages_of_the_other_kind():
    real, made = jnp.array([1.0, 3.0]), jnp.array([-2.0, 0.5])
    # relu(real - (-1))^2 = 4, 16; relu(1 - made)^2 = 9, 0.25
    np.testing.assert_allclose(adversarial.lecam_loss(real, made, 1.0, -1.0), 10 + 4.625)
    params = adversarial.with_averages({"conv0": jnp.ones(2)})
    params = adversarial.follow(0.75)(params, {"real": 2.0, "made": -4.0}, None, None)
    assert params["lecam"] == {"real": 0.5, "made": -1.0} and params["conv0"].sum() == 2


def test_group_norm_looks_at_each_image_by_itself():
    network = Discriminator(DiscriminatorConfig(4, 1, "group", "bfloat16"))

    @jax.jit
    def logits(images):
        params = init_discriminator(network, jax.random.key(0))
        return network.apply({"params": params}, images)

    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 12, 3)).astype(np.float32)
    both, other = logits(images), logits(np.stack([-images[0], images[1]]))
    assert both.shape == (2, 2, 4) and both.dtype == jnp.float32
    np.testing.assert_array_equal(other[1], both[1])
    assert (other[0] != both[0]).any()


def test_the_published_discriminator_has_3_million_parameters():
    network = Discriminator(DiscriminatorConfig())
    shapes = jax.eval_shape(lambda: init_discriminator(network, jax.random.key(0)))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 2_765_633


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"loss": "wasserstein"}, "discriminator.loss='wasserstein' must be one of hinge"),
        ({"start": 1.5}, r"discriminator\.start=1\.5"),
        ({"weight": -1}, r"discriminator\.weight=-1"),
        ({"lecam_decay": 1.0}, r"discriminator\.lecam_decay=1\.0"),
    ],
)
def test_what_cannot_be_is_refused(wrong, says):
    with pytest.raises(InputError, match=says):
        AdversarialConfig(**wrong)


def test_discriminators_that_cannot_be():
    with pytest.raises(InputError, match=r"discriminator\.norm='layer' must be one of batch"):
        DiscriminatorConfig(norm="layer")
    with pytest.raises(InputError, match="at least 24 pixels a side; these have 16x32"):
        jax.eval_shape(
            Discriminator(DiscriminatorConfig()).init, jax.random.key(0), jnp.zeros((1, 16, 32, 3))
        )
