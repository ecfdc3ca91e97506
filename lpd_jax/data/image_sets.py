"""Images that were made elsewhere: a folder of files, or one array in an `.npz`.

They are read in the order of their names, or of the array, a batch at a time. N images.
"""

import dataclasses
import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from lpd_jax import storage
from lpd_jax.data.image_files import EXAMPLES, EXTENSIONS, read_image
from lpd_jax.errors import InputError

_ARRAY = "arr_0"


@dataclasses.dataclass(frozen=True)
class Batch:
    """The part of a batch that one process reads.

    Attributes:
        rows: int [P], ascending: which images these are, from the first that was asked for.
        images: uint8 [P, H, W, 3].
    """

    rows: np.ndarray
    images: np.ndarray


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """A folder of images or the array `arr_0` of an `.npz`.

    Attributes:
        path: of it.
        count: N.
        size: (H, W) of all of them.
        identity: 16 hex digits that change when a file does.
        files: of a folder, sorted; empty for an array.
    """

    path: Path
    count: int
    size: tuple[int, int]
    identity: str
    files: tuple[Path, ...] = ()

    def batches(self, first: int, batch_size: int) -> Iterator[Batch]:
        """The images from `first` on; each process reads its own part of every batch.

        Raises:
            InputError: an image is unreadable or of another size.
        """
        processes, own = jax.process_count(), jax.process_index()
        with _Rows(self) as read:
            for start in range(first, self.count, batch_size):
                rows = np.arange(start, min(self.count, start + batch_size))
                rows = np.array_split(rows, processes)[own]
                images = np.empty((0, *self.size, 3), np.uint8)
                if len(rows):
                    images = read(int(rows[0]), int(rows[-1]) + 1)
                yield Batch(rows - first, images)


class _Rows:
    """Reads runs of images, each after the one before."""

    def __init__(self, images: ImageSet):
        self._images, self._archive, self._member = images, None, None

    def __enter__(self):
        if not self._images.files:
            self._archive = zipfile.ZipFile(self._images.path)
            self._member = self._archive.open(f"{_ARRAY}.npy")
            _read_header(self._member)
            self._begin = self._member.tell()
        return self

    def __exit__(self, *_):
        if self._archive:
            self._member.close()
            self._archive.close()

    def __call__(self, start: int, end: int) -> np.ndarray:
        shape = (end - start, *self._images.size, 3)
        if self._member is None:
            return np.stack([self._file(file) for file in self._images.files[start:end]])
        try:
            # Where the array is compressed, this reads what lies between.
            self._member.seek(self._begin + start * int(np.prod(shape[1:])))
            data = self._member.read(int(np.prod(shape)))
            return np.frombuffer(data, np.uint8).reshape(shape)
        except Exception as error:  # zipfile and zlib have types of their own, and a short read
            raise InputError(
                f"{self._images.path} is damaged at image {start}; copy or make it again."
            ) from error

    def _file(self, file: Path) -> np.ndarray:
        image = np.asarray(read_image(file, str(file)))
        if image.shape[:2] != self._images.size:
            raise InputError(
                f"{file} is of {_sides(image.shape)} pixels and the first image in "
                f"{self._images.path} of {_sides(self._images.size)}; judge images of one size."
            )
        return image


def open_images(path: str | Path) -> ImageSet:
    """The images at `path`: a folder, searched with all below it, or an `.npz` with `arr_0`.

    Raises:
        InputError: there is nothing, fewer than two images, or an array that is not uint8
            [N, H, W, 3].
    """
    place = Path(path).expanduser()
    if place.is_dir():
        found = _folder(place)
    elif place.is_file() and place.suffix == ".npz":
        found = _archive(place)
    else:
        raise InputError(
            f"{path} is neither a folder of images nor an .npz file; give one of those, on a local "
            "disk."
        )
    if found.count < 2:
        raise InputError(f"{path} holds {found.count} image; a distance needs two at least.")
    return found


def holds(file: storage.Path, names: Sequence[str]) -> bool:
    """Whether a file is a zip archive, as `.npz` is, with one of these arrays."""
    try:
        with storage.local(file) as place, zipfile.ZipFile(place) as archive:
            return any(f"{name}.npy" in archive.namelist() for name in names)
    except (OSError, zipfile.BadZipFile):
        return False


def _folder(root: Path) -> ImageSet:
    inside = (f for f in root.rglob("*") if f.suffix.lower() in EXTENSIONS)
    files = sorted(f for f in inside if not f.name.startswith(".") and f.is_file())
    if not files:
        raise InputError(f"{root} holds no images ({EXAMPLES}).")
    digest = hashlib.sha256()
    for file in files:
        about = file.stat()
        digest.update(f"{file.relative_to(root)} {about.st_size} {about.st_mtime_ns}\n".encode())
    size = np.asarray(read_image(files[0], str(files[0]))).shape[:2]
    return ImageSet(root, len(files), size, digest.hexdigest()[:16], tuple(files))


def _archive(file: Path) -> ImageSet:
    try:
        with zipfile.ZipFile(file) as archive, archive.open(f"{_ARRAY}.npy") as member:
            shape, fortran, dtype = _read_header(member)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{file} has no array {_ARRAY} that can be read ({' '.join(str(error).split())}); "
            "write one with numpy.savez(file, images)."
        ) from error
    if dtype != np.uint8 or fortran or len(shape) != 4 or shape[3] != 3:
        raise InputError(
            f"{_ARRAY} in {file} is {dtype} {list(shape)}; it must be uint8 [N, H, W, 3]."
        )
    about = file.stat()
    text = f"{about.st_size} {about.st_mtime_ns}"
    identity = hashlib.sha256(text.encode()).hexdigest()[:16]
    return ImageSet(file, shape[0], (shape[1], shape[2]), identity)


def _read_header(member) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    return np.lib.format.read_array_header_2_0(member)


def _sides(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
