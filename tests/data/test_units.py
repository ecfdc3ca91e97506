"""Who writes which files."""

import dataclasses
import subprocess
import sys
import threading
import time
import types

import numpy as np

from lpd_jax import storage
from lpd_jax.data import codes, units
from lpd_jax.data.units import Units

SPEC = codes.CodesSpec(
    tokenizer={"sha256": "abc"},
    grid=(1, 1),
    codebook_size=9,
    views=1,
    class_names=("auk",),
    split_sizes={"train": 30, "heldout": 3},
    shard_size=1,
)


def work(path, process, count, spec=SPEC, delay=0.0):
    """Numbers of files that were taken at a time, and the images that were written."""
    mine, sizes, written = Units(path, spec, process, count), [], []
    for taken in mine:
        sizes.append(len(taken))
        for unit in taken:
            time.sleep(delay)
            shape = (unit.stop - unit.start, *spec.shape)
            codes.write_shard(path, spec, unit, np.zeros(shape, int), np.zeros(shape[0], int))
            written.append((unit.split, unit.start))
            mine.written(unit)
    return sizes, written


def test_parts_get_smaller_and_every_file_is_written_once(tmp_path):
    sizes, written = work(tmp_path, 0, 1)
    assert sizes == [17, 8, 4, 2, 1, 1] and len(written) == len(set(written)) == 33
    codes.finalize(tmp_path, SPEC)
    assert work(tmp_path, 0, 1) == ([], [])


def test_the_fast_do_more_and_nobody_does_anything_twice(tmp_path):
    codes.missing_shards(tmp_path, SPEC)
    found = {}
    threads = [
        threading.Thread(
            target=lambda i=i, d=d: found.update({i: work(tmp_path, i, 2, delay=d)[1]})
        )
        for i, d in enumerate((0.0, 0.05))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found[0] + found[1]) == sorted((s.split, s.start) for s in SPEC.shards())
    assert len(found[0]) > len(found[1]) > 0


def test_what_a_process_that_died_had_taken_is_taken_over(tmp_path):
    spec = dataclasses.replace(SPEC, split_sizes={"train": 4})
    name = str(tmp_path / spec.shards()[2].filename)
    codes.missing_shards(tmp_path, spec)
    program = (
        "import sys, time; from lpd_jax import storage\n"
        f"with storage.locked({name!r}):\n    print('has it', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"has it\n"
    timer = threading.Timer(1.0, other.kill)
    timer.start()
    begin = time.monotonic()
    sizes, written = work(tmp_path, 0, 1, spec)
    assert time.monotonic() - begin > 0.9 and other.wait() < 0
    assert written[-1] == ("train", 2) and len(written) == 4 and sizes[-1] == 1


def test_in_a_bucket_files_are_dealt_by_number(tmp_path, monkeypatch):
    bucket = types.SimpleNamespace(in_bucket=lambda _: True, locked=storage.locked)
    monkeypatch.setattr(units, "storage", bucket)
    spec = dataclasses.replace(SPEC, split_sizes={"train": 5})
    assert sorted(start for _, start in work(tmp_path, 1, 2, spec)[1]) == [1, 3]
    assert sorted(start for _, start in work(tmp_path, 0, 2, spec)[1]) == [0, 2, 4]
