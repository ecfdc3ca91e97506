"""Mean and covariance of any number of features, of which only a batch is in memory.

M features in a batch, D their size.
"""

import dataclasses

import numpy as np

from lpd_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Moments:
    """What a Fréchet distance needs of features, in float64.

    How the features are cut into batches and in which order those are merged moves the result by
    rounding only: sums are taken about the mean of each part (Chan, Golub and LeVeque, 1979), so
    that features far from zero lose no digits.

    Attributes:
        count: how many features.
        mean: float64 [D]; zeros when there are none.
        scatter: float64 [D, D], sum of (x - mean)(x - mean)^T.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        """Features [M, D], of any float type and M, 0 included.

        Raises:
            InputError: one of them is NaN or infinite.
        """
        features = np.asarray(features, np.float64)
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if bad.size:
            raise InputError(
                f"The features of {bad.size} of {len(features)} images are not finite (first: "
                f"image {bad[0]} of the batch); look at these images and at the network's weights."
            )
        if not len(features):
            size = features.shape[1]
            return cls(0, np.zeros(size), np.zeros((size, size)))
        mean = features.mean(axis=0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets of features together.

        Raises:
            InputError: they are of different size.
        """
        if self.mean.shape != other.mean.shape:
            raise InputError(
                f"Features of sizes {len(self.mean)} and {len(other.mean)} do not go together; use "
                "those of one network."
            )
        count = self.count + other.count
        if not count:
            return self
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        scatter = np.outer(shift, shift)
        scatter *= self.count * other.count / count
        scatter += self.scatter
        scatter += other.scatter
        return Moments(count, mean, scatter)

    @property
    def covariance(self) -> np.ndarray:
        """float64 [D, D], unbiased, as `np.cov`.

        Raises:
            InputError: fewer than two features.
        """
        if self.count < 2:
            raise InputError(
                f"A covariance of {self.count} image{'s' * (self.count != 1)} does not exist; give "
                "at least two images."
            )
        return self.scatter / (self.count - 1)
