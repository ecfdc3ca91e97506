import numpy as np

from lpd_jax.evaluation.reconstruction import code_counts, codebook_usage, psnr


def test_psnr_of_a_known_error():
    images = np.full((2, 4, 4, 3), 100, np.uint8)
    np.testing.assert_allclose(psnr(images, images + 10), 20 * np.log10(25.5))
    np.testing.assert_allclose(psnr(images + 10, images), 20 * np.log10(25.5))


def test_psnr_is_the_mean_over_images():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    other = images.copy()
    other[0], other[1] = 1, 255
    np.testing.assert_allclose(psnr(images, other), 10 * np.log10(255))
    assert psnr(images, images) == 100


def test_codebook_usage():
    codes = np.array([[0, 2, 2], [7, 0, 0]])
    assert code_counts(codes, 8).tolist() == [3, 0, 2, 0, 0, 0, 0, 1]
    assert codebook_usage(codes, 8) == 3 / 8
