"""Looks at a stream of images in processes that are killed, one after the other.

python -m tests.evaluation.kills DIRECTORY KILLS

Each process is a copy of this one, which has started nothing but Python: 20 kills take seconds.
The last line says how many kills and images there were, and how many were looked at again.
"""

import os
import pathlib
import random
import signal
import sys

import jax
import numpy as np

from lpd_jax import distributed
from lpd_jax.evaluation import units
from lpd_jax.evaluation.units import UNIT, Units, fill

COUNT, BATCH = 40 * UNIT + 11, 50
# Without devices there are no threads, which a copy would lack.
jax.process_count, jax.process_index = lambda: 1, lambda: 0
distributed.barrier = lambda name: None


class Batch:
    """Image i is 4x4 pixels of i modulo 251."""

    def __init__(self, first: int, rows: np.ndarray):
        self.rows = rows - first
        levels = (rows % 251).astype(np.uint8)
        self.images = np.broadcast_to(levels[:, None, None, None], (len(rows), 4, 4, 3))


class Look:
    """The first pixel, which is noted; ends the process after some images."""

    def __init__(self, log: pathlib.Path, after: int):
        self._log, self._after = log, after

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        with self._log.open("ab") as file:
            file.write(bytes(len(images)))
        self._after -= len(images)
        if self._after <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"pixel": images[:, 0, 0, 0].astype(np.float32)}


def stream(first: int):
    for start in range(first, COUNT, BATCH):
        yield Batch(first, np.arange(start, min(COUNT, start + BATCH)))


def cut(after: int):
    """Writes units, and ends the process in the middle of one."""
    savez, written = np.savez, [0]

    def write(file, **arrays):
        written[0] += 1
        savez(file, **arrays)
        if written[0] >= after:
            os.truncate(file, os.path.getsize(file) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    units.np.savez = write


def main(directory: pathlib.Path, kills: int) -> None:
    """Kills as many processes, then goes on to the end."""
    draw, log = random.Random(0), directory / "looked"
    for number in range(kills):
        kind, images = number % 2, draw.randint(1, 4 * UNIT)
        child = os.fork()
        if child == 0:
            if kind:
                cut(1 + images // UNIT)
            look = Look(log, 2 * COUNT if kind else images)
            fill(Units(directory / "units", COUNT), look, stream)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
    fill(Units(directory / "units", COUNT), Look(log, 2 * COUNT), stream)
    seen = np.concatenate([found["pixel"] for found in Units(directory / "units", COUNT).read()])
    assert np.array_equal(seen, np.arange(COUNT) % 251)
    print(kills, COUNT, log.stat().st_size - COUNT)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
