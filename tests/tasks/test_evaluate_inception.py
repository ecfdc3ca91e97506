"""The whole way with Inception-v3 itself, with random weights, on a dozen images."""

import jax
import numpy as np
import pytest

from lpd_jax.evaluation.distances import frechet
from lpd_jax.evaluation.inception import apply_inception
from lpd_jax.evaluation.inception_weights import load
from lpd_jax.tasks import evaluate, reference
from tests.evaluation.test_inception import state, weights_file  # noqa: F401
from tests.tasks import models


@pytest.mark.slow
def test_images_of_a_file_are_judged_by_the_network_in_a_file(
    weights_file,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    rng = np.random.default_rng(0)
    sets = [rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8) // (i + 1) for i in range(2)]
    for name, images in zip(("real", "made"), sets, strict=True):
        np.savez(tmp_path / f"{name}.npz", images)
    config = models.tiny()
    config.evaluate.inception = str(weights_file)
    config.reference.images = str(tmp_path / "real.npz")
    config.evaluate.reference = str(reference.run(config, tmp_path))
    config.evaluate.images = str(tmp_path / "made.npz")
    report = evaluate.run(config, tmp_path)

    variables = load(weights_file).variables
    seen = [jax.device_get(jax.jit(apply_inception)(variables, images)) for images in sets]
    for name, feature in (("fid", "pool3"), ("sfid", "spatial")):
        real, made = (getattr(x, feature).astype(float) for x in seen)
        expected = frechet(made.mean(0), np.cov(made.T), real.mean(0), np.cov(real.T))
        assert report[name]["value"] == pytest.approx(expected, rel=1e-4)
        assert report[name]["weights"] == load(weights_file).sha256
    assert report["reference"]["count"] == 12 and len(report["reference"]["sha256"]) == 64
    assert {"precision", "recall", "inception_score"} <= {*report}
