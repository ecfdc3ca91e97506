"""Labelled images with random access: digits, a TFDS dataset; `folder` and `tar` have the others.

Every source is a Grain `RandomAccessDataSource` whose record `i` is
`{"image": uint8 [S, S, 3], "label": int32, "index": int64}` with `index == i`, and carries
`class_names` and `listing()`, the files that it reads. An image that cannot be read is a
`BadImage`. `split` is "train", "heldout" or "all" and depends on the data only, never on a seed.

S side in pixels, M images, C classes.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from lpd_jax.data.crop import record
from lpd_jax.data.image_files import BadImage, read_image
from lpd_jax.data.manifest import Listing, listing
from lpd_jax.data.places import check_path, check_split
from lpd_jax.errors import InputError
from lpd_jax.storage import brief


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

    def listing(self) -> Listing:
        """No files."""
        return listing(())

    def __repr__(self) -> str:
        return f"Arrays({len(self)} records of {', '.join(self.arrays)})"


class Digits(Arrays):
    """The 1,797 handwritten digits that ship inside scikit-learn (8x8, 17 gray levels).

    Enlarged to `size` with a bicubic filter in floating point, then rounded to 8 bits and copied
    to three channels. A quarter of each class, drawn once and for all, is held out.
    """

    def __init__(self, split: str, size: int):
        from sklearn.datasets import load_digits  # which takes long, with SciPy

        check_split(split)
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


class TfdsImages:
    """A classification dataset that TensorFlow Datasets has prepared as ArrayRecord files.

    TensorFlow is not needed. A split called heldout, validation or test is held out; a dataset
    with none of them gives the last tenth of its train split. Images are decoded by
    `image_files.read_image` and centre-cropped.

    Args:
        path: directory of the prepared dataset (it holds `dataset_info.json`), or a name such as
            "imagenet2012" prepared in the default TFDS directory.
        split: "train", "heldout" or "all".
        size: S; None leaves images whole.

    Raises:
        InputError: dataset absent, in another file format, or without an image and a label.
        BadImage: on access, a record or its image is unreadable.
    """

    def __init__(self, path: str | Path, split: str, size: int | None):
        check_split(split)
        check_path(path)
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
        self.size, self._name = size, f"{path}, split {split}"
        self._directory = Path(builder.data_path)
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
        try:
            found = self._records[i]
        except (RuntimeError, OSError) as error:
            raise BadImage(f"record {i} of {self._name}", brief(error)) from error
        image = read_image(io.BytesIO(found["image"]), f"record {i} of {self._name}")
        return record(image, self.size, found["label"], i)

    def listing(self) -> Listing:
        """The record files."""
        return listing(sorted(self._directory.glob("*.array_record*")), self._directory)

    def __repr__(self) -> str:
        return f"TfdsImages({len(self)} images, {len(self.class_names)} classes)"


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


def _tfds_builder(path: str | Path) -> tfds.core.DatasetBuilder:
    directory = Path(path).expanduser()
    try:
        if directory.is_dir():
            builder = tfds.builder_from_directory(directory)
        else:
            builder = tfds.builder(str(path))
    # An absent version is an AssertionError, a damaged dataset_info.json an error of Protobuf.
    except Exception as error:
        raise InputError(
            f"No TFDS dataset at {path} ({brief(error)}); data.path must be the directory that "
            "holds its dataset_info.json, or the name of a prepared dataset."
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
