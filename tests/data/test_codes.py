import dataclasses
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from lpd_jax.data.codes import (
    SKIPPED,
    CodesSpec,
    finalize,
    first_views,
    load_codes,
    missing_shards,
    read_spec,
    skipped,
    write_shard,
)
from lpd_jax.errors import InputError

SPEC = CodesSpec(
    tokenizer={"sha256": "abc", "config": {"width": 32, "multipliers": [1, 2]}},
    grid=(2, 3),
    codebook_size=300,
    views=2,
    class_names=("auk", "wren", "owl"),
    split_sizes={"train": 25, "heldout": 7},
    shard_size=10,
)


def _data(spec, split):
    rng = np.random.default_rng(len(split))
    size = spec.split_sizes[split]
    return rng.integers(0, spec.codebook_size, (size, *spec.shape)), rng.integers(0, 3, size)


def _write(path, spec, shards):
    for shard in shards:
        codes, labels = _data(spec, shard.split)
        rows = slice(shard.start, shard.stop)
        write_shard(path, spec, shard, codes[rows], labels[rows])


def dataset(path, spec=SPEC):
    _write(path, spec, missing_shards(path, spec))
    finalize(path, spec)
    return path


@pytest.mark.parametrize("codebook_size", [2, 65_536, 65_537, 2**18])
def test_round_trip(tmp_path, codebook_size):
    spec = dataclasses.replace(SPEC, codebook_size=codebook_size)
    dataset(tmp_path, spec)
    for split, size in spec.split_sizes.items():
        codes, labels = _data(spec, split)
        arrays = load_codes(tmp_path, split)
        stored = "u2" if codebook_size <= 65_536 else "i4"
        assert [arrays[k].dtype for k in ("codes", "label", "index")] == [stored, "i4", "i8"]
        np.testing.assert_array_equal(arrays["codes"], codes)
        np.testing.assert_array_equal(arrays["label"], labels)
        np.testing.assert_array_equal(arrays["index"], np.arange(size))
        views = first_views(tmp_path, split)
        np.testing.assert_array_equal(views["codes"], codes[:, 0])
        assert views["codes"].dtype == views["label"].dtype == np.int32
    assert read_spec(tmp_path) == spec


def test_is_a_tfds_dataset(tmp_path):
    builder = tfds.builder_from_directory(dataset(tmp_path))
    assert builder.info.splits["train"].num_examples == 25
    assert builder.info.splits["train"].num_shards == 3
    assert builder.info.features["label"].names == ["auk", "wren", "owl"]
    record = builder.as_data_source(split="train")[3]
    np.testing.assert_array_equal(record["codes"], _data(SPEC, "train")[0][3])


def test_resumes_file_by_file(tmp_path):
    shards = missing_shards(tmp_path, SPEC)
    assert len(shards) == len({s.filename for s in shards}) == 4
    _write(tmp_path, SPEC, shards[1:3])
    assert missing_shards(tmp_path, SPEC) == [shards[0], shards[3]]
    with pytest.raises(InputError, match="lacks 2 of 4 files"):
        finalize(tmp_path, SPEC)
    with pytest.raises(InputError, match="is unfinished"):
        load_codes(tmp_path, "train")
    dataset(tmp_path)
    np.testing.assert_array_equal(load_codes(tmp_path, "train")["codes"], _data(SPEC, "train")[0])


def test_interrupted_file_does_not_count(tmp_path):
    shard = missing_shards(tmp_path, SPEC)[0]
    codes, labels = _data(SPEC, "train")
    with pytest.raises(ValueError):
        write_shard(tmp_path, SPEC, shard, codes[:10], labels[:5])
    assert shard in missing_shards(tmp_path, SPEC)
    dataset(tmp_path)
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(".")]


def test_resuming_another_dataset_is_refused(tmp_path):
    missing_shards(tmp_path, SPEC)
    with pytest.raises(InputError, match="different: tokenizer"):
        missing_shards(tmp_path, dataclasses.replace(SPEC, tokenizer={"sha256": "xyz"}))


def test_codes_of_another_tokenizer_are_refused(tmp_path):
    dataset(tmp_path)
    assert read_spec(tmp_path, expect_tokenizer=SPEC.tokenizer) == SPEC
    with pytest.raises(InputError, match="another tokenizer"):
        load_codes(tmp_path, "train", expect_tokenizer={"sha256": "xyz"})


def test_damage_is_found_before_training(tmp_path):
    dataset(tmp_path)
    file = tmp_path / SPEC.shards()[1].filename
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=f"{file.name} is missing or truncated"):
        load_codes(tmp_path, "train")
    file.unlink()
    with pytest.raises(InputError, match=f"{file.name} is missing or truncated"):
        load_codes(tmp_path, "train")
    assert len(load_codes(tmp_path, "heldout")["label"]) == 7


def test_bad_paths_and_splits(tmp_path):
    with pytest.raises(InputError, match="is absent"):
        read_spec(tmp_path / "nothing")
    dataset(tmp_path)
    with pytest.raises(InputError, match="no split 'test'"):
        load_codes(tmp_path, "test")


def test_images_that_could_not_be_read_have_no_record_and_are_listed(tmp_path):
    first, *others = missing_shards(tmp_path, SPEC)
    _write(tmp_path, SPEC, others)
    codes, labels = _data(SPEC, "train")
    good = np.array([0, 1, 2, 4, 5, 6, 7, 8])
    bad = [{"index": i, "path": f"{i}.png", "reason": "damaged"} for i in (3, 9)]
    with pytest.raises(ValueError, match="does not fit"):  # one of them forgotten
        write_shard(tmp_path, SPEC, first, codes[good], labels[good], good, bad[:1])
    write_shard(tmp_path, SPEC, first, codes[good], labels[good], good, bad)
    finalize(tmp_path, SPEC)
    arrays = load_codes(tmp_path, "train")
    kept = np.delete(np.arange(25), [3, 9])
    np.testing.assert_array_equal(arrays["index"], kept)
    np.testing.assert_array_equal(arrays["codes"], codes[kept])
    np.testing.assert_array_equal(arrays["label"], labels[kept])
    assert [json.loads(row) for row in (tmp_path / SKIPPED).read_text().splitlines()] == bad
    records = tfds.builder_from_directory(tmp_path).as_data_source(split="train")
    assert len(records) == 23 and records[22]["index"] == 24
    # Mended, and written again.
    (tmp_path / first.filename).unlink()
    write_shard(tmp_path, SPEC, first, codes[:10], labels[:10])
    finalize(tmp_path, SPEC)
    assert len(load_codes(tmp_path, "train")["label"]) == 25 and skipped(tmp_path, [first]) == {}


def test_a_split_of_which_nothing_could_be_read_is_refused(tmp_path):
    *others, last = missing_shards(tmp_path, SPEC)
    _write(tmp_path, SPEC, others)
    nothing = np.zeros((0, *SPEC.shape), int)
    write_shard(tmp_path, SPEC, last, nothing, [], [], [{"path": "x.png"}] * 7)
    with pytest.raises(InputError, match="no image of the heldout split could be read"):
        finalize(tmp_path, SPEC)


def test_a_dataset_from_before_crops_and_manifests_goes_on(tmp_path):
    dataset(tmp_path)
    record = tmp_path / "spec.json"
    fields = json.loads(record.read_text())
    record.write_text(json.dumps({k: v for k, v in fields.items() if k not in ("crop", "source")}))
    assert missing_shards(tmp_path, SPEC) == []
    with pytest.raises(InputError, match="different: crop"):
        missing_shards(tmp_path, dataclasses.replace(SPEC, crop="ten"))
