import numpy as np
import pytest

from lpd_jax.data.sources import Digits
from lpd_jax.errors import InputError
from lpd_jax.evaluation.classifier import fit_classifier


@pytest.fixture(scope="module")
def splits():
    return [Digits(split, 32).arrays for split in ("train", "heldout")]


def test_is_right_on_heldout_digits(splits):
    train, heldout = splits
    classifier = fit_classifier(train["image"], train["label"])
    assert classifier.accuracy(heldout["image"], heldout["label"]) > 0.98
    assert classifier.accuracy(heldout["image"], (heldout["label"] + 1) % 10) < 0.01
    noise = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3), np.uint8)
    assert classifier.accuracy(noise, np.arange(200) % 10) < 0.3


def test_needs_two_classes(splits):
    images = splits[0]["image"][:4]
    with pytest.raises(InputError, match="at least two classes"):
        fit_classifier(images, np.zeros(4, int))
