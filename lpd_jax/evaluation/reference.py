"""Statistics of real images that generated ones are compared with, and the files they come in.

D pool3 features (2,048), P spatial ones (2,023), R images of the reference, H pixels of a side.
"""

import dataclasses
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from lpd_jax import storage
from lpd_jax.errors import InputError
from lpd_jax.evaluation.inception import POOL3, SPATIAL

_BROKEN = (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)
# Sizes that a covariance in float32 may differ by from its transpose, relative to the largest.
_ASYMMETRY = 1e-4
_IMAGES_OF_A_CLASS = 10


@dataclasses.dataclass(frozen=True)
class Reference:
    """What is known of real images.

    Attributes:
        mu, sigma: float64 [D] and [D, D], mean and covariance of pool3.
        name: of the file, or what wrote it says.
        mu_s, sigma_s: float64 [P] and [P, P], of the spatial features; None: no sFID.
        pool3: float32 [R, D], for precision and recall; None where the file has none.
        count: images behind mu and sigma; None where the file does not say.
        size: H of the images; None where the file does not say.
        classes: of the images; None where the file does not say.
        images: how many images lie in the file itself: ADM's are a sample, for precision and
            recall, of those behind mu and sigma.
        sha256: of the file, in hexadecimal; empty before there is one.
    """

    mu: np.ndarray
    sigma: np.ndarray
    name: str
    mu_s: np.ndarray | None = None
    sigma_s: np.ndarray | None = None
    pool3: np.ndarray | None = None
    count: int | None = None
    size: int | None = None
    classes: int | None = None
    images: int = 0
    sha256: str = ""


def read(path: storage.Where) -> Reference:
    """Reads reference statistics from a `.npz`.

    Known are ADM's `VIRTUAL_imagenet*.npz` (statistics of all training images beside 10,000 of
    them), `adm_in*_stats.npz`, any file of `mu` and `sigma` (or `ref_mu` and `ref_sigma`), and
    what `write` writes. No image is read.

    Raises:
        InputError: no such file; damaged; without statistics; statistics of other features, or with
            NaN; images that are not square.
    """
    place = storage.path(path)
    if not place.is_file():
        raise InputError(f"There is no reference {place}; check the path.")
    with storage.local(place) as file:
        try:
            digest = storage.sha256(file)
            with np.load(file, allow_pickle=False) as arrays:
                return _reference(arrays, file, str(place), digest)
        except InputError:
            raise
        except _BROKEN as error:
            raise InputError(
                f"{place} cannot be read as .npz ({storage.brief(error)}); fetch or make the file "
                "again."
            ) from error


def write(path: storage.Where, reference: Reference) -> None:
    """Writes a reference as `.npz`, whole or not at all; `read` gives it back.

    Raises:
        InputError: the path does not end in `.npz`.
        OSError: it cannot be written.
    """
    if storage.path(path).suffix != ".npz":
        raise InputError(f"References are written as .npz; rename {path}.")
    fields = {
        field.name: getattr(reference, field.name)
        for field in dataclasses.fields(reference)
        if field.name not in ("images", "sha256")
    }
    with storage.whole(path) as file, file.open("wb") as opened:
        np.savez(opened, **{name: x for name, x in fields.items() if x is not None})


def _image_shape(array: IO[bytes], where: str) -> tuple[int, ...]:
    """Shape of the images of an open `.npy`, which is then at its first image."""
    version = np.lib.format.read_magic(array)
    headers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in headers:
        raise ValueError(f"unknown .npy version {version}")
    shape, fortran, dtype = headers[version](array)
    square = len(shape) == 4 and shape[1] == shape[2] > 0 and shape[3] == 3
    if not square or dtype != np.uint8 or fortran:
        raise InputError(
            f"arr_0 of {where} is {dtype} {list(shape)}; images must be uint8 [count, side, side, "
            "3], square and in C order."
        )
    return shape


def _reference(arrays: Mapping[str, np.ndarray], file: Path, where: str, sha256: str) -> Reference:
    """What an open `.npz` says."""
    shape = (0, None)
    if "arr_0" in arrays:
        with zipfile.ZipFile(file) as archive, archive.open("arr_0.npy") as images:
            shape = _image_shape(images, where)
    prefix = "ref_" if "ref_mu" in arrays else ""
    if f"{prefix}mu" not in arrays or f"{prefix}sigma" not in arrays:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise InputError(
            f"{where} has no statistics mu and sigma (it holds {found}); make a reference of "
            "images with `python -m lpd_jax reference`."
        )
    spatial = {}
    if "mu_s" in arrays and "sigma_s" in arrays:
        names = ("mu_s", "sigma_s")
        spatial = dict(zip(names, _statistics(arrays, *names, SPATIAL, where), strict=True))
    mu, sigma = _statistics(arrays, f"{prefix}mu", f"{prefix}sigma", POOL3, where)
    pool3 = _features(arrays["pool3"], where) if "pool3" in arrays else None
    return Reference(
        mu=mu,
        sigma=sigma,
        name=str(arrays["name"]) if "name" in arrays else Path(where).name,
        **spatial,
        pool3=pool3,
        count=int(arrays["count"]) if "count" in arrays else None,
        size=int(arrays["size"]) if "size" in arrays else shape[1],
        classes=_classes(arrays, shape[0]),
        images=shape[0],
        sha256=sha256,
    )


def _classes(arrays: Mapping[str, np.ndarray], images: int) -> int | None:
    """How many classes there are; ADM's labelled files have a label of each of their images."""
    if "classes" in arrays:
        return int(arrays["classes"])
    labels = arrays["arr_1"] if images and "arr_1" in arrays else np.empty(0)
    if labels.shape != (images,) or not np.issubdtype(labels.dtype, np.integer):
        return None
    count = int(labels.max()) + 1
    # Of fewer images, some classes may be absent.
    return count if images >= _IMAGES_OF_A_CLASS * count else None


def _statistics(
    arrays: Mapping[str, np.ndarray], mean: str, covariance: str, size: int, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """float64 mean [size] and covariance [size, size]."""
    mu, sigma = arrays[mean], arrays[covariance]
    if mu.shape != (size,) or sigma.shape != (size, size):
        raise InputError(
            f"{mean} and {covariance} of {where} are {list(mu.shape)} and {list(sigma.shape)}; "
            f"those of Inception-v3 are [{size}] and [{size}, {size}]: take a reference made with "
            "that network."
        )
    mu, sigma = np.asarray(mu, np.float64), np.asarray(sigma, np.float64)
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise InputError(
            f"{mean} or {covariance} of {where} holds NaN or infinity; make the reference again."
        )
    if np.abs(sigma - sigma.T).max() > _ASYMMETRY * np.abs(sigma).max():
        raise InputError(
            f"{covariance} of {where} is not symmetric, so it is no covariance; make the reference "
            "again."
        )
    return mu, sigma


def _features(pool3: np.ndarray, where: str) -> np.ndarray:
    """float32 [R, D]."""
    if pool3.ndim != 2 or pool3.shape[1] != POOL3:
        raise InputError(
            f"pool3 of {where} is {list(pool3.shape)} instead of [images, {POOL3}]; make the "
            "reference again."
        )
    if not np.isfinite(pool3).all():
        raise InputError(f"pool3 of {where} holds NaN or infinity; make the reference again.")
    return np.asarray(pool3, np.float32)
