"""The code dataset: what a tokenizer made of every image, as TFDS with ArrayRecord files.

Written shard by shard, each complete or absent, by any number of processes; readable by
`tfds.builder_from_directory(path).as_data_source(split)`; TensorFlow is never imported. The
dataset's metadata names the tokenizer, so that codes of another one are refused. In a bucket, the
files are written and read one by one through local copies, as ArrayRecord knows no buckets.

M images of a split, V views of each (plain, or plain and flipped), N tokens = h * w.
"""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from lpd_jax import storage
from lpd_jax.errors import InputError

SPEC_FILE = "spec.json"


@dataclasses.dataclass(frozen=True)
class CodesSpec:
    """What a code dataset holds.

    Attributes:
        tokenizer: identity of the tokenizer, JSON data: a fingerprint of its weights, its config.
        grid: (h, w).
        codebook_size: codes are in [0, codebook_size).
        views: V.
        class_names: what the labels mean.
        split_sizes: images in each split.
        shard_size: images in each file but the last of a split.
    """

    tokenizer: Mapping[str, Any]
    grid: tuple[int, int]
    codebook_size: int
    views: int
    class_names: tuple[str, ...]
    split_sizes: Mapping[str, int]
    shard_size: int = 16_384

    @property
    def shape(self) -> tuple[int, int]:
        """(V, N)."""
        return self.views, self.grid[0] * self.grid[1]

    @property
    def features(self) -> tfds.features.FeaturesDict:
        dtype = np.uint16 if self.codebook_size <= 2**16 else np.int32
        return tfds.features.FeaturesDict(
            {
                "codes": tfds.features.Tensor(shape=self.shape, dtype=dtype, encoding="bytes"),
                "label": tfds.features.ClassLabel(names=self.class_names),
                "index": np.int64,
            }
        )

    def shards(self) -> list["Shard"]:
        """Every file of the dataset, split by split."""
        shards = []
        for split, size in self.split_sizes.items():
            starts = range(0, size, self.shard_size)
            for number, start in enumerate(starts):
                stop = min(start + self.shard_size, size)
                shards.append(Shard(split, start, stop, number, len(starts)))
        return shards


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file: images [start, stop) of a split, file `number` of `count`."""

    split: str
    start: int
    stop: int
    number: int
    count: int

    @property
    def filename(self) -> str:
        return f"codes-{self.split}.array_record-{self.number:05d}-of-{self.count:05d}"


def missing_shards(path: storage.Where, spec: CodesSpec) -> list[Shard]:
    """Starts the dataset at `path`, or resumes it: the files still to be written.

    Raises:
        InputError: `path` holds the codes of another dataset or tokenizer.
    """
    path = storage.path(path)
    record, wanted = path / SPEC_FILE, _to_json(spec)
    if record.exists():
        if (found := json.loads(record.read_text())) != json.loads(wanted):
            fields = ", ".join(sorted(k for k in found if found[k] != json.loads(wanted).get(k)))
            raise InputError(
                f"{path} holds the codes of another run (different: {fields}); remove it or "
                "choose another directory."
            )
    else:
        storage.write_text(record, wanted)
    present = {file.name for file in path.iterdir()}
    return [shard for shard in spec.shards() if shard.filename not in present]


def write_shard(
    path: storage.Where, spec: CodesSpec, shard: Shard, codes: np.ndarray, labels: np.ndarray
) -> None:
    """Writes one file; it appears under its name only when it is complete.

    Args:
        path: directory of the dataset.
        spec: as given to `missing_shards`.
        shard: which file, one of `missing_shards`.
        codes: integers [stop - start, V, N] in [0, codebook_size).
        labels: integers [stop - start].
    """
    features = spec.features
    codes = np.asarray(codes).astype(features["codes"].np_dtype)
    if codes.shape != (shard.stop - shard.start, *spec.shape):
        raise ValueError(f"{codes.shape=} does not fit {shard} of {spec.shape=}")
    with storage.whole(storage.path(path) / shard.filename) as file:
        # One record per group, which is what random access needs.
        writer = ArrayRecordWriter(str(file), "group_size:1")
        for index, code, label in zip(
            range(shard.start, shard.stop), codes, np.asarray(labels), strict=True
        ):
            writer.write(
                features.serialize_example({"codes": code, "label": int(label), "index": index})
            )
        writer.close()


def finalize(path: storage.Where, spec: CodesSpec) -> None:
    """Writes the TFDS metadata that makes the directory readable. Idempotent.

    Raises:
        InputError: files are still missing.
    """
    path = storage.path(path)
    if missing := missing_shards(path, spec):
        raise InputError(
            f"{path} lacks {len(missing)} of {len(spec.shards())} files; run encode again to "
            "write them."
        )
    for leftover in path.glob(".codes-*"):
        leftover.unlink()
    by_split = itertools.groupby(spec.shards(), key=lambda shard: shard.split)
    tfds.folder_dataset.write_metadata(
        data_dir=path,
        features=spec.features,
        split_infos=[_split_info(path, split, list(shards)) for split, shards in by_split],
        check_data=False,  # it would import TensorFlow
        description="Tokenizer codes of images, written by lpd_jax.",
        metadata=tfds.core.MetadataDict(json.loads(_to_json(spec))),
    )


def is_finished(path: storage.Where, spec: CodesSpec) -> bool:
    """Whether `finalize` has come to its end: the dataset can be read and is that of `spec`."""
    try:
        return _to_json(read_spec(path)) == _to_json(spec)
    except InputError:
        return False


def read_spec(path: storage.Where, expect_tokenizer: Mapping[str, Any] | None = None) -> CodesSpec:
    """What the finished dataset at `path` holds.

    Raises:
        InputError: absent, unfinished, or made by a tokenizer other than `expect_tokenizer`.
    """
    builder = _builder(path)
    try:
        fields = dict(builder.info.metadata)
        spec = CodesSpec(**fields | {k: tuple(fields[k]) for k in ("grid", "class_names")})
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} is a TFDS dataset but not one of codes; run encode into a directory of "
            "its own."
        ) from error
    if expect_tokenizer is not None and spec.tokenizer != json.loads(
        json.dumps(dict(expect_tokenizer))
    ):
        raise InputError(
            f"The codes at {path} were made by another tokenizer; run encode again into another "
            "directory, or use the tokenizer that made them."
        )
    return spec


class CodesSource:
    """Random access to the codes on disk, for datasets that outgrow memory.

    A Grain `RandomAccessDataSource`; record `i` is `{"codes": int32 [V, N], "label": int32,
    "index": int64}`. About 25 us a record; `load_codes` is faster where memory allows.

    Raises:
        InputError: as `read_spec`; the split does not exist; a file is missing or truncated; the
            dataset is in a bucket.
    """

    def __init__(
        self, path: storage.Where, split: str, expect_tokenizer: Mapping[str, Any] | None = None
    ):
        if storage.in_bucket(path):
            raise InputError(
                f"{path} cannot be read at random; copy the dataset to a local disk, or read it "
                "whole with load_codes."
            )
        self.spec, shards = _spec_of_split(path, split, expect_tokenizer)
        for shard in shards:
            with _open(storage.path(path) / shard.filename, shard):
                pass
        self.class_names = self.spec.class_names
        self._records = _builder(path).as_data_source(split=split)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return _unpack(self._records[i])

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [_unpack(record) for record in self._records.__getitems__(indices)]

    def __repr__(self) -> str:
        return f"CodesSource({len(self)} images, codes {self.spec.shape})"


def load_codes(
    path: storage.Where, split: str, expect_tokenizer: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """A whole split in memory: `codes` int32 [M, V, N], `label` int32 [M], `index` int64 [M].

    `lpd_jax.data.sources.Arrays` makes a Grain source of it.

    Raises:
        InputError: as `read_spec`; the split does not exist; a file is missing or truncated.
    """
    spec, shards = _spec_of_split(path, split, expect_tokenizer)
    features, size = spec.features, spec.split_sizes[split]
    arrays = {
        "codes": np.empty((size, *spec.shape), np.int32),
        "label": np.empty(size, np.int32),
        "index": np.empty(size, np.int64),
    }
    for shard in shards:
        with _open(storage.path(path) / shard.filename, shard) as reader:
            for start in range(0, shard.stop - shard.start, 4_096):
                stop = min(start + 4_096, shard.stop - shard.start)
                for row, record in enumerate(reader.read(start, stop), shard.start + start):
                    values = _unpack(features.deserialize_example_np(record))
                    for name, array in arrays.items():
                        array[row] = values[name]
    return arrays


def first_views(path: storage.Where, split: str) -> dict[str, np.ndarray]:
    """Of each image of a split the first view, which is not flipped: `codes` [M, N], `label` [M].

    Raises:
        InputError: as `load_codes`.
    """
    arrays = load_codes(path, split)
    return {"codes": arrays["codes"][:, 0], "label": arrays["label"]}


def _spec_of_split(
    path: storage.Where, split: str, expect_tokenizer: Mapping[str, Any] | None
) -> tuple[CodesSpec, list[Shard]]:
    spec = read_spec(path, expect_tokenizer)
    if split not in spec.split_sizes:
        raise InputError(
            f"The codes at {path} have no split {split!r}; choose one of "
            f"{', '.join(spec.split_sizes)}."
        )
    return spec, [shard for shard in spec.shards() if shard.split == split]


def _to_json(spec: CodesSpec) -> str:
    return json.dumps(dataclasses.asdict(spec), indent=1, sort_keys=True)


def _split_info(path: storage.Path, split: str, shards: list[Shard]) -> tfds.core.SplitInfo:
    return tfds.core.SplitInfo(
        name=split,
        shard_lengths=[shard.stop - shard.start for shard in shards],
        num_bytes=sum(storage.size(path / shard.filename) for shard in shards),
        filename_template=tfds.core.ShardedFileTemplate(
            data_dir=path, dataset_name="codes", split=split, filetype_suffix="array_record"
        ),
    )


def _builder(path: storage.Where) -> tfds.core.DatasetBuilder:
    path = storage.path(path)
    try:
        return tfds.builder_from_directory(path)
    except (OSError, ValueError) as error:
        state = "unfinished" if (path / SPEC_FILE).exists() else "absent"
        raise InputError(
            f"The code dataset at {path} is {state}; run encode to write it."
        ) from error


@contextlib.contextmanager
def _open(file: storage.Path, shard: Shard) -> Iterator[ArrayRecordReader]:
    """A reader of a whole file. A damaged one has no readable footer and counts as 0 records."""
    with contextlib.ExitStack() as stack:
        try:
            reader = ArrayRecordReader(str(stack.enter_context(storage.local(file))))
            records = reader.num_records()
        except (OSError, RuntimeError, ValueError):
            records = 0
        if records != shard.stop - shard.start:
            raise InputError(f"{file} is missing or truncated; remove it and run encode again.")
        stack.callback(reader.close)  # not before: it raises for a damaged file
        yield reader


def _unpack(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "codes": record["codes"].astype(np.int32),
        "label": np.int32(record["label"]),
        "index": np.int64(record["index"]),
    }
