"""Generated images against real ones, without any downloaded network.

M images, S side in pixels, D gray pixels.
"""

import dataclasses

import numpy as np

from lpd_jax.evaluation import pixels
from lpd_jax.evaluation.classifier import Classifier, fit_classifier


@dataclasses.dataclass(frozen=True)
class Judge:
    """A classifier of real images, and the real images in gray.

    Attributes:
        classifier: learned from the training images.
        heldout_accuracy: what it makes of the held-out ones.
        heldout_labels: int [M], one of each real image to be generated.
        train, heldout: float64 [M, D], see `pixels.gray`.
    """

    classifier: Classifier
    heldout_accuracy: float
    heldout_labels: np.ndarray
    train: np.ndarray
    heldout: np.ndarray

    def class_accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Share of images uint8 [M, S, S, 3] that show their class, labels int [M]."""
        return self.classifier.accuracy(images, labels)

    def frechet(self, images: np.ndarray) -> float:
        """Fréchet distance of images uint8 [M, S, S, 3] to the held-out ones."""
        return pixels.frechet_distance(pixels.gray(images), self.heldout, self._size(len(images)))

    def frechet_floor(self, count: int) -> float:
        """The distance that `count` images of a perfect generator have."""
        real = np.concatenate([self.train, self.heldout])
        return pixels.frechet_floor(real, self._size(count))

    def near_copies(self, images: np.ndarray) -> float:
        """Share of images uint8 [M, S, S, 3] that are nearly training images."""
        return pixels.near_copies(pixels.gray(images), self.train)

    def near_copies_heldout(self) -> float:
        """The same share of the held-out images."""
        return pixels.near_copies(self.heldout, self.train)

    def _size(self, count: int) -> int:
        return min(count, (len(self.train) + len(self.heldout)) // 2)


def fit_judge(
    train: tuple[np.ndarray, np.ndarray], heldout: tuple[np.ndarray, np.ndarray]
) -> Judge:
    """Learns from images uint8 [M, S, S, 3] and labels int [M] of the two splits.

    Raises:
        InputError: a single class.
    """
    classifier = fit_classifier(*train)
    return Judge(
        classifier=classifier,
        heldout_accuracy=classifier.accuracy(*heldout),
        heldout_labels=heldout[1],
        train=pixels.gray(train[0]),
        heldout=pixels.gray(heldout[0]),
    )
