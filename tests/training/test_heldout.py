"""The held-out loss: every image, each by itself, however they are batched."""

import jax
import numpy as np
import pytest

from lpd_jax import parallel
from lpd_jax.generation import mixture, orders
from lpd_jax.generation.groups import step_of
from lpd_jax.training.heldout import heldout_losses, mean_and_error
from lpd_jax.training.objectives import decoder_loss, uniform_order

STEPS_OF = np.stack([step_of(sizes) for sizes in ((1, 2, 3, 5, 6, 7), (4, 20))])
KEY = jax.random.key(3)
MIXED = mixture.mixture([orders.Random(), orders.LocalityAware(1.0, 1.0)], (0.5, 0.5), (4, 6))


@pytest.mark.parametrize("draw", [uniform_order, MIXED], ids=["random", "mixed"])
def test_every_image_counts_once_in_any_batch(decoder, decoder_params, draw):
    """21 images sorted by class, as in folders: the last class fills no batch of 16 or 64."""
    rng = np.random.default_rng(0)
    images = {
        "codes": rng.integers(0, 32, (21, 24), dtype=np.int32),
        "label": np.repeat(np.arange(3, dtype=np.int32), (9, 8, 4)),
    }
    mesh = parallel.make_mesh(parallel.MeshConfig(data=4, fsdp=2))
    params = jax.device_put(decoder_params, parallel.replicated(mesh))

    def losses(size, chunk=0):
        how = {"batch_size": size, "key": KEY, "mesh": mesh, "chunk": chunk}
        run = heldout_losses(decoder, images, **how, draw_order=draw)
        with parallel.use(mesh), jax.default_matmul_precision("highest"):
            return run(params, STEPS_OF)

    sixteen = losses(16)
    assert sixteen.shape == (21,)
    np.testing.assert_allclose(losses(7), sixteen, rtol=1e-6)
    np.testing.assert_allclose(losses(64, chunk=8), sixteen, rtol=1e-6)

    one = jax.jit(decoder_loss(decoder, STEPS_OF, 0.0, draw_order=draw))
    last = {name: array[20:] for name, array in images.items()}
    with jax.default_matmul_precision("highest"):
        alone = one(decoder_params, last, KEY, np.arange(20, 21))[0]
    np.testing.assert_allclose(alone, sixteen[20], rtol=1e-6)


def test_a_standard_error_is_that_of_the_mean():
    np.testing.assert_allclose(mean_and_error(np.array([1.0, 2.0, 3.0])), (2, 1 / np.sqrt(3)))
