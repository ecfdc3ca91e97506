"""A directory with one sub-directory of files per class: images, or codes that others cached."""

import copy
import hashlib
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from lpd_jax.data.crop import record
from lpd_jax.data.image_files import EXAMPLES, EXTENSIONS, BadImage, read_image
from lpd_jax.data.manifest import Listing, listing
from lpd_jax.data.places import check_path, check_split
from lpd_jax.errors import InputError
from lpd_jax.storage import brief


class ClassFolder:
    """Files by class; labels follow the sorted names of the sub-directories.

    When `path` has `train/` and one of `heldout/`, `val/`, `validation/`, `test/`, those are the
    splits. Otherwise a tenth of each class is held out, the files whose relative path hashes
    lowest: the choice survives a copy to another machine. Files are listed at once, and read when
    asked for.

    Attributes:
        root: what `path` is.
        names: of the files, relative to it, in the order of the records.
        labels: int32 [M].
        class_names: C names.

    Raises:
        InputError: `path` or one of its classes is missing, empty or cannot be listed, or a class
            is a link that leads nowhere.
    """

    suffixes: Collection[str]
    wanted: str  # what messages say of them

    def __init__(self, path: str | Path, split: str):
        check_split(split)
        check_path(path)
        self.root = Path(path).expanduser()
        if not self.root.is_dir():
            what = "a file, not" if self.root.is_file() else "not"
            raise InputError(
                f"data.path={path} is {what} a directory; it must name a directory with one "
                "sub-directory of images per class."
            )
        self.class_names, classes = self._list(split)
        self.names = tuple(name for names in classes for name in names)
        self.labels = np.repeat(
            np.arange(len(classes), dtype=np.int32), [len(names) for names in classes]
        )
        if not self.names:
            raise InputError(
                f"{self.root} has no images left for the {split} split; add images "
                f"({self.wanted}) to its class directories."
            )

    @classmethod
    def listed(cls, like: Self, names: Sequence[str], class_names: Sequence[str]) -> Self:
        """The same, of these files in this order, whatever is there now."""
        found = copy.copy(like)
        found.names, found.class_names = tuple(names), tuple(class_names)
        labels = {name: label for label, name in enumerate(class_names)}
        found.labels = np.array([labels[n.split("/")[-2]] for n in names], np.int32)
        return found

    @property
    def files(self) -> list[Path]:
        return [self.root / name for name in self.names]

    def listing(self) -> Listing:
        """One file a record."""
        return listing(self.files, self.root)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} images, {len(self.class_names)} classes)"

    def _list(self, split: str) -> tuple[tuple[str, ...], list[list[str]]]:
        """Class names and, for each, the sorted names of the files of `split`."""
        root, heldout = self.root, _heldout_directory(self.root)
        if heldout is None or not (root / "train").is_dir():
            names = _class_names(root)
            return names, [_carve(self._files(name), split) for name in names]
        names = _class_names(root / "train")
        if unknown := sorted(set(_class_names(heldout)) - set(names)):
            raise InputError(
                f"{heldout} has classes that {root / 'train'} lacks ({', '.join(unknown[:3])}); "
                "give both the same sub-directories."
            )
        train = [self._files(f"train/{name}") for name in names]
        # A class may be absent from what is held out.
        held = [
            self._files(f"{heldout.name}/{name}") if (heldout / name).is_dir() else []
            for name in names
        ]
        both = [a + b for a, b in zip(train, held, strict=True)]
        return names, {"train": train, "heldout": held, "all": both}[split]

    def _files(self, directory: str) -> list[str]:
        """The sorted files that lie in the directory of a class, by their names below the root.

        Links that lead nowhere are among them: that is for whoever reads them to say.
        """

        def wanted(name: str) -> bool:
            return os.path.splitext(name)[1].lower() in self.suffixes

        entries = _entries(self.root / directory, wanted)
        names = sorted(
            entry.name
            for entry in entries
            # Only links cost a look at the disk here; a loop of them is no directory.
            if not (os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir())
        )
        if not names:
            raise InputError(
                f"{self.root / directory} holds no images ({self.wanted}); put those of the class "
                "right into it, or remove it."
            )
        return [f"{directory}/{name}" for name in names]


