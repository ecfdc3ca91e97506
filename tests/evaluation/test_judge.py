import math

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


@pytest.fixture(scope="module")
def judge(splits):
    return fit_judge(*splits)


def test_real_images_pass_and_others_do_not(splits, judge):
    images, labels = splits[1]
    assert judge.heldout_accuracy == judge.class_accuracy(judge.look(images), labels) > 0.97
    assert judge.class_accuracy(judge.look(images), (labels + 1) % 10) < 0.05
    assert judge.frechet(judge.look(images)) == pytest.approx(0, abs=1e-6)
    floor = judge.frechet_floor(len(images))
    noise = np.random.default_rng(0).integers(0, 255, images.shape, dtype=np.uint8)
    assert 0 < floor < judge.frechet(judge.look(noise)) / 10
    assert judge.near_copies(judge.look(splits[0][0])) == 1
    assert judge.near_copies(judge.look(images)) == judge.near_copies_heldout() < 0.05


def test_figures_of_each_class(splits, judge):
    # Of the images for class 3, two thirds show a 5; class 4 has one image; the others are real.
    images, labels = (array[:200] for array in splits[1])
    kept = (labels != 4) & (labels != 7)
    threes, fours = (splits[0][0][splits[0][1] == label] for label in (3, 4))
    fives = splits[0][0][splits[0][1] == 5]
    images = np.concatenate([images[kept & (labels != 3)], threes[:10], fives[:20], fours[:1]])
    labels = np.concatenate([labels[kept & (labels != 3)], [3] * 30, [4]])
    names = ["zero", "one", "two", "crane", "four", "crane", "six", "seven", "eight", "nine"]
    found = judge.by_class(judge.look(images), labels, names)
    assert list(found) == [
        *("zero", "one", "two", "crane (3)", "four", "crane (5)", "six", "eight", "nine")
    ]
    assert found["crane (3)"]["count"] == 30 and found["four"]["count"] == 1
    assert found["crane (3)"]["accuracy"] == pytest.approx(1 / 3, abs=0.05)
    assert min(found[name]["accuracy"] for name in ("zero", "crane (5)", "six")) > 0.9
    assert all(0.9 < figures["heldout_accuracy"] <= 1 for figures in found.values())
    # The classes together are the whole.
    total = sum(figures["accuracy"] * figures["count"] for figures in found.values())
    assert total / len(labels) == pytest.approx(judge.class_accuracy(judge.look(images), labels))


def _few(splits, classes, train, heldout):
    """The first images of each class, as a small folder has them."""
    parts = []
    for (images, labels), count in zip(splits, (train, heldout), strict=True):
        rows = np.concatenate([np.flatnonzero(labels == label)[:count] for label in classes])
        parts.append((images[rows], labels[rows]))
    return parts


def test_three_images_per_class_are_judged(splits):
    few = fit_judge(*_few(splits, (0, 1), 2, 1))
    images, labels = _few(splits, (0, 1), 2, 1)[1]
    assert few.class_accuracy(few.look(images), labels) == few.heldout_accuracy == 1
    assert few.frechet(few.look(images)) == pytest.approx(0, abs=1e-9) and few.frechet_floor(2) > 0
    assert few.near_copies(few.look(_few(splits, (0, 1), 2, 1)[0][0])) == 1
    assert few.near_copies_heldout() == 0
    assert few.by_class(few.look(images), labels, "01")["1"] == {
        "count": 1,
        "accuracy": 1,
        "heldout_accuracy": 1,
    }


def test_a_single_class_has_no_accuracy_and_every_other_figure(splits):
    train, (images, labels) = _few(splits, (6,), 20, 8)
    judge = fit_judge(train, (images, labels))
    looks = judge.look(images)
    assert math.isnan(judge.heldout_accuracy) and math.isnan(judge.class_accuracy(looks, labels))
    assert judge.frechet(looks) == pytest.approx(0, abs=1e-6) and judge.frechet_floor(8) > 0
    assert judge.near_copies(judge.look(train[0])) == 1
    assert math.isnan(judge.by_class(looks, labels, "0123456")["6"]["accuracy"])


def test_a_single_image_has_no_distance(splits):
    train, heldout = _few(splits, (6,), 1, 1)
    judge = fit_judge(train, heldout)
    assert math.isnan(judge.frechet(judge.look(heldout[0]))) and math.isnan(judge.frechet_floor(1))
    assert math.isnan(judge.near_copies(judge.look(heldout[0])))  # closer than what to what?


def test_distances_are_between_as_many_images(splits):
    train, heldout = _few(splits, range(10), 20, 5)
    judge = fit_judge(train, heldout)
    images = splits[0][0][-150:]
    assert judge.frechet_floor(len(images)) == judge.frechet_floor(len(heldout[0]))
