"""The code dataset: what a tokenizer made of every image, as TFDS with ArrayRecord files.

Written shard by shard, each complete or absent, by any number of processes; readable by
`tfds.builder_from_directory(path).as_data_source(split)`; TensorFlow is never imported. The
dataset's metadata names the tokenizer, so that codes of another one are refused. In a bucket, the
files are written and read one by one through local copies, as ArrayRecord knows no buckets.

An image that could not be read has no record: `skipped/` lists those of each file, `skipped.jsonl`
all of them.

M images of a split, V views of each (plain; plain and flipped; ten crops), N tokens = h * w.
"""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from lpd_jax import storage
from lpd_jax.errors import InputError

SPEC_FILE = "spec.json"
SKIPPED = "skipped.jsonl"
_SKIPPED = "skipped"  # directory


@dataclasses.dataclass(frozen=True)
class CodesSpec:
    """What a code dataset holds.

    Attributes:
        tokenizer: identity of the tokenizer, JSON data: a fingerprint of its weights, its config.
        grid: (h, w).
        codebook_size: codes are in [0, codebook_size).
        views: V.
        class_names: what the labels mean.
        split_sizes: images in each split, those that could not be read included.
        shard_size: images in each file but the last of a split.
        crop: how an image became square: "center", or "ten" for the ten of `encode.ten_crop`.
        source: split -> SHA-256 of the list of its files (`data.manifest`).
    """

    tokenizer: Mapping[str, Any]
    grid: tuple[int, int]
    codebook_size: int
    views: int
    class_names: tuple[str, ...]
    split_sizes: Mapping[str, int]
    shard_size: int = 1024
    crop: str = "center"
    source: Mapping[str, str] = dataclasses.field(default_factory=dict)

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
        found, new = _DEFAULTS | json.loads(record.read_text()), json.loads(wanted)
        if found != new:
            fields = ", ".join(sorted(name for name in new if found.get(name) != new[name]))
            raise InputError(
                f"{path} holds the codes of another run (different: {fields}); remove it or "
                "choose another directory."
            )
    else:
        storage.write_text(record, wanted)
    present = {file.name for file in path.iterdir()}
    return [shard for shard in spec.shards() if shard.filename not in present]


