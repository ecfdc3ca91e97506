"""The figures that generators are compared by, from features and logits of Inception-v3.

N images, D features, C classes.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lpd_jax.errors import InputError
from lpd_jax.evaluation.moments import Moments

# A covariance in float32 has eigenvalues this far below 0 at most, relative to the largest.
_NEGATIVE = 1e-4
_ROWS = 4096  # features in float64 at once


def frechet(mu1: np.ndarray, sigma1: np.ndarray, mu2: np.ndarray, sigma2: np.ndarray) -> float:
    """Squared Fréchet distance of two Gaussians: FID, when they are those of pool3 features.

    `|mu1 - mu2|^2 + tr(sigma1) + tr(sigma2) - 2 tr((sigma1 sigma2)^(1/2))` (Heusel et al., 2017).

    The eigenvalues of the product, of which others take the square roots, come out negative or
    complex where a covariance is singular, as that of fewer images than features is. Here each
    covariance is R R^T by its own eigenvalues, and the last trace is the sum of the singular
    values of R1^T R2: real and never negative, its rounding not magnified by a square root.

    Args:
        mu1, mu2: [D]. sigma1, sigma2: [D, D], symmetric, without negative eigenvalues but for
            rounding, which are taken for 0.

    Raises:
        InputError: sizes that do not fit, entries that are not finite, a matrix that is no
            covariance.
    """
    first, second = _gaussian(mu1, sigma1), _gaussian(mu2, sigma2)
    if len(first.mean) != len(second.mean):
        raise InputError(
            f"Statistics of {len(first.mean)} and of {len(second.mean)} features do not compare; "
            "use a reference made with the same network."
        )
    cross = np.linalg.svd(first.root.T @ second.root, compute_uv=False).sum()
    shift = first.mean - second.mean
    return float(shift @ shift + first.trace + second.trace - 2 * cross)


def frechet_error(features: np.ndarray, mu: np.ndarray, sigma: np.ndarray) -> float:
    """Standard error of `frechet` by the choice of images on one side.

    The infinitesimal jackknife (Efron, 1982), which is what a bootstrap over images tends to: the
    distance is linearised in the weight of each image. Unlike a bootstrap it takes one pass over
    the features, and drawing an image twice does not move it. It is right to a tenth or two where
    images are five times as many as features, and up to a third too large where they are as many.
    The bias that few images have it does not show.

    Args:
        features: [N, D], of the images whose error it is.
        mu, sigma: [D] and [D, D], of the other side, taken for exact.

    Raises:
        InputError: as `frechet`; fewer than two images.
    """
    blocks = [slice(start, start + _ROWS) for start in range(0, len(features), _ROWS)]
    # Part by part: features that are mapped from a file stay there.
    own = functools.reduce(Moments.merge, (Moments.of(features[rows]) for rows in blocks))
    first, second = _gaussian(own.mean, own.covariance), _gaussian(mu, sigma)
    basis, singular, _ = np.linalg.svd(first.root.T @ second.root, full_matrices=False)
    # Maps a deviation from the mean to its coordinates in which the covariance is 1.
    whiten = first.root / np.square(first.root).sum(axis=0) @ basis
    effects = np.empty(len(features))
    for rows in blocks:
        x = np.asarray(features[rows], np.float64) - own.mean
        transported = np.square(x @ whiten) @ singular
        effects[rows] = 2 * x @ (own.mean - second.mean) + np.square(x).sum(axis=1) - transported
    return float(effects.std(ddof=1) / np.sqrt(len(effects)))


class _Gaussian(NamedTuple):
    """mean [D], root [D, rank] with root root^T the covariance, and its trace."""

    mean: np.ndarray
    root: np.ndarray
    trace: float


def _gaussian(mu: np.ndarray, sigma: np.ndarray) -> _Gaussian:
    mu, sigma = np.asarray(mu, np.float64), np.asarray(sigma, np.float64)
    if mu.ndim != 1 or sigma.shape != 2 * mu.shape:
        raise InputError(
            f"A mean of shape {mu.shape} and a covariance of shape {sigma.shape} do not belong "
            "together; they must be [D] and [D, D]."
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise InputError("The statistics hold NaN or infinity; compute them again.")
    values, vectors = np.linalg.eigh((sigma + sigma.T) / 2)
    largest = np.abs(values).max(initial=0)
    if values.min(initial=0) < -_NEGATIVE * largest:
        raise InputError(
            "The covariance has negative variances, so that it is none; compute the statistics "
            "again."
        )
    # Below this, eigenvalues are rounding; their square roots would not be small.
    kept = values > len(values) * np.finfo(np.float64).eps * largest
    return _Gaussian(mu, vectors[:, kept] * np.sqrt(values[kept]), float(np.trace(sigma)))


class InceptionScore(NamedTuple):
    """Mean and standard deviation over the splits, and how many there are."""

    mean: float
    std: float
    splits: int


def inception_score(logits: np.ndarray, splits: int = 10, seed: int = 2020) -> InceptionScore:
    """Inception score in the convention of torch-fidelity, in which LPD's is published.

    Images are shuffled by a NumPy `RandomState`, so that each split has images of all classes.

    Args:
        logits: [N, C], or logarithms of probabilities.
        splits: parts of equal size to within one.
        seed: of the shuffle.

    Raises:
        InputError: fewer images than splits, or logits that are not finite.
    """
    count = len(logits)
    if count < splits:
        raise InputError(
            f"An Inception score in {splits} splits needs as many images; there are {count}."
        )
    order = np.random.RandomState(seed).permutation(count)
    cuts = [i * count // splits for i in range(1, splits)]
    return _score(logits, np.split(order, cuts))


def inception_score_adm(logits: np.ndarray, split_size: int = 5000) -> InceptionScore:
    """Inception score in the convention of ADM's evaluator: consecutive splits, no shuffle.

    With images in class order a split sees a part of the classes only, and the score is lower than
    torch-fidelity's. The last split has what is left; up to `split_size` images are one split.

    Args:
        logits: [N, C], or logarithms of probabilities.
        split_size: images of a split.

    Raises:
        InputError: no images, or logits that are not finite.
    """
    if not len(logits):
        raise InputError("An Inception score needs images; there are none.")
    cuts = range(split_size, len(logits), split_size)
    return _score(logits, np.split(np.arange(len(logits)), cuts))


def _score(logits: np.ndarray, splits: list[np.ndarray]) -> InceptionScore:
    """exp of the mean KL divergence of p(class | image) from p(class), of each split."""
    scores = []
    for rows in splits:
        part = np.asarray(logits[rows], np.float64)
        if not np.isfinite(part).all():
            raise InputError("Logits are not finite; look at the images and the network's weights.")
        log_p = part - part.max(axis=1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
        # A class without probability in any image adds 0 log 0 = 0.
        mean = p.mean(axis=0)
        log_mean = np.log(mean, where=mean > 0, out=np.zeros_like(mean))
        scores.append(np.exp((p * (log_p - log_mean)).sum(axis=1).mean()))
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)), len(scores))


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1].

    Attributes:
        precision: of generated images, that lie among the real ones.
        recall: of real images, that lie among the generated ones.
    """

    precision: float
    recall: float


