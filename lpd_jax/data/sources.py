"""Labelled images with random access: digits, a folder, a TFDS dataset.

Every source here is a Grain `RandomAccessDataSource` whose record `i` is
`{"image": uint8 [S, S, 3], "label": int32, "index": int64}` with `index == i`, and carries
`class_names`. `split` is "train", "heldout" or "all" and depends on the data only, never on a seed.

S side in pixels, M images, C classes.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits

from lpd_jax.data.crop import center_crop
from lpd_jax.errors import InputError

SPLITS = ("train", "heldout", "all")
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


class Arrays:
    """Records cut from arrays in memory: record `i` is row `i` of each array.

    Args:
        arrays: name -> array [M, ...], all of the same length.
        class_names: what the labels mean, when there are labels.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], class_names: Sequence[str] = ()):
        self.arrays = dict(arrays)
        self.class_names = tuple(class_names)
        (self._length,) = {len(array) for array in self.arrays.values()}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {name: array[i] for name, array in self.arrays.items()}

    def __repr__(self) -> str:
        return f"Arrays({len(self)} records of {', '.join(self.arrays)})"


class Digits(Arrays):
    """The 1,797 handwritten digits that ship inside scikit-learn (8x8, 17 gray levels).

    Enlarged to `size` with a bicubic filter in floating point, then rounded to 8 bits and copied
    to three channels. A quarter of each class, drawn once and for all, is held out.
    """

    def __init__(self, split: str, size: int):
        _check_split(split)
        digits = load_digits()
        rows = _digit_rows(digits.target, split)
        images = np.stack([_enlarge(image, size) for image in digits.images[rows]])
        super().__init__(
            {
                "image": np.repeat(images[..., None], 3, axis=-1),
                "label": digits.target[rows].astype(np.int32),
                "index": np.arange(len(rows)),
            },
            class_names=[str(name) for name in digits.target_names],
        )


class Folder:
    """A directory with one sub-directory of images per class; labels follow the sorted names.

    When `path` has `train/` and one of `heldout/`, `val/`, `validation/`, `test/`, those are the
    splits. Otherwise a tenth of each class is held out, the files whose relative path hashes
    lowest: the choice survives a copy to another machine. Files are read when asked for, converted
    to RGB and centre-cropped.

    Raises:
        InputError: `path` or its classes are missing or empty; on access, a file is unreadable.
    """

    def __init__(self, path: str | Path, split: str, size: int):
        _check_split(split)
        _check_local(path)
        root = Path(path).expanduser()
        if not root.is_dir():
            raise InputError(
                f"{root} is not a directory; data.path must name a directory with one "
                "sub-directory of images per class."
            )
        self.size = size
        self.class_names, classes = _folder_files(root, split)
        self.files = [file for files in classes for file in files]
        self.labels = np.repeat(
            np.arange(len(classes), dtype=np.int32), [len(files) for files in classes]
        )
        if not self.files:
            raise InputError(
                f"{root} has no images left for the {split} split; add images "
                f"({', '.join(sorted(EXTENSIONS))}) to its class directories."
            )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> dict[str, Any]:
        file = self.files[i]
        image = _decode(file, self.size, name=str(file))
        return {"image": image, "label": self.labels[i], "index": np.int64(i)}

    def __repr__(self) -> str:
        return f"Folder({len(self)} images, {len(self.class_names)} classes)"


class TfdsImages:
    """A classification dataset that TensorFlow Datasets has prepared as ArrayRecord files.

    TensorFlow is not needed. A split called heldout, validation or test is held out; a dataset
    with none of them gives the last tenth of its train split. Images are decoded by Pillow,
    converted to RGB and centre-cropped.

    Args:
        path: directory of the prepared dataset (it holds `dataset_info.json`), or a name such as
            "imagenet2012" prepared in the default TFDS directory.
        split: "train", "heldout" or "all".
        size: S.

    Raises:
        InputError: dataset absent, in another file format, or without an image and a label.
    """

    def __init__(self, path: str | Path, split: str, size: int):
        _check_split(split)
        _check_local(path)
        builder = _tfds_builder(path)
        features, splits = builder.info.features, list(builder.info.splits)
        if not {"image", "label"} <= set(features):
            raise InputError(
                f"The dataset at {path} has the features {', '.join(features)}; it needs 'image' "
                "and 'label', so choose a classification dataset."
            )
        if "train" not in splits:
            raise InputError(
                f"The dataset at {path} has no train split (it has {', '.join(splits) or 'none'}); "
                "prepare it again with one."
            )
        self.size = size
        self.class_names = tuple(features["label"].names)
        try:
            self._records = builder.as_data_source(
                split=_tfds_split(splits, split), decoders={"image": tfds.decode.SkipDecoding()}
            )
        except (NotImplementedError, RuntimeError, OSError) as error:
            raise InputError(
                f"The dataset at {path} cannot be read at random ({error}); prepare it again with "
                "file_format='array_record'."
            ) from error

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> dict[str, Any]:
        record = self._records[i]
        image = _decode(
            io.BytesIO(record["image"]), self.size, name=f"record {i} of {self._records!r}"
        )
        return {"image": image, "label": np.int32(record["label"]), "index": np.int64(i)}

    def __repr__(self) -> str:
        return f"TfdsImages({len(self)} images, {len(self.class_names)} classes)"


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise InputError(f"There is no split {split!r}; choose one of {', '.join(SPLITS)}.")


