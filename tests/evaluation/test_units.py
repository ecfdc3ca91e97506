"""What was seen in a stream of images, whatever its batches and however often it was stopped."""

import dataclasses
import functools
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


def test_what_is_stopped_goes_on_after_the_last_finished_unit(tmp_path, wanted):
    units, kept, made = Units(tmp_path, COUNT), [], []
    with pytest.raises(Stopped):
        fill(units, extractor(), stream(50, made, stop=UNIT + 150))
    assert units.finished() == 1 and max(made) == 399
    made.clear()
    fill(units, extractor(), stream(7, made), lambda rows, images: kept.extend(rows.tolist()))
    assert made == kept == list(range(UNIT, COUNT))
    for name, array in seen(units).items():
        np.testing.assert_array_equal(array, wanted[name])
    made.clear()
    fill(units, extractor(), stream(7, made))
    assert not made


def test_parts_of_processes_that_are_no_more_count_for_nothing(tmp_path, wanted, monkeypatch):
    """Two processes of which the second dies; then one; its files of the finished unit stay."""
    units = Units(tmp_path, COUNT)
    halves = [np.arange(0, UNIT, 2), np.arange(1, UNIT, 2)]
    for index, rows in enumerate(halves):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        units.write(0, rows, extractor()(IMAGES[rows]))
        if index == 0:
            units.write(1, UNIT + rows, extractor()(IMAGES[UNIT + rows]))
    monkeypatch.undo()
    made = []
    fill(units, extractor(), stream(64, made))
    assert made == list(range(UNIT, COUNT))
    assert sorted(file.name for file in tmp_path.glob("*.npz")) == [
        "000000.0-2.npz",
        "000000.1-2.npz",
        "000001.0-1.npz",
        "000002.0-1.npz",
    ]
    for name, array in seen(units).items():
        np.testing.assert_array_equal(array, wanted[name])


def test_a_damaged_unit_is_named(tmp_path):
    units = Units(tmp_path, COUNT)
    fill(units, extractor(), stream(64))
    (file,) = tmp_path.glob("000001.*")
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"000001\.0-1\.npz is damaged .* run the same command"):
        [*units.read()]
    file.unlink()
    with pytest.raises(InputError, match=r"unit 1 .* is not of images 256 to 511"):
        [*units.read()]
    assert units.finished() == 1


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
    assert 0 < again <= kills * (UNIT + 50 + 16)  # the unit, the batch, and what waits to be seen
