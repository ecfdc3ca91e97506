"""What a tokenizer keeps of held-out images, in batches on any devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpd_jax import parallel
from lpd_jax.data.sources import Arrays
from lpd_jax.evaluation import distances, reconstruction
from lpd_jax.evaluation.heldout_images import Features, HeldoutImages, round_trip
from lpd_jax.evaluation.moments import Moments


def colours(scale, images):
    """float32 [B, 3]."""
    return scale * images.astype(jnp.float32).mean((1, 2))


def test_figures_are_of_all_images_in_batches_that_do_not_divide(tokenizer, tokenizer_params):
    images = np.random.default_rng(0).integers(0, 256, (10, 16, 16, 3), np.uint8)
    mesh = parallel.make_mesh(parallel.MeshConfig(), jax.devices()[:1])
    look = HeldoutImages(
        tokenizer,
        Arrays({"image": images}),
        batch_size=4,
        mesh=mesh,
        frechet={"distance": Features(colours, np.float32(0.1))},
    )
    kept = look(tokenizer_params)
    _, decoded = jax.device_get(
        jax.jit(round_trip, static_argnums=0)(tokenizer, tokenizer_params, images[:4])
    )
    np.testing.assert_array_equal(kept.pairs[:4, 1], decoded)
    assert len(kept.pairs) == 10 and kept.counts.sum() == 10 * 16
    np.testing.assert_array_equal(kept.pairs[:, 0], images)
    made = [Moments.of(0.1 * x.mean((1, 2))) for x in (kept.pairs[:, 1], images)]
    expected = distances.frechet(*(y for x in made for y in (x.mean, x.covariance)))
    assert kept.figures["distance"] == pytest.approx(expected, rel=1e-4) and expected > 1
    psnr = reconstruction.psnr_of_each(images, kept.pairs[:, 1]).mean()
    assert kept.figures["psnr_db"] == pytest.approx(psnr)
    few = HeldoutImages(tokenizer, Arrays({"image": images}), batch_size=4, mesh=mesh, most=4)
    assert few(tokenizer_params).counts.sum() == 4 * 16
    assert "distance" not in few(tokenizer_params).figures
