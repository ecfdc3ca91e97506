"""What was seen in a stream of images, on disk in units: nothing is lost, nothing counts twice.

A unit is a block of 256 image indices, whatever the batches, devices and processes. When a process
has seen all that it holds of a unit, it writes that as one file, whole or not at all. A unit is
finished when each process of one job has written its part; a job that goes on begins after the last
unit that is finished in an unbroken row. What is made of the units is summed unit by unit in the
order of the indices, so that it does not depend on who has made them.

M images of the run.
"""

import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import jax
import numpy as np

from lpd_jax import distributed, storage
from lpd_jax.errors import InputError
from lpd_jax.evaluation.looking import Look

UNIT = 256  # images
_NAME = re.compile(r"(\d{6})\.(\d+)-(\d+)\.npz")  # unit, process, processes


class _Batch(Protocol):
    """Of which `generation.results.Batch` is one."""

    rows: np.ndarray
    images: np.ndarray


class Units:
    """The units of M images in a directory.

    Args:
        directory: made when something is written.
        count: M.
    """

    def __init__(self, directory: storage.Where, count: int):
        self.directory, self.count = storage.path(directory), count

    def __len__(self) -> int:
        return -(-self.count // UNIT)

    def finished(self) -> int:
        """How many units from the first on are finished, as process 0 sees it; all call it.

        What lies beyond them is removed: parts of a unit by processes that are no more, which
        another job would cut otherwise.
        """

        def look() -> int:
            if not self.directory.is_dir():
                return 0
            found = self._files()
            first = next((unit for unit in range(len(self)) if unit not in found), len(self))
            for file in list(self.directory.glob("*.npz")):
                name = _NAME.fullmatch(file.name)
                if name is None or int(name[1]) >= first:
                    file.unlink(missing_ok=True)
            return first

        return distributed.decided(look)

    def write(self, unit: int, rows: np.ndarray, seen: dict[str, np.ndarray]) -> None:
        """Writes what this process has of a unit.

        Args:
            unit: from 0.
            rows: int [P], indices of the images.
            seen: name -> array [P, ...].

        Raises:
            OSError: it cannot be written.
        """
        name = f"{unit:06d}.{jax.process_index()}-{jax.process_count()}.npz"
        with storage.whole(self.directory / name) as file:
            np.savez(file, rows=rows, **seen)

    def read(self) -> Iterator[dict[str, np.ndarray]]:
        """Yields what was seen in the images of each unit, in the order of their indices.

        Raises:
            InputError: a unit is absent, damaged, or not of these images.
        """
        found = self._files()
        for unit in range(len(self)):
            parts = [self._part(file) for file in found.get(unit, ())]
            rows = np.concatenate([part.pop("rows") for part in parts] or [np.empty(0, int)])
            places, end = np.argsort(rows), min(self.count, (unit + 1) * UNIT)
            if not np.array_equal(rows[places], np.arange(unit * UNIT, end)):
                raise InputError(
                    f"unit {unit} in {self.directory} is not of images {unit * UNIT} to {end - 1}; "
                    "remove that directory and run the same command again."
                )
            joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            yield {name: array[places] for name, array in joined.items()}

    def mapped(self, names: Sequence[str], scratch: pathlib.Path) -> dict[str, np.ndarray]:
        """Arrays [M, ...] of what was seen, mapped from files in `scratch`: not in memory.

        Args:
            names: which.
            scratch: a local directory, which stays as long as the arrays.

        Raises:
            InputError: as `read`.
        """
        arrays: dict[str, np.memmap] = {}
        start = 0
        for seen in self.read():
            for name in names:
                part = seen[name]
                if name not in arrays:
                    shape = (self.count, *part.shape[1:])
                    file = scratch / f"{name}.npy"
                    arrays[name] = np.lib.format.open_memmap(file, "w+", part.dtype, shape)
                arrays[name][start : start + len(part)] = part
            start += UNIT
        return arrays

    def _part(self, file: storage.Path) -> dict[str, np.ndarray]:
        try:
            with storage.local(file) as place, np.load(place, allow_pickle=False) as found:
                return dict(found)
        except Exception as error:  # zipfile, zlib and NumPy each have types of their own
            raise InputError(
                f"{file} is damaged ({storage.brief(error)}); remove it and run the same command "
                "again: what is in it is made anew."
            ) from error

    def _files(self) -> dict[int, list[storage.Path]]:
        """Finished unit -> its files, all of one job."""
        parts: dict[tuple[int, int], list[storage.Path]] = {}
        for file in sorted(self.directory.glob("*.npz")):
            if name := _NAME.fullmatch(file.name):
                unit, _, processes = map(int, name.groups())
                parts.setdefault((unit, processes), []).append(file)
        # Of jobs with different numbers of processes, that with the fewest counts.
        whole = sorted((key for key, files in parts.items() if len(files) == key[1]), reverse=True)
        return {unit: parts[unit, processes] for unit, processes in whole}


def fill(
    units: Units,
    look: Look,
    stream: Callable[[int], Iterable[_Batch]],
    keep: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> None:
    """Looks at all images of a run that are not in `units` yet; all processes call it together.

    An image is in memory until it was looked at, which is at most a batch and what the look takes
    at a time.

    Args:
        units: where to.
        look: what is seen in images.
        stream: index of the first image to make -> batches of it and those after it, whose rows,
            ascending, count from it; of each batch this process gets its own.
        keep: (int [P] indices, uint8 [P, H, W, 3]) -> nothing; keeps the images, which may come a
            second time after an interruption.

    Raises:
        OSError: the disk cannot take more; what is finished stays.
    """
    unit = units.finished()
    first, waiting, seen = unit * UNIT, [], []
    if unit < len(units):
        for batch in stream(first):
            rows = first + batch.rows
            if keep is not None:
                keep(rows, batch.images)
            waiting.append((rows, batch.images))
            seen += _looked(look, waiting, last=False)
            while _beyond(seen, unit):
                _flush(units, unit, seen)
                unit += 1
        seen += _looked(look, waiting, last=True)
        for left in range(unit, len(units)):
            _flush(units, left, seen)
    distributed.barrier("looked at all images")


def _beyond(seen: list[tuple[np.ndarray, dict]], unit: int) -> bool:
    """Whether images after a unit were seen: this process holds no more of it."""
    return any(len(rows) and rows[-1] >= (unit + 1) * UNIT for rows, _ in seen)


def _looked(look: Look, waiting: list, last: bool) -> list[tuple[np.ndarray, dict]]:
    """What is seen in the images that wait: in all, or in as many as go without waste.

    They are removed from `waiting`.
    """
    if not waiting:
        return []
    rows, images = (np.concatenate(x) for x in zip(*waiting, strict=True))
    take = len(rows) if last else len(rows) - len(rows) % look.at_once
    waiting[:] = [(rows[take:], images[take:])]
    if not (take or last):
        return []
    return [(rows[:take], dict(look(images[:take])))]


def _flush(units: Units, unit: int, seen: list[tuple[np.ndarray, dict]]) -> None:
    """Writes a unit, and leaves in `seen` what is of later ones."""
    rows = np.concatenate([rows for rows, _ in seen])
    arrays = {name: np.concatenate([found[name] for _, found in seen]) for name in seen[0][1]}
    own = rows < (unit + 1) * UNIT
    units.write(unit, rows[own], {name: array[own] for name, array in arrays.items()})
    seen[:] = [(rows[~own], {name: array[~own] for name, array in arrays.items()})]