def write_shard(
    path: storage.Where,
    spec: CodesSpec,
    shard: Shard,
    codes: np.ndarray,
    labels: np.ndarray,
    index: np.ndarray | None = None,
    skipped: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Writes one file; it appears under its name only when it is complete.

    Args:
        path: directory of the dataset.
        spec: as given to `missing_shards`.
        shard: which file, one of `missing_shards`.
        codes: integers [M, V, N] in [0, codebook_size), of its images that could be read.
        labels: integers [M].
        index: integers [M], which images of the split they are; all of the shard when None.
        skipped: JSON data on each of the others, which make up the rest of the shard.
    """
    features = spec.features
    codes = np.asarray(codes).astype(features["codes"].np_dtype)
    index = np.arange(shard.start, shard.stop) if index is None else np.asarray(index)
    if codes.shape != (shard.stop - shard.start - len(skipped), *spec.shape):
        raise ValueError(f"{codes.shape=} does not fit {shard} of {spec.shape=}")
    beside = _skipped_file(path, shard)
    if skipped:  # there before the file that lacks them
        storage.write_text(beside, "".join(f"{json.dumps(row)}\n" for row in skipped))
    elif beside.exists():  # they could not be read when this file was written before
        beside.unlink()
    with storage.whole(storage.path(path) / shard.filename) as file:
        # One record per group, which is what random access needs.
        writer = ArrayRecordWriter(str(file), "group_size:1")
        for i, code, label in zip(index, codes, np.asarray(labels), strict=True):
            writer.write(
                features.serialize_example({"codes": code, "label": int(label), "index": int(i)})
            )
        writer.close()


def skipped(path: storage.Where, shards: Iterable[Shard]) -> dict[str, list[dict[str, Any]]]:
    """Filename of each shard that lacks images -> what is known of each."""
    directory = storage.path(path) / _SKIPPED
    if not directory.is_dir():
        return {}
    there, found = {file.name for file in directory.iterdir()}, {}
    for shard in shards:
        if (file := _skipped_file(path, shard)).name in there:
            found[shard.filename] = [json.loads(row) for row in file.read_text().splitlines()]
    return found


def list_skipped(
    path: storage.Where, spec: CodesSpec, lacking: Mapping[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Writes `skipped.jsonl`, if there are any, and returns its rows; `lacking` as of `skipped`."""
    rows = [row for shard in spec.shards() for row in lacking.get(shard.filename, ())]
    if rows:
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        storage.write_text(storage.path(path) / SKIPPED, text)
    return rows


def _skipped_file(path: storage.Where, shard: Shard) -> storage.Path:
    return storage.path(path) / _SKIPPED / f"{shard.filename}.jsonl"


def finalize(path: storage.Where, spec: CodesSpec) -> None:
    """Writes the TFDS metadata that makes the directory readable. Idempotent.

    Raises:
        InputError: files are still missing, or no image of a split could be read.
    """
    path = storage.path(path)
    if missing := missing_shards(path, spec):
        raise InputError(
            f"{path} lacks {len(missing)} of {len(spec.shards())} files; run encode again to "
            "write them."
        )
    for leftover in path.glob(".codes-*"):
        leftover.unlink(missing_ok=True)
    lacking = skipped(path, spec.shards())
    list_skipped(path, spec, lacking)
    by_split = itertools.groupby(spec.shards(), key=lambda shard: shard.split)
    tfds.folder_dataset.write_metadata(
        data_dir=path,
        features=spec.features,
        split_infos=[_split_info(path, split, list(shards), lacking) for split, shards in by_split],
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


def load_codes(
    path: storage.Where, split: str, expect_tokenizer: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """A whole split in memory: `codes` [M, V, N], `label` int32 [M], `index` int64 [M].

    Codes are uint16, or int32 for a codebook of more than 65,536. `index` has gaps where an image
    could not be read. `lpd_jax.data.sources.Arrays` makes a Grain source of it.

    Raises:
        InputError: as `read_spec`; the split does not exist; a file is missing or truncated.
    """
    spec = read_spec(path, expect_tokenizer)
    if split not in spec.split_sizes:
        raise InputError(
            f"The codes at {path} have no split {split!r}; choose one of "
            f"{', '.join(spec.split_sizes)}."
        )
    shards = [shard for shard in spec.shards() if shard.split == split]
    lengths = _builder(path).info.splits[split].shard_lengths
    dtype, size = spec.features["codes"].np_dtype, sum(lengths)
    arrays = {
        "codes": np.empty((size, *spec.shape), dtype),
        "label": np.empty(size, np.int32),
        "index": np.empty(size, np.int64),
    }
    row = 0
    for shard, length in zip(shards, lengths, strict=True):
        with _open(storage.path(path) / shard.filename, length) as reader:
            for start in range(0, length, 4_096):
                for record in reader.read(start, min(start + 4_096, length)):
                    # What the features' own `deserialize_example_np` does in six times the time.
                    found = tf_example_pb2.Example.FromString(record).features.feature
                    codes = np.frombuffer(found["codes"].bytes_list.value[0], dtype)
                    arrays["codes"][row] = codes.reshape(spec.shape)
                    for name in ("label", "index"):
                        arrays[name][row] = found[name].int64_list.value[0]
                    row += 1
    return arrays


def first_views(path: storage.Where, split: str) -> dict[str, np.ndarray]:
    """Of each image of a split the first view, which is not flipped: int32.

    `codes` [M, N] and `label` [M].

    Raises:
        InputError: as `load_codes`.
    """
    arrays = load_codes(path, split)
    return {"codes": arrays["codes"][:, 0].astype(np.int32), "label": arrays["label"]}


def _to_json(spec: CodesSpec) -> str:
    return json.dumps(dataclasses.asdict(spec), indent=1, sort_keys=True)


def _split_info(
    path: storage.Path, split: str, shards: list[Shard], lacking: Mapping[str, Sized]
) -> tfds.core.SplitInfo:
    lengths = [s.stop - s.start - len(lacking.get(s.filename, ())) for s in shards]
    if not sum(lengths):
        raise InputError(
            f"no image of the {split} split could be read; see {path / _SKIPPED}, and add images."
        )
    return tfds.core.SplitInfo(
        name=split,
        shard_lengths=lengths,
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
def _open(file: storage.Path, length: int) -> Iterator[ArrayRecordReader]:
    """A reader of a whole file. A damaged one has no readable footer and counts as no records."""
    with contextlib.ExitStack() as stack:
        try:
            reader = ArrayRecordReader(str(stack.enter_context(storage.local(file))))
            records = reader.num_records()
        except (OSError, RuntimeError, ValueError):
            records = -1
        if records != length:
            raise InputError(f"{file} is missing or truncated; remove it and run encode again.")
        stack.callback(reader.close)  # not before: it raises for a damaged file
        yield reader


# What a dataset that was begun before a field existed is taken to have there.
_DEFAULTS = {
    field.name: field.default if field.default_factory is dataclasses.MISSING else {}
    for field in dataclasses.fields(CodesSpec)
    if field.name in ("crop", "source")
}
