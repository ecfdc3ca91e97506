import numpy as np
import pytest
from PIL import Image

from lpd_jax.data.crop import center_crop


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
