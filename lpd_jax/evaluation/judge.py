"""Generated images against real ones, without any downloaded network.

M images, S side in pixels, D gray pixels.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from lpd_jax.evaluation import pixels
from lpd_jax.evaluation.classifier import Classifier, fit_classifier


@dataclasses.dataclass(frozen=True)
class Judge:
    """A classifier of real images, and the real images in gray.

    What too few images cannot tell is NaN: accuracy with a single class, the Fréchet distance of
    a single image, copies of a single training image.

    Attributes:
        classifier: learned from the training images; None when they have a single class.
        heldout_hits: float64 [M], 1 where it is right on a held-out image, else 0.
        heldout_labels: int [M], one of each real image to be generated.
        train, heldout: float64 [M, D], see `pixels.gray`.
    """

    classifier: Classifier | None
    heldout_hits: np.ndarray
    heldout_labels: np.ndarray
    train: np.ndarray
    heldout: np.ndarray

    @property
    def heldout_accuracy(self) -> float:
        """Share of the held-out images on which the classifier is right."""
        return float(self.heldout_hits.mean())

    def class_accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """Share of images uint8 [M, S, S, 3] that show their class, labels int [M]."""
        return float(_hits(self.classifier, images, labels).mean())

    def by_class(
        self, images: np.ndarray, labels: np.ndarray, names: Sequence[str]
    ) -> dict[str, dict[str, float]]:
        """Figures of each class of `labels`: how many images, and the share that shows it.

        Args:
            images: uint8 [M, S, S, 3].
            labels: int [M] in [0, C).
            names: of the C classes.

        Returns:
            Name -> "count", "accuracy", and "heldout_accuracy" of the real images (NaN where none
            is held out). Classes of the same name have their label behind it.
        """
        hits = _hits(self.classifier, images, labels)
        repeated = {name for name, count in Counter(names).items() if count > 1}
        figures = {}
        for label in np.unique(labels).tolist():
            name, own, real = names[label], labels == label, self.heldout_labels == label
            figures[f"{name} ({label})" if name in repeated else name] = {
                "count": int(own.sum()),
                "accuracy": float(hits[own].mean()),
                "heldout_accuracy": float(self.heldout_hits[real].mean()) if real.any() else np.nan,
            }
        return figures

    def frechet(self, images: np.ndarray) -> float:
        """Fréchet distance of images uint8 [M, S, S, 3] to the held-out ones, as many of each."""
        size = self._size(len(images))
        if size < 2:
            return math.nan
        return pixels.frechet_distance(pixels.gray(images), self.heldout, size)

    def frechet_floor(self, count: int) -> float:
        """The distance that `count` images of a perfect generator have."""
        size = self._size(count)
        real = np.concatenate([self.train, self.heldout])
        return pixels.frechet_floor(real, size) if size > 1 else math.nan

    def near_copies(self, images: np.ndarray) -> float:
        """Share of images uint8 [M, S, S, 3] that are nearly training images."""
        return self._near_copies(pixels.gray(images))

    def near_copies_heldout(self) -> float:
        """The same share of the held-out images."""
        return self._near_copies(self.heldout)

    def _near_copies(self, gray: np.ndarray) -> float:
        return pixels.near_copies(gray, self.train) if len(self.train) > 1 else math.nan

    def _size(self, count: int) -> int:
        """Images in a distance: two disjoint sets of real ones must have them as well."""
        return min(count, len(self.heldout), (len(self.train) + len(self.heldout)) // 2)


def fit_judge(
    train: tuple[np.ndarray, np.ndarray], heldout: tuple[np.ndarray, np.ndarray]
) -> Judge:
    """Learns from images uint8 [M, S, S, 3] and labels int [M] of the two splits."""
    classifier = fit_classifier(*train) if len(np.unique(train[1])) > 1 else None
    return Judge(
        classifier=classifier,
        heldout_hits=_hits(classifier, *heldout),
        heldout_labels=heldout[1],
        train=pixels.gray(train[0]),
        heldout=pixels.gray(heldout[0]),
    )


def _hits(classifier: Classifier | None, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64 [M]: 1 where an image is seen as its class, 0 elsewhere; NaN without a classifier."""
    if classifier is None:
        return np.full(len(labels), np.nan)
    return (classifier.predict(images) == labels).astype(np.float64)
