"""Generated images against real ones, without any downloaded network.

M images, S side in pixels, D gray pixels.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np

from lpd_jax import distributed
from lpd_jax.evaluation import pixels
from lpd_jax.evaluation.classifier import Classifier, fit_classifier


class Looks(NamedTuple):
    """All that is kept of images that were looked at, small enough for any number of them.

    Attributes:
        levels: uint8 [M, D], see `pixels.gray`.
        classes: int [M], what the classifier sees; -1 without one.
    """

    levels: np.ndarray
    classes: np.ndarray


@dataclasses.dataclass(frozen=True)
class RealFeatures:
    """Features of real images, for Fréchet distances of few images: as many of each side.

    Attributes:
        train, heldout: float64 [M, D].
    """

    train: np.ndarray
    heldout: np.ndarray

    def frechet(self, features: np.ndarray) -> float:
        """Fréchet distance of features [M, D], see `pixels.frechet_distance`, to the held-out."""
        size = self._size(len(features))
        if size < 2:
            return math.nan
        return pixels.frechet_distance(features, self.heldout, size)

    def frechet_floor(self, count: int) -> float:
        """The distance that `count` images of a perfect generator have."""
        size = self._size(count)
        real = np.concatenate([self.train, self.heldout])
        return pixels.frechet_floor(real, size) if size > 1 else math.nan

    def _size(self, count: int) -> int:
        """Images in a distance: two disjoint sets of real ones must have them as well."""
        return min(count, len(self.heldout), (len(self.train) + len(self.heldout)) // 2)


@dataclasses.dataclass(frozen=True)
class Judge:
    """A classifier of real images, and the real images in gray.

    What too few images cannot tell is NaN: accuracy with a single class, the Fréchet distance of
    a single image, copies of a single training image.

    Attributes:
        classifier: learned from the training images; None when they have a single class.
        heldout_hits: float64 [M], 1 where it is right on a held-out image, else 0.
        heldout_labels: int [M], one of each real image to be generated.
        real: images in gray, see `pixels.features`.
    """

    classifier: Classifier | None
    heldout_hits: np.ndarray
    heldout_labels: np.ndarray
    real: RealFeatures

    @property
    def heldout_accuracy(self) -> float:
        """Share of the held-out images on which the classifier is right."""
        return float(self.heldout_hits.mean())

    def look(self, images: np.ndarray) -> Looks:
        """Images uint8 [M, S, S, 3], a batch of any size, M = 0 included."""
        return Looks(pixels.gray(images), _seen(self.classifier, images))

    def class_accuracy(self, looks: Looks, labels: np.ndarray) -> float:
        """Share of M images that show their class, labels int [M]."""
        return float(_hits(looks.classes, labels).mean())

    def by_class(
        self, looks: Looks, labels: np.ndarray, names: Sequence[str]
    ) -> dict[str, dict[str, float]]:
        """Figures of each class of `labels`: how many images, and the share that shows it.

        Args:
            looks: of M images.
            labels: int [M] in [0, C).
            names: of the C classes.

        Returns:
            Name -> "count", "accuracy", and "heldout_accuracy" of the real images (NaN where none
            is held out). Classes of the same name have their label behind it.
        """
        hits = _hits(looks.classes, labels)
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

    def frechet(self, looks: Looks) -> float:
        """Fréchet distance of M images to the held-out ones, as many of each."""
        return self.real.frechet(looks.levels)

    def frechet_floor(self, count: int) -> float:
        """The distance that `count` images of a perfect generator have."""
        return self.real.frechet_floor(count)

    def near_copies(self, looks: Looks) -> float:
        """Share of images that are nearly training images."""
        return self._near_copies(looks.levels)

    def near_copies_heldout(self) -> float:
        """The same share of the held-out images."""
        return self._near_copies(self.real.heldout)

    def _near_copies(self, images: np.ndarray) -> float:
        train = self.real.train
        return pixels.near_copies(images, train) if len(train) > 1 else math.nan


def fit_judge(
    train: tuple[np.ndarray, np.ndarray], heldout: tuple[np.ndarray, np.ndarray]
) -> Judge:
    """Learns from images uint8 [M, S, S, 3] and labels int [M] of the two splits."""
    classifier = fit_classifier(*train) if len(np.unique(train[1])) > 1 else None
    return Judge(
        classifier=classifier,
        heldout_hits=_hits(_seen(classifier, heldout[0]), heldout[1]),
        heldout_labels=heldout[1],
        real=RealFeatures(*(pixels.features(pixels.gray(x)) for x in (train[0], heldout[0]))),
    )


class _Batch(Protocol):
    """Of which `generation.results.Batch` is one."""

    rows: np.ndarray
    images: np.ndarray


def look_at(judge: Judge, batches: Iterable[_Batch], shown: int = 0) -> tuple[Looks, np.ndarray]:
    """What the judge sees in images, each looked at by the process that makes it.

    Args:
        judge: looks at them, a batch at a time; no batch is kept.
        batches: of `Sampler.batches`; M images in all.
        shown: how many images to return too.

    Returns:
        Looks of all M images, and the first images uint8 [shown or M, H, W, 3]; the same in every
        process.
    """
    parts = []
    for batch in batches:
        early = batch.rows < shown
        kept = (batch.rows, judge.look(batch.images)), (batch.rows[early], batch.images[early])
        parts.append(kept)
    looks, images = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    return distributed.rows_to_host(*looks), distributed.rows_to_host(*images)


def _seen(classifier: Classifier | None, images: np.ndarray) -> np.ndarray:
    """int [M], the class of each image; -1 without a classifier."""
    if classifier is None or not len(images):
        return np.full(len(images), -1)
    return classifier.predict(images)


def _hits(classes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64 [M]: 1 where an image is seen as its class, 0 elsewhere; NaN where as none."""
    return np.where(classes < 0, np.nan, classes == labels)
