import jax
import numpy as np
import pytest

from lpd_jax.evaluation.resize import tf1_bilinear


def plain(images, size):
    """TensorFlow 1's kernel, pixel by pixel: top and bottom first, then between them."""
    count, height, width, _ = images.shape
    result = np.zeros((count, size, size, 3))
    for i in range(size):
        y = float(np.float32(i) * np.float32(np.float32(height) / np.float32(size)))
        for j in range(size):
            x = float(np.float32(j) * np.float32(np.float32(width) / np.float32(size)))
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            above = images[:, top, left] * (1 - (x - left)) + images[:, top, right] * (x - left)
            below = images[:, bottom, left] * (1 - (x - left)) + images[:, bottom, right] * (
                x - left
            )
            result[:, i, j] = above * (1 - (y - top)) + below * (y - top)
    return result


@pytest.mark.parametrize("shape", [(5, 7), (32, 32), (40, 29), (64, 80), (1, 2)])
def test_the_formula_of_tensorflow(shape):
    images = np.random.default_rng(0).integers(0, 256, (2, *shape, 3)).astype(np.float32)
    resized = np.asarray(jax.jit(tf1_bilinear, static_argnums=1)(images, 29))
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, plain(images.astype(np.float64), 29), atol=1e-4)


def test_no_offset_of_half_a_pixel():
    """Twice the size keeps every pixel at its even place; a centred resize has none of them."""
    images = np.random.default_rng(0).normal(size=(1, 6, 6, 3)).astype(np.float32)
    resized = np.asarray(tf1_bilinear(images, 12))
    np.testing.assert_array_equal(resized[:, ::2, ::2], images)
    # Beyond the last pixel there is nothing to interpolate with.
    np.testing.assert_array_equal(resized[:, -1, -1], images[:, -1, -1])


def test_smaller_images_are_not_averaged():
    images = np.random.default_rng(0).normal(size=(1, 12, 12, 3)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(tf1_bilinear(images, 4)), images[:, ::3, ::3])


def test_the_same_size_changes_nothing():
    images = np.random.default_rng(0).integers(0, 256, (1, 299, 299, 3)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(tf1_bilinear(images, 299)), images)
