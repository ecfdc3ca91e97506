"""How much a tokenizer keeps of an image, and how much of its codebook it uses."""

import numpy as np
from scipy import ndimage

SSIM_WINDOW = 7  # pixels a side


def psnr_of_each(images: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio of each image in dB: float64 [M].

    Args:
        images, reconstructions: uint8 [M, H, W, 3]. An identical image counts as 100 dB.
    """
    difference = images.astype(np.float64) - reconstructions
    mse = np.square(difference / 255).mean((1, 2, 3))
    return -10 * np.log10(mse.clip(1e-10))


def ssim_of_each(images: np.ndarray, reconstructions: np.ndarray) -> np.ndarray:
    """Structural similarity of each image (Wang et al., 2004), in [-1, 1]: 1 where they are equal.

    As scikit-image computes it by default, which is what LlamaGen reports: means over windows of
    7x7 pixels, sample covariances, windows inside the image only, the mean over the channels.

    Args:
        images, reconstructions: uint8 [M, H, W, 3], at least 7 pixels a side.

    Returns:
        float64 [M].
    """
    count, inside = SSIM_WINDOW**2, SSIM_WINDOW // 2

    def mean(x: np.ndarray) -> np.ndarray:
        found = ndimage.uniform_filter(x, (1, SSIM_WINDOW, SSIM_WINDOW, 1))
        return found[:, inside:-inside, inside:-inside]

    x, y = images.astype(np.float64), reconstructions.astype(np.float64)
    mean_x, mean_y = mean(x), mean(y)
    unbiased = count / (count - 1)
    variances = unbiased * (mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2)
    covariance = unbiased * (mean(x * y) - mean_x * mean_y)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (similar / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))).mean((1, 2, 3))


def code_counts(codes: np.ndarray, codebook_size: int) -> np.ndarray:
    """How often each code occurs: integers [...] in [0, codebook_size) -> int [codebook_size]."""
    return np.bincount(np.ravel(codes), minlength=codebook_size)


def codebook_usage(counts: np.ndarray) -> float:
    """Share in [0, 1] of the codes that occur, by `code_counts`."""
    return float(np.mean(counts > 0))
