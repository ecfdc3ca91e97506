import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from lpd_jax.data.codes import (
    CodesSource,
    CodesSpec,
    finalize,
    load_codes,
    missing_shards,
    read_spec,
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


def _dataset(path, spec=SPEC):
    _write(path, spec, missing_shards(path, spec))
    finalize(path, spec)
    return path


@pytest.mark.parametrize("codebook_size", [2, 65_536, 65_537, 2**18])
def test_round_trip(tmp_path, codebook_size):
    spec = dataclasses.replace(SPEC, codebook_size=codebook_size)
    _dataset(tmp_path, spec)
    for split, size in spec.split_sizes.items():
        codes, labels = _data(spec, split)
        arrays = load_codes(tmp_path, split)
        assert [arrays[k].dtype for k in ("codes", "label", "index")] == ["i4", "i4", "i8"]
        np.testing.assert_array_equal(arrays["codes"], codes)
        np.testing.assert_array_equal(arrays["label"], labels)
        np.testing.assert_array_equal(arrays["index"], np.arange(size))
        source = CodesSource(tmp_path, split)
        assert len(source) == size and source.class_names == spec.class_names
        np.testing.assert_array_equal(source[size - 1]["codes"], codes[-1])
        assert source[0]["codes"].dtype == source[0]["label"].dtype == np.int32
    assert read_spec(tmp_path) == spec


def test_is_a_tfds_dataset(tmp_path):
    builder = tfds.builder_from_directory(_dataset(tmp_path))
    assert builder.info.splits["train"].num_examples == 25
    assert builder.info.splits["train"].num_shards == 3
    assert builder.info.features["label"].names == ["auk", "wren", "owl"]
    record = builder.as_data_source(split="train")[3]
    np.testing.assert_array_equal(record["codes"], _data(SPEC, "train")[0][3])


def test_needs_no_tensorflow(tmp_path):
    _dataset(tmp_path)
    program = (
        "import sys; from lpd_jax.data.codes import load_codes; "
        f"load_codes({str(tmp_path)!r}, 'train'); "
        "sys.exit('tensorflow' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_resumes_file_by_file(tmp_path):
    shards = missing_shards(tmp_path, SPEC)
    assert len(shards) == len({s.filename for s in shards}) == 4
    _write(tmp_path, SPEC, shards[1:3])
    assert missing_shards(tmp_path, SPEC) == [shards[0], shards[3]]
    with pytest.raises(InputError, match="lacks 2 of 4 files"):
        finalize(tmp_path, SPEC)
    with pytest.raises(InputError, match="is unfinished"):
        CodesSource(tmp_path, "train")
    _dataset(tmp_path)
    np.testing.assert_array_equal(load_codes(tmp_path, "train")["codes"], _data(SPEC, "train")[0])


def test_interrupted_file_does_not_count(tmp_path):
    shard = missing_shards(tmp_path, SPEC)[0]
    codes, labels = _data(SPEC, "train")
    with pytest.raises(ValueError):
        write_shard(tmp_path, SPEC, shard, codes[:10], labels[:5])
    assert shard in missing_shards(tmp_path, SPEC)
    _dataset(tmp_path)
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(".")]


def test_resuming_another_dataset_is_refused(tmp_path):
    missing_shards(tmp_path, SPEC)
    with pytest.raises(InputError, match="different: tokenizer"):
        missing_shards(tmp_path, dataclasses.replace(SPEC, tokenizer={"sha256": "xyz"}))


def test_codes_of_another_tokenizer_are_refused(tmp_path):
    _dataset(tmp_path)
    assert read_spec(tmp_path, expect_tokenizer=SPEC.tokenizer) == SPEC
    with pytest.raises(InputError, match="another tokenizer"):
        load_codes(tmp_path, "train", expect_tokenizer={"sha256": "xyz"})


def test_damage_is_found_before_training(tmp_path):
    _dataset(tmp_path)
    file = tmp_path / SPEC.shards()[1].filename
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=f"{file.name} is missing or truncated"):
        CodesSource(tmp_path, "train")
    file.unlink()
    with pytest.raises(InputError, match=f"{file.name} is missing or truncated"):
        load_codes(tmp_path, "train")
    assert len(CodesSource(tmp_path, "heldout")) == 7


def test_bad_paths_and_splits(tmp_path):
    with pytest.raises(InputError, match="is absent"):
        read_spec(tmp_path / "nothing")
    _dataset(tmp_path)
    with pytest.raises(InputError, match="no split 'test'"):
        CodesSource(tmp_path, "test")