class Folder(ClassFolder):
    """Image files of any format that Pillow decodes, read (`image_files`) and centre-cropped.

    Args:
        path, split: as of `ClassFolder`.
        size: of a side in pixels; None leaves images whole.

    Raises:
        InputError: as `ClassFolder`.
        BadImage: on access, a file is unreadable.
    """

    suffixes, wanted = EXTENSIONS, EXAMPLES

    def __init__(self, path: str | Path, split: str, size: int | None):
        super().__init__(path, split)
        self.size = size

    def __getitem__(self, i: int) -> dict[str, Any]:
        file = self.root / self.names[i]
        return record(read_image(file, str(file)), self.size, self.labels[i], i)


class CachedCodes(ClassFolder):
    """Codes as the official `main_cache.py` leaves them: `CLASS/NAME.npz`.

    Each file has `indices` and `indices_flip`, integers [N]: the codes of an image and of its
    mirror image, each in raster order. Record `i` is `{"codes": int32 [V, N], "label", "index"}`.

    Args:
        path, split: as of a folder of images.
        views: V, 1 without the mirror images, or 2.
        num_tokens: N.
        codebook_size: codes are in [0, codebook_size).

    Raises:
        InputError: as `ClassFolder`; on access, the codes are of another grid or codebook.
        BadImage: on access, a file is unreadable.
    """

    suffixes, wanted = frozenset({".npz"}), ".npz"

    def __init__(
        self, path: str | Path, split: str, views: int, num_tokens: int, codebook_size: int
    ):
        super().__init__(path, split)
        self._shape, self._codebook_size = (views, num_tokens), codebook_size

    def __getitem__(self, i: int) -> dict[str, Any]:
        file = self.root / self.names[i]
        try:
            with np.load(file) as found:
                codes = np.stack([found["indices"], found["indices_flip"]][: self._shape[0]])
        # NumPy and zipfile report damage through types of every kind.
        except Exception as error:
            raise BadImage(str(file), brief(error)) from error
        if codes.shape != self._shape or codes.dtype.kind not in "iu":
            raise InputError(
                f"{file} holds {codes.shape[-1]} codes an image, and data.size and the tokenizer "
                f"make {self._shape[1]}; they belong to another grid: set data.size."
            )
        if codes.min() < 0 or codes.max() >= self._codebook_size:
            raise InputError(
                f"{file} holds codes from {codes.min()} to {codes.max()}, and the tokenizer has "
                f"{self._codebook_size}; they were made by another tokenizer: give --checkpoint."
            )
        label, index = np.int32(self.labels[i]), np.int64(i)
        return {"codes": codes.astype(np.int32), "label": label, "index": index}


def folder_classes(path: str | Path) -> tuple[str, ...] | None:
    """Names of the classes of a `Folder`, without listing its images; None if it is not there."""
    root = Path(path).expanduser()
    if not root.is_dir():
        return None
    splits = (root / "train").is_dir() and _heldout_directory(root) is not None
    return _class_names(root / "train" if splits else root)


def _heldout_directory(root: Path) -> Path | None:
    names = ("heldout", "val", "validation", "test")
    return next((root / name for name in names if (root / name).is_dir()), None)


def _class_names(root: Path) -> tuple[str, ...]:
    entries = _entries(root, lambda name: not name.startswith("."))
    for entry in entries:
        # Only links cost a look at the disk here.
        if entry.is_symlink() and not os.path.exists(entry.path):
            raise InputError(
                f"{entry.path} is a link that leads nowhere or to itself; mend or remove it."
            )
    names = sorted(entry.name for entry in entries if entry.is_dir())
    if not names:
        raise InputError(f"{root} has no sub-directories; put the images of each class into one.")
    return tuple(names)


def _entries(directory: Path, wanted: Callable[[str], bool]) -> list[os.DirEntry]:
    """What lies in `directory` under a name that is `wanted`."""
    try:
        with os.scandir(directory) as found:
            return [entry for entry in found if wanted(entry.name)]
    except OSError as error:
        raise InputError(
            f"{directory} cannot be listed ({error.strerror}); make it readable."
        ) from error


def _carve(files: list[str], split: str) -> list[str]:
    """The files of `split`, where the directory has no splits of its own."""
    if split == "all":
        return files
    by_hash = sorted(files, key=lambda name: hashlib.sha256(name.encode()).digest())
    count = 0 if len(files) < 2 else max(1, round(len(files) / 10))
    return sorted(by_hash[:count] if split == "heldout" else by_hash[count:])
