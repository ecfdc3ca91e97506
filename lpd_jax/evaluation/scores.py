"""The figures of a set of generated images, from what Inception-v3 saw in them.

N images, D pool3 and P spatial features, C classes, R images of the reference.
"""

import dataclasses
import math
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lpd_jax import storage
from lpd_jax.errors import InputError
from lpd_jax.evaluation import distances, uncertainty
from lpd_jax.evaluation.moments import Moments
from lpd_jax.evaluation.reference import Reference
from lpd_jax.evaluation.units import Units

SPLITS = 10
NEIGHBOURS = 3
TOOL = "lpd_jax, Inception-v3 of 2015-12-05, TensorFlow 1's bilinear resize to 299, (x - 128) / 128"
CONVENTIONS = {
    "fid": "squared Fréchet distance of pool3 features (2,048), unbiased covariances, float64",
    "sfid": "the same of the first 7 channels of mixed_6/conv (2,023)",
    "inception_score": f"torch-fidelity: {SPLITS} splits shuffled by seed 2020, logits without bias"
    " (what LPD reports)",
    "inception_score_adm": "ADM: consecutive splits of 5,000, not shuffled, logits without bias",
    "precision": f"Kynkäänniemi et al., 2019, k={NEIGHBOURS} in pool3, float32",
    "recall": f"Kynkäänniemi et al., 2019, k={NEIGHBOURS} in pool3, float32",
}
ERRORS = {
    "fid": "infinitesimal jackknife over the images, the limit of the bootstrap",
    "inception_score": "bootstrap over the images of each split, 200 replicates",
    "precision": "binomial, over the generated images",
    "recall": "binomial, over the reference's images",
}
ERRORS |= {"sfid": ERRORS["fid"], "inception_score_adm": ERRORS["inception_score"]}


@dataclasses.dataclass(frozen=True)
class Features:
    """What was seen in N images; arrays [N, ...] are mapped from files and not in memory.

    Attributes:
        moments: of pool3 and spatial features, by these names.
        pool3: float32 [N, D].
        spatial: float32 [N, P].
        logits: float32 [N, C].
    """

    moments: Mapping[str, Moments]
    pool3: np.ndarray
    spatial: np.ndarray
    logits: np.ndarray


def gather(units: Units, scratch: pathlib.Path) -> Features:
    """Goes through the units in the order of the images.

    Args:
        units: with pool3, spatial and logits.
        scratch: a local directory, for files of 20 kB an image.

    Raises:
        InputError: as `Units.read` and `Moments.of`; fewer than two images.
    """
    if units.count < 2:
        raise InputError(f"{units.count} image has no distribution; judge at least two images.")
    arrays = units.mapped(("pool3", "spatial", "logits"), scratch)
    moments: dict[str, Moments] = {}
    for seen in units.read():
        for name in ("pool3", "spatial"):
            own = Moments.of(seen[name])
            moments[name] = moments[name].merge(own) if name in moments else own
    return Features(moments, **arrays)


def score(
    features: Features, reference: Reference | None, real_pool3: np.ndarray | None
) -> dict[str, dict[str, float]]:
    """Figures by the names of the report, each a value and its standard error.

    Args:
        features: of the generated images.
        reference: what they are compared with; None leaves inception scores.
        real_pool3: float32 [R, D] of the reference's images; None leaves out precision and recall.

    Raises:
        InputError: they are features of another network, or too few images.
    """
    found = {}
    if reference is not None:
        found["fid"] = _frechet(features, "pool3", reference.mu, reference.sigma)
    if reference is not None and reference.mu_s is not None:
        found["sfid"] = _frechet(features, "spatial", reference.mu_s, reference.sigma_s)
    found |= inception_scores(features.logits)
    if real_pool3 is not None and min(len(real_pool3), len(features.pool3)) > NEIGHBOURS:
        shares = distances.precision_recall(real_pool3, features.pool3, NEIGHBOURS)
        counts = {"precision": len(features.pool3), "recall": len(real_pool3)}
        for name, count in counts.items():
            value = getattr(shares, name)
            found[name] = {"value": value, "error": uncertainty.share_error(value, count)}
    return found


def inception_scores(logits: np.ndarray) -> dict[str, dict[str, float]]:
    """Both conventions of the inception score, of logits float32 [N, C] in class order.

    Of fewer than ten images torch-fidelity's has no ten splits, and is left out.
    """
    rows, count, found = np.arange(len(logits)), len(logits), {}
    if count >= SPLITS:
        shuffled = np.random.RandomState(2020).permutation(count)
        cuts = [i * count // SPLITS for i in range(1, SPLITS)]
        own = distances.inception_score(logits, SPLITS), np.split(shuffled, cuts)
        found["inception_score"] = _with_error(*own, logits)
    adm = distances.inception_score_adm(logits), np.split(rows, range(5000, count, 5000))
    found["inception_score_adm"] = _with_error(*adm, logits)
    return found


def described(
    found: Mapping[str, Mapping[str, float]],
    weights: str,
    reference: str,
    published: Mapping[str, float] | None = None,
) -> dict[str, dict[str, Any]]:
    """Figures with what they mean: tool, convention, hashes, the published value if there is one.

    Args:
        found: of `score`.
        weights, reference: sha256 of the files.
        published: name -> value.
    """
    told = {}
    for name, figure in found.items():
        told[name] = {
            **figure,
            "published": (published or {}).get(name),
            "tool": TOOL,
            "convention": CONVENTIONS[name],
            "error_is": ERRORS[name],
            "weights": weights,
        }
        if not name.startswith("inception_score"):
            told[name]["reference"] = reference
    return told


def scratch(beside: storage.Where) -> tempfile.TemporaryDirectory:
    """A directory for files that are mapped: on the disk of `beside`, if that is a local one.

    A temporary directory of the system often lies in memory.
    """
    place = storage.path(beside)
    if storage.in_bucket(place):
        return tempfile.TemporaryDirectory()
    place.mkdir(parents=True, exist_ok=True)
    prefix = f".scratch-{jax.process_index()}-"
    for left in place.glob(f"{prefix}*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    return tempfile.TemporaryDirectory(dir=place, prefix=prefix)


def reference_of(features: Features, name: str, size: int, keep: int) -> Reference:
    """The reference that N images make.

    Args:
        features: of the images.
        name: what it is called.
        size: side of the images.
        keep: images at most whose pool3 features stay, for precision and recall, drawn once.
    """
    count = len(features.pool3)
    rows = np.sort(np.random.default_rng(0).permutation(count)[:keep])
    pool3, spatial = (features.moments[key] for key in ("pool3", "spatial"))
    return Reference(
        mu=pool3.mean,
        sigma=pool3.covariance,
        name=name,
        mu_s=spatial.mean,
        sigma_s=spatial.covariance,
        pool3=np.asarray(features.pool3[rows]),
        count=count,
        size=size,
    )


def _frechet(features: Features, name: str, mu: np.ndarray, sigma: np.ndarray) -> dict[str, float]:
    own = features.moments[name]
    value = distances.frechet(own.mean, own.covariance, mu, sigma)
    error = distances.frechet_error(getattr(features, name), mu, sigma)
    return {"value": value, "error": error}


def _with_error(
    found: distances.InceptionScore, splits: list[np.ndarray], logits: np.ndarray
) -> dict[str, float]:
    error = uncertainty.score_error(np.asarray(logits[rows]) for rows in splits)
    of_splits = found.std if found.splits > 1 else math.nan
    return {"value": found.mean, "error": error, "deviation_of_splits": of_splits}