def precision_recall(
    real: np.ndarray, fake: np.ndarray, k: int = 3, block: int = 2048
) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al., 2019), as ADM and torch-fidelity do it.

    A point lies among others if it is no further from one of them than that one's k-th neighbour
    is. Distances are float32 on the device, after a shift that keeps them from cancelling; ADM's
    are float16 where those are finite, which moves the figures in the third digit.

    Args:
        real: [N_real, D], ADM: 10,000 images of its reference batch.
        fake: [N_fake, D], generated. Where they are mapped from a file they stay there.
        k: which neighbour.
        block: rows of the pieces; two of them and `block * block` distances are in memory at once.

    Raises:
        InputError: k images or fewer on a side, sizes that differ, features that are not finite.
    """
    for name, features in (("real", real), ("generated", fake)):
        if len(features) <= k:
            raise InputError(
                f"Precision and recall with {k} neighbours need at least {k + 1} {name} images; "
                f"there are {len(features)}."
            )
        parts = (features[start : start + block] for start in range(0, len(features), block))
        if not all(np.isfinite(part).all() for part in parts):
            raise InputError(f"Features of {name} images are not finite; look at these images.")
    if real.shape[1] != fake.shape[1]:
        raise InputError(
            f"Real images have {real.shape[1]} features and generated ones {fake.shape[1]}; use "
            "a reference made with the same network."
        )
    centre = np.mean(real, axis=0, dtype=np.float64).astype(np.float32)
    block = min(block, max(len(real), len(fake)))
    radii_real, radii_fake = (_radii(x, k, block, centre) for x in (real, fake))
    inside_real, inside_fake = np.zeros(len(real), bool), np.zeros(len(fake), bool)
    for rows, x in _blocks(fake, block, centre):
        for columns, y in _blocks(real, block, centre):
            fakes, reals = _inside(
                x, y, _padded(radii_fake[rows], block, -1), _padded(radii_real[columns], block, -1)
            )
            inside_fake[rows] |= np.asarray(fakes)[: len(inside_fake[rows])]
            inside_real[columns] |= np.asarray(reals)[: len(inside_real[columns])]
    return PrecisionRecall(float(inside_fake.mean()), float(inside_real.mean()))


def _radii(x: np.ndarray, k: int, block: int, centre: np.ndarray) -> np.ndarray:
    """float32 [N]: squared distance of each row of x [N, D] to its k-th neighbour among them."""
    radii = []
    for rows, part in _blocks(x, block, centre):
        # A row is its own nearest neighbour, hence k + 1.
        near = [np.asarray(_nearest(part, other, k + 1)) for _, other in _blocks(x, block, centre)]
        near = np.partition(np.concatenate(near, axis=1), k, axis=1)[:, k]
        radii.append(near[: rows.stop - rows.start])
    return np.concatenate(radii)


def _blocks(
    x: np.ndarray, block: int, centre: np.ndarray
) -> Iterator[tuple[slice, tuple[np.ndarray, np.ndarray]]]:
    """Pieces of x [N, D]: which rows; those about `centre`, padded to `block`; squared lengths.

    The length of a row of padding is infinite: it is far from everything.
    """
    for start in range(0, len(x), block):
        rows = slice(start, min(start + block, len(x)))
        part = np.asarray(x[rows], np.float32) - centre
        lengths = np.square(part).sum(axis=1)
        yield rows, (_padded(part, block, 0), _padded(lengths, block, np.inf))


def _padded(x: np.ndarray, block: int, value: float) -> np.ndarray:
    padding = [(0, block - len(x))] + [(0, 0)] * (x.ndim - 1)
    return np.pad(x, padding, constant_values=value)


def _squared(a, b) -> jax.Array:
    """Squared distances [block, block] between the rows of two pieces of `_blocks`."""
    (x, of_x), (y, of_y) = a, b
    product = jnp.matmul(x, y.T, precision="highest")
    return jnp.maximum(of_x[:, None] + of_y - 2 * product, 0)


@jax.jit
def _inside(fake, real, radii_fake, radii_real) -> tuple[jax.Array, jax.Array]:
    """bool [block] each: which rows of `fake` lie within `real`, and of `real` within `fake`."""
    squared = _squared(fake, real)
    return (squared <= radii_real).any(axis=1), (squared <= radii_fake[:, None]).any(axis=0)


@jax.jit(static_argnums=2)
def _nearest(x, y, count: int) -> jax.Array:
    """[block, count]: the least squared distances of each row of x to rows of y, or all of them."""
    squared = _squared(x, y)
    return -jax.lax.top_k(-squared, min(count, squared.shape[1]))[0]
