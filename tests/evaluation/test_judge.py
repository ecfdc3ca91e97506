import numpy as np
import pytest

from lpd_jax.data.sources import Digits
from lpd_jax.evaluation.judge import fit_judge


@pytest.fixture(scope="module")
def splits():
    return [
        (source.arrays["image"], source.arrays["label"])
        for source in (Digits("train", 16), Digits("heldout", 16))
    ]


def test_real_images_pass_and_others_do_not(splits):
    judge = fit_judge(*splits)
    images, labels = splits[1]
    assert judge.heldout_accuracy == judge.class_accuracy(images, labels) > 0.97
    assert judge.class_accuracy(images, (labels + 1) % 10) < 0.05
    assert judge.frechet(images) == pytest.approx(0, abs=1e-6)
    floor = judge.frechet_floor(len(images))
    noise = np.random.default_rng(0).integers(0, 255, images.shape, dtype=np.uint8)
    assert 0 < floor < judge.frechet(noise) / 10
    assert judge.near_copies(splits[0][0]) == 1
    assert judge.near_copies(images) == judge.near_copies_heldout() < 0.05
