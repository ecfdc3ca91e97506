import math

import numpy as np
import pytest
from PIL import Image

from lpd_jax.data.crop import center_crop, random_crop, record


@pytest.mark.parametrize("shape", [(40, 17), (17, 40), (64, 64), (33, 129), (5, 9)])
def test_is_a_square_of_the_asked_size(shape):
    image = Image.new("RGB", shape)
    assert center_crop(image, 16).size == (16, 16)


def test_keeps_the_middle():
    pixels = np.zeros((16, 48, 3), np.uint8)
    pixels[:, 16:32] = 200
    crop = np.asarray(center_crop(Image.fromarray(pixels), 16))
    assert (crop == 200).all()


def test_halves_with_a_box_filter():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (8, 8, 3), np.uint8)
    blocks = small.repeat(2, axis=0).repeat(2, axis=1)
    # A box as wide as a block reads one block each; any wider filter would mix neighbours.
    np.testing.assert_array_equal(np.asarray(center_crop(Image.fromarray(blocks), 8)), small)


class Draws:
    """A generator that draws what it is told, or the largest that it could."""

    def __init__(self, *values):
        self.values, self.most = list(values), []

    def integers(self, low, high=None, endpoint=False):
        assert endpoint
        low, high = (0, low) if high is None else (low, high)
        self.most.append(high)
        return self.values.pop(0) if self.values else high


def crop_of_adm(image, size, short, x, y):
    """`random_crop_arr` of guided-diffusion, given its draws."""
    while min(*image.size) >= 2 * short:
        image = image.resize(tuple(side // 2 for side in image.size), resample=Image.BOX)
    scale = short / min(*image.size)
    whole = tuple(round(side * scale) for side in image.size)
    pixels = np.array(image.resize(whole, resample=Image.BICUBIC))
    return pixels[y : y + size, x : x + size]


@pytest.mark.parametrize("shape", [(90, 40), (33, 129), (16, 16), (7, 9)])
def test_a_random_crop_is_that_of_adm(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape[::-1], 3), np.uint8)
    image = Image.fromarray(pixels)
    for short, x, y in ((16, 0, 0), (18, 2, 1), (20, 3, 4)):
        found = np.asarray(random_crop(image, 16, 0.8, Draws(short, x, y)))
        np.testing.assert_array_equal(found, crop_of_adm(image, 16, short, x, y))
    draws = Draws()
    assert random_crop(image, 16, 0.8, draws).size == (16, 16)
    assert draws.most[0] == math.ceil(16 / 0.8) and min(draws.most[1:]) == 4


def test_a_random_crop_of_all_of_a_square_is_the_image():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    found = random_crop(image, 16, 1.0, np.random.default_rng(1))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(image))


def test_a_record_without_a_size_is_the_whole_image():
    whole = record(Image.new("RGB", (9, 5)), None, 3, 7)
    assert whole["image"].shape == (5, 9, 3) and not whole["enlarged"]
    assert record(Image.new("RGB", (9, 5)), 8, 3, 7)["enlarged"]
