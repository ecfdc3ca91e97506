"""Images in tar archives, as WebDataset lays them out: `KEY.jpg` beside `KEY.cls`."""

import functools
import io
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lpd_jax.data.crop import record
from lpd_jax.data.image_files import EXTENSIONS, BadImage, read_image
from lpd_jax.data.manifest import Listing, listing
from lpd_jax.data.places import check_path, check_split
from lpd_jax.errors import InputError

_HELDOUT = re.compile(r"(^|[^a-z])(heldout|val|valid|validation|test)([^a-z]|$)")
_Row = tuple[str, int, int, int]  # name, first byte, bytes, label or -1


class TarImages:
    """Every `*.tar` in a directory or in its sub-directories, sorted by name.

    A key is all of a member's name before the first dot of its last part; `KEY.cls` holds the
    number of the class, and an image of it is any `KEY.SUFFIX` that Pillow decodes. Archives with
    `heldout`, `val`, `validation` or `test` in their path are held out (`imagenet-val-00.tar`,
    `val/00.tar`); without one, each tenth image is. A file `class_names.txt`, one name a line,
    names the classes; without it they are called by their numbers.

    The archives are looked through at once, which takes some tens of microseconds an image, and
    read at random; compressed ones cannot be.

    Args:
        path: directory.
        split: "train", "heldout" or "all".
        size: S; None leaves images whole.

    Raises:
        InputError: no archive there, one is damaged or compressed, classes are not numbers.
        BadImage: on access, an image is unreadable or has no class.
    """

    def __init__(self, path: str | Path, split: str, size: int | None):
        check_split(split)
        check_path(path)
        self.root, self.size = Path(path).expanduser(), size
        self._archives = sorted(self.root.glob("*.tar")) + sorted(self.root.glob("*/*.tar"))
        if not self._archives:
            raise InputError(
                f"data.path={path} holds no *.tar; it must name a directory of uncompressed "
                "WebDataset archives."
            )
        stamps = tuple((archive, archive.stat().st_mtime_ns) for archive in self._archives)
        places, keys, labels = _index(stamps)
        held = np.array([_is_held(archive.relative_to(self.root)) for archive in self._archives])
        if held.any():
            held = held[places[:, 0]]
        else:
            held = np.arange(len(keys)) % 10 == 9
        rows = np.flatnonzero(held | True if split == "all" else held == (split == "heldout"))
        if not len(rows):
            raise InputError(
                f"the archives in {path} have no images for the {split} split; add some "
                "(KEY.jpg with KEY.cls)."
            )
        self._places, self.labels = places[rows], labels[rows]
        self._keys = [keys[row] for row in rows]
        self._num_classes = int(labels.max(initial=-1)) + 1
        self.class_names = self._names()

    def _names(self) -> tuple[str, ...]:
        file = self.root / "class_names.txt"
        count = self._num_classes
        if not file.is_file():
            return tuple(map(str, range(count)))
        names = tuple(file.read_text(encoding="utf-8").split("\n"))
        names = names[:-1] if names[-1] == "" else names
        if len(names) < count:
            raise InputError(
                f"{file} names {len(names)} classes, and the archives use number {count - 1}; "
                "give it one line a class."
            )
        return names

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, i: int) -> dict[str, Any]:
        number, start, size = self._places[i].tolist()
        name = f"{self._keys[i]} in {self._archives[number]}"
        if self.labels[i] < 0:
            raise BadImage(name, "it has no .cls beside it")
        try:
            with self._archives[number].open("rb") as file:
                content = os.pread(file.fileno(), size, start)
        except OSError as error:
            raise BadImage(name, error.strerror or str(error)) from error
        return record(read_image(io.BytesIO(content), name), self.size, self.labels[i], i)

    def listing(self) -> Listing:
        """The archives."""
        return listing(self._archives, self.root)

    def __repr__(self) -> str:
        return f"TarImages({len(self)} images, {len(self.class_names)} classes)"


def _is_held(archive: Path) -> bool:
    return _HELDOUT.search(str(archive).lower()) is not None


@functools.lru_cache(maxsize=1)  # the splits of a source have it in common
def _index(archives: tuple[tuple[Path, int], ...]) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Of every image: archive, first byte and bytes int64 [M, 3]; name; label int32 [M].

    The archives come with the times of their last change, so that this is looked at again.
    """
    places, names, labels = [], [], []
    bar = tqdm(archives, desc="archives", unit="tar", leave=False, disable=None)
    for number, (archive, _) in enumerate(bar):
        for name, start, size, label in _images(archive):
            places.append((number, start, size))
            names.append(name)
            labels.append(label)
    return np.array(places, np.int64).reshape(-1, 3), names, np.array(labels, np.int32)


def _images(archive: Path) -> list[_Row]:
    images, labels = [], {}
    try:
        with tarfile.open(archive, "r:") as members:
            for member in members:
                folder, _, base = member.name.rpartition("/")
                stem, _, kind = base.partition(".")
                if not member.isfile() or not stem:
                    continue
                if kind == "cls":
                    labels[folder, stem] = int(members.extractfile(member).read())
                elif f".{kind.lower()}" in EXTENSIONS:
                    images.append(((folder, stem), member.name, member.offset_data, member.size))
        with archive.open("rb") as file:  # which tarfile passes over
            file.seek(-min(1024, archive.stat().st_size), os.SEEK_END)
            if file.read().strip(b"\0"):
                raise tarfile.ReadError("its end is missing")
    except (tarfile.TarError, OSError) as error:
        raise InputError(
            f"{archive} cannot be read as an uncompressed tar archive ({error}); copy or unpack it "
            "again."
        ) from error
    except ValueError as error:
        raise InputError(
            f"{archive} has a .cls that is no number ({error}); write the archive with the "
            "number of the class there."
        ) from error
    return [(name, start, size, labels.get(key, -1)) for key, name, start, size in images]
