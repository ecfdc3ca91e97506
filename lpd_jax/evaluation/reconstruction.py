"""How much a tokenizer keeps of an image, and how much of its codebook it uses."""

import numpy as np


def psnr(images: np.ndarray, reconstructions: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB: the mean over images of each image's own.

    Args:
        images, reconstructions: uint8 [M, H, W, 3]. An identical image counts as 100 dB.
    """
    difference = images.astype(np.float64) - reconstructions
    mse = np.square(difference / 255).mean((1, 2, 3))
    return float(np.mean(-10 * np.log10(mse.clip(1e-10))))


def code_counts(codes: np.ndarray, codebook_size: int) -> np.ndarray:
    """How often each code occurs: integers [...] in [0, codebook_size) -> int [codebook_size]."""
    return np.bincount(np.ravel(codes), minlength=codebook_size)


def codebook_usage(codes: np.ndarray, codebook_size: int) -> float:
    """Share in [0, 1] of the codebook that occurs in `codes`, integers [...]."""
    return float(np.mean(code_counts(codes, codebook_size) > 0))
