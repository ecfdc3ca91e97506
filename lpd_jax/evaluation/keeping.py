"""Generated images as files: numbered PNG, or one array as ADM's evaluator takes it."""

import io
import zipfile
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from lpd_jax import storage
from lpd_jax.errors import InputError


def name(index: int) -> str:
    """File name of an image, which sorts by its index."""
    return f"{index:06d}.png"


def write_pngs(directory: storage.Where, rows: np.ndarray, images: np.ndarray) -> None:
    """Writes images uint8 [P, H, W, 3] by their indices int [P], each whole or not at all.

    Raises:
        OSError: one cannot be written.
    """
    for row, image in zip(rows.tolist(), images, strict=True):
        with storage.whole(storage.path(directory) / name(row)) as file:
            Image.fromarray(image).save(file, compress_level=1)


def write_npz(file: storage.Where, directory: storage.Where, count: int) -> None:
    """Writes the PNG files of `directory` as `arr_0`, uint8 [count, H, W, 3], in one `.npz`.

    An image is in memory at a time, and the file appears whole or not at all.

    Raises:
        InputError: an image is absent.
        OSError: it cannot be written.
    """
    images = _read(storage.path(directory), range(count))
    first = next(images)
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *first.shape)}
    # A date of its own: the same images are the same file.
    about = zipfile.ZipInfo("arr_0.npy", (1980, 1, 1, 0, 0, 0))
    with (
        storage.whole(file) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
        archive.open(about, "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array_header_1_0(member, header)
        member.write(first.tobytes())
        for image in images:
            member.write(image.tobytes())


def read_pngs(directory: storage.Where, rows: np.ndarray) -> np.ndarray:
    """uint8 [P, H, W, 3]: images that `write_pngs` wrote, by their indices int [P].

    Raises:
        InputError: one is absent.
    """
    return np.stack([*_read(storage.path(directory), rows.tolist())])


def _read(directory: storage.Path, rows: Iterable[int]) -> Iterator[np.ndarray]:
    for index in rows:
        file = directory / name(index)
        try:
            with Image.open(io.BytesIO(file.read_bytes())) as image:
                yield np.asarray(image)
        except OSError as error:
            raise InputError(
                f"{file} cannot be read; remove the directory of this evaluation and run the same "
                "command again."
            ) from error