def _check_local(path: str | Path) -> None:
    if "://" in str(path):
        raise InputError(
            f"data.path={path} is not on a local disk, where images are read from; copy it there, "
            "or mount the bucket (Cloud Storage FUSE) and give the path of the mount."
        )


def _digit_rows(target: np.ndarray, split: str) -> np.ndarray:
    """Rows of load_digits() in `split`, ascending; the draw is a constant of the project."""
    if split == "all":
        return np.arange(len(target))
    rng = np.random.default_rng(0)
    heldout = np.zeros(len(target), bool)
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(target == digit))
        heldout[rows[: round(len(rows) / 4)]] = True
    return np.flatnonzero(heldout if split == "heldout" else ~heldout)


def _enlarge(image: np.ndarray, size: int) -> np.ndarray:
    """[8, 8] in [0, 16] -> uint8 [S, S]."""
    gray = Image.fromarray((image * (255 / 16)).astype(np.float32))
    resized = np.asarray(gray.resize((size, size), Image.Resampling.BICUBIC))
    return np.rint(resized.clip(0, 255)).astype(np.uint8)


def _decode(file: Path | io.BytesIO, size: int, name: str) -> np.ndarray:
    """Image file -> uint8 [S, S, 3]."""
    try:
        with Image.open(file) as image:
            return np.asarray(center_crop(image.convert("RGB"), size))
    # Pillow reports damage through all of these, depending on the format.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{name} cannot be read as an image ({error}); replace or remove it."
        ) from error


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


def _folder_files(root: Path, split: str) -> tuple[tuple[str, ...], list[list[Path]]]:
    """Class names and, for each, the sorted files of `split`."""
    heldout = _heldout_directory(root)
    if heldout is None or not (root / "train").is_dir():
        names = _class_names(root)
        return names, [_carve(root, name, split) for name in names]
    names = _class_names(root / "train")
    if unknown := sorted(set(_class_names(heldout)) - set(names)):
        raise InputError(
            f"{heldout} has classes that {root / 'train'} lacks ({', '.join(unknown[:3])}); give "
            "both the same sub-directories."
        )
    parts = {"train": [root / "train"], "heldout": [heldout], "all": [root / "train", heldout]}
    return names, [[f for p in parts[split] for f in _images(p / name)] for name in names]


def _class_names(root: Path) -> tuple[str, ...]:
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise InputError(f"{root} has no sub-directories; put the images of each class into one.")
    return tuple(names)


def _images(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(f for f in directory.iterdir() if f.suffix.lower() in EXTENSIONS)


def _carve(root: Path, name: str, split: str) -> list[Path]:
    files = _images(root / name)
    if split == "all":
        return files
    by_hash = sorted(files, key=lambda f: hashlib.sha256(f"{name}/{f.name}".encode()).digest())
    count = 0 if len(files) < 2 else max(1, round(len(files) / 10))
    return sorted(by_hash[:count] if split == "heldout" else by_hash[count:])


def _tfds_builder(path: str | Path) -> tfds.core.DatasetBuilder:
    directory = Path(path).expanduser()
    try:
        if directory.is_dir():
            builder = tfds.builder_from_directory(directory)
        else:
            builder = tfds.builder(str(path))
    except (tfds.core.DatasetNotFoundError, OSError, ValueError) as error:
        raise InputError(
            f"No TFDS dataset at {path}; data.path must be the directory that holds its "
            "dataset_info.json, or the name of a prepared dataset."
        ) from error
    if not builder.info.splits:
        raise InputError(
            f"The TFDS dataset {path} is not prepared; run "
            "tfds.builder(name, file_format='array_record').download_and_prepare() first."
        )
    return builder


def _tfds_split(splits: Sequence[str], split: str) -> str:
    heldout = next((s for s in ("heldout", "validation", "test") if s in splits), None)
    if heldout is None:
        return {"train": "train[:90%]", "heldout": "train[90%:]", "all": "train"}[split]
    return {"train": "train", "heldout": heldout, "all": f"train+{heldout}"}[split]
