"""What was seen in a stream of images, whatever its batches and however often it was stopped."""

import dataclasses
import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpd_jax.errors import InputError
from lpd_jax.evaluation.looking import AT_ONCE, Extractor, FeatureNetwork
from lpd_jax.evaluation.units import UNIT, Units, fill

COUNT = 2 * UNIT + 100


class Features(NamedTuple):
    pool3: jax.Array
    spatial: jax.Array
    logits: jax.Array


def project(weights, images):
    """A network with the names of Inception-v3, of few features."""
    flat = images.reshape(len(images), -1).astype(jnp.float32) / 127.5 - 1
    hidden = jax.nn.relu(jnp.matmul(flat, weights["in"], precision="highest"))
    return Features(hidden, hidden[:, :5] ** 2, jnp.matmul(hidden, weights["out"]))


def network(seed=0, side=4):
    rng = np.random.default_rng(seed)
    weights = {
        "in": rng.normal(size=(side * side * 3, 12)).astype(np.float32),
        "out": rng.normal(size=(12, 7)).astype(np.float32),
    }
    return FeatureNetwork("random projection", f"seed {seed}", project, weights)


@functools.cache
def extractor():
    return Extractor(network())


@dataclasses.dataclass
class Batch:
    rows: np.ndarray
    images: np.ndarray


IMAGES = np.random.default_rng(1).integers(0, 256, (COUNT, 4, 4, 3), dtype=np.uint8)


class Stopped(Exception):
    pass


def stream(size, made=None, stop=None):
    """Batches of the images; notes what it makes, and ends in an exception before image `stop`."""

    def run(first):
        for start in range(first, COUNT, size):
            rows = np.arange(start, min(COUNT, start + size))
            if stop is not None and rows[-1] >= stop:
                raise Stopped
            if made is not None:
                made.extend(rows.tolist())
            yield Batch(rows - first, IMAGES[rows])

    return run


def seen(units):
    parts = [*units.read()]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    units = Units(tmp_path_factory.mktemp("whole"), COUNT)
    fill(units, extractor(), stream(64))
    return seen(units)


def test_features_are_those_of_the_network(wanted):
    found = project(network().params, jnp.asarray(IMAGES))
    for name, array in found._asdict().items():
        assert wanted[name].dtype == np.float32
        np.testing.assert_allclose(wanted[name], array, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("size", [1, 7, 300, COUNT])
def test_batches_change_no_bit(tmp_path, wanted, size):
    units = Units(tmp_path, COUNT)
    fill(units, extractor(), stream(size))
    for name, array in seen(units).items():
        np.testing.assert_array_equal(array, wanted[name])


def test_devices_change_no_bit(wanted, monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    alone = Extractor(network())
    assert alone.at_once == AT_ONCE and extractor().at_once == 8 * AT_ONCE
    for name, array in alone(IMAGES).items():
        np.testing.assert_array_equal(array, wanted[name])


def test_what_is_stopped_goes_on_after_the_last_finished_batch(tmp_path, wanted):
    units, kept, made = Units(tmp_path, COUNT), [], []
    with pytest.raises(Stopped):
        fill(units, extractor(), stream(50, made, stop=UNIT + 150))
    assert units.finished() == max(made) + 1 == 400
    assert names(tmp_path) == ["0-300.0-1", "300-350.0-1", "350-400.0-1"]
    made.clear()
    fill(units, extractor(), stream(7, made), lambda rows, images: kept.extend(rows.tolist()))
    assert made == kept == list(range(400, COUNT))
    for name, array in seen(units).items():
        np.testing.assert_array_equal(array, wanted[name])
    made.clear()
    fill(units, extractor(), stream(7, made))
    assert not made


def test_single_images_are_joined_to_a_file_for_256(tmp_path):
    fill(Units(tmp_path, COUNT), extractor(), stream(1))
    assert names(tmp_path) == ["0-256.0-1", "256-512.0-1", "512-612.0-1"]


def names(directory):
    """Of the files, without the zeros in front of their numbers."""
    found = (re.sub(r"(^|-)0+(?=\d{1,8}[-.])", r"\1", x.stem) for x in directory.glob("*.npz"))
    return sorted(found, key=lambda name: int(name.partition("-")[0]))


def as_process(monkeypatch, index, count):
    monkeypatch.setattr(jax, "process_count", lambda: count)
    monkeypatch.setattr(jax, "process_index", lambda: index)


def test_batches_that_not_all_processes_have_count_for_nothing(tmp_path, wanted, monkeypatch):
    """Two processes, of which one dies while it joins its files; then one."""
    units, found = Units(tmp_path, COUNT), extractor()(IMAGES)

    def write(start, stop, own):
        units.write(start, stop, own, {name: array[own] for name, array in found.items()})

    for index, stops in ((0, (100, 200, 300, 400)), (1, (100, 200, 300))):
        as_process(monkeypatch, index, 2)
        start = 0
        for stop in stops:
            write(start, stop, np.arange(start + index, stop, 2))
            start = stop
    as_process(monkeypatch, 0, 2)
    write(0, 300, np.arange(0, 300, 2))
    units.remove(0, 100)
    monkeypatch.undo()
    assert units.finished() == 300
    assert names(tmp_path) == ["0-100.1-2", "0-300.0-2", "100-200.1-2", "200-300.1-2"]
    made = []
    fill(units, extractor(), stream(64, made))
    assert made == list(range(300, COUNT))
    for name, array in seen(units).items():
        np.testing.assert_array_equal(array, wanted[name])
    (tmp_path / "000000100-000000200.1-2.npz").unlink()
    assert units.finished() == 0  # the first process has no file that ends at 100


def test_images_that_are_there_twice_are_noticed(tmp_path):
    units = Units(tmp_path, COUNT)
    fill(units, extractor(), stream(300))
    (file,) = tmp_path.glob("*-000000300.*")
    rows = np.append(np.arange(1, 300), 7)
    np.savez(file, rows=rows, **extractor()(IMAGES[rows]))
    with pytest.raises(InputError, match="not of images 0 to 255, each once"):
        [*units.read()]


def test_a_damaged_file_is_named(tmp_path):
    units = Units(tmp_path, COUNT)
    fill(units, extractor(), stream(64))
    (file,) = tmp_path.glob("000000256-*")
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"000512\.0-1\.npz is damaged .* run the same command"):
        [*units.read()]
    file.unlink()
    with pytest.raises(InputError, match=r"not of images 256 to 611"):
        [*units.read()]
    assert units.finished() == 256


def test_arrays_are_mapped(tmp_path, wanted):
    units = Units(tmp_path / "units", COUNT)
    fill(units, extractor(), stream(64))
    arrays = units.mapped(("pool3", "logits"), tmp_path)
    for name, array in arrays.items():
        assert isinstance(array, np.memmap)
        np.testing.assert_array_equal(array, wanted[name])


def test_twenty_kills_lose_no_image_and_count_none_twice(tmp_path):
    """`tests/evaluation/kills.py`, which compares; here: what a kill costs."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.evaluation.kills", tmp_path, "20"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kills, count, again = map(int, done.stdout.split()[-3:])
    assert (kills, count) == (20, 40 * UNIT + 11)
    assert 0 < again <= kills * 50  # a batch
