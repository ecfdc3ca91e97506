import numpy as np

from lpd_jax.evaluation.reconstruction import (
    code_counts,
    codebook_usage,
    psnr_of_each,
    ssim_of_each,
)


def test_psnr_of_a_known_error():
    images = np.full((2, 4, 4, 3), 100, np.uint8)
    np.testing.assert_allclose(psnr_of_each(images, images + 10), 20 * np.log10(25.5))
    np.testing.assert_allclose(psnr_of_each(images + 10, images), 20 * np.log10(25.5))


def test_psnr_is_each_images_own():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    other = images.copy()
    other[0], other[1] = 1, 255
    np.testing.assert_allclose(psnr_of_each(images, other).mean(), 10 * np.log10(255))
    assert (psnr_of_each(images, images) == 100).all()


def test_codebook_usage():
    codes = np.array([[0, 2, 2], [7, 0, 0]])
    counts = code_counts(codes, 8)
    assert counts.tolist() == [3, 0, 2, 0, 0, 0, 0, 1]
    assert codebook_usage(counts) == 3 / 8


def test_ssim_is_that_of_every_window():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 10, 12, 3), dtype=np.uint8)
    other = (images * 0.7 + rng.integers(0, 60, images.shape)).astype(np.uint8)
    found = []
    for x, y in zip(images, other, strict=True):
        windows = []
        for row in range(10 - 6):
            for column in range(12 - 6):
                for channel in range(3):
                    place = (slice(row, row + 7), slice(column, column + 7), channel)
                    a, b = x[place].ravel().astype(float), y[place].ravel().astype(float)
                    (va, cov), (_, vb) = np.cov(a, b)
                    c1, c2 = 2.55**2, 7.65**2
                    top = (2 * a.mean() * b.mean() + c1) * (2 * cov + c2)
                    bottom = (a.mean() ** 2 + b.mean() ** 2 + c1) * (va + vb + c2)
                    windows.append(top / bottom)
        found.append(np.mean(windows))
    np.testing.assert_allclose(ssim_of_each(images, other), found, rtol=1e-10)
    np.testing.assert_allclose(ssim_of_each(images, images), 1)
