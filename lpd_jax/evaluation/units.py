"""What was seen in a stream of images, on disk batch by batch: nothing is lost or counts twice.

When a process has looked at its part of a batch, it writes that as one file, whole or not at all.
A batch is finished when each process of one job has written its part; a job that goes on begins
after the last batch that is finished in an unbroken row, with batches and processes of its own.
For every 256 images that all have finished, a process joins its own files to one, so that there are
not thousands. What is made of them is summed in blocks of 256 in the order of the indices, so that
it does not depend on who has made them, or in which batches.

M images of the run.
"""

import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np

from lpd_jax import distributed, storage
from lpd_jax.errors import InputError
from lpd_jax.evaluation.looking import Look

UNIT = 256  # images
_NAME = re.compile(r"(\d{9})-(\d{9})\.(\d+)-(\d+)\.npz")  # start, stop, process, processes


class _Batch(Protocol):
    """Of which `generation.results.Batch` is one."""

    rows: np.ndarray
    images: np.ndarray


class _File(NamedTuple):
    """What one of P processes has of the images from `start` up to, without, `stop`."""

    start: int
    stop: int
    process: int
    processes: int

    def __str__(self) -> str:
        return f"{self.start:09d}-{self.stop:09d}.{self.process}-{self.processes}.npz"


class Units:
    """What was seen in M images, in a directory.

    Args:
        directory: made when something is written.
        count: M.
    """

    def __init__(self, directory: storage.Where, count: int):
        self.directory, self.count = storage.path(directory), count

    def finished(self) -> int:
        """How many images from the first on are finished, as process 0 sees it; all call it.

        What lies beyond them is removed: parts of a batch that not all processes have written,
        which another job would cut otherwise.
        """

        def look() -> int:
            if not self.directory.is_dir():
                return 0
            chosen = self._chosen()
            kept = {str(file) for file in chosen}
            for file in list(self.directory.glob("*.npz")):
                if file.name not in kept:
                    file.unlink(missing_ok=True)
            return max((file.stop for file in chosen), default=0)

        return distributed.decided(look)

    def write(self, start: int, stop: int, rows: np.ndarray, seen: dict[str, np.ndarray]) -> None:
        """Writes what this process has of the images from `start` up to, without, `stop`.

        Args:
            start, stop: the same in every process.
            rows: int [P], indices of the images, perhaps none.
            seen: name -> array [P, ...].

        Raises:
            OSError: it cannot be written.
        """
        with storage.whole(self._path(start, stop)) as file:
            np.savez(file, rows=rows, **seen)

    def remove(self, start: int, stop: int) -> None:
        """Removes what `write` wrote."""
        self._path(start, stop).unlink(missing_ok=True)

    def read(self) -> Iterator[dict[str, np.ndarray]]:
        """Yields what was seen in each block of 256 images, in the order of their indices.

        Raises:
            InputError: images are absent or there twice, or a file is damaged.
        """
        parts, start = [], 0
        for file in self._chosen():
            parts.append(self._part(self.directory / str(file)))
            while start < self.count:
                stop = min(self.count, start + UNIT)
                if sum(np.count_nonzero(part["rows"] < stop) for part in parts) < stop - start:
                    break
                block, parts = _cut(parts, stop)
                if not np.array_equal(block.pop("rows"), np.arange(start, stop)):
                    raise self._broken(start, stop)
                yield block
                start = stop
        if start < self.count:
            raise self._broken(start, self.count)

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

    def _path(self, start: int, stop: int) -> storage.Path:
        own = _File(start, stop, jax.process_index(), jax.process_count())
        return self.directory / str(own)

    def _part(self, file: storage.Path) -> dict[str, np.ndarray]:
        try:
            with storage.local(file) as place, np.load(place, allow_pickle=False) as found:
                return dict(found)
        except Exception as error:  # zipfile, zlib and NumPy each have types of their own
            raise InputError(
                f"{file} is damaged ({storage.brief(error)}); remove it and run the same command "
                "again: what is in it is made anew."
            ) from error

    def _broken(self, start: int, stop: int) -> InputError:
        return InputError(
            f"the files in {self.directory} are not of images {start} to {stop - 1}, each once; "
            "remove that directory and run the same command again."
        )

    def _chosen(self) -> list[_File]:
        """The files of all images that are finished in an unbroken row, by their start."""
        found = sorted(
            _File(*map(int, name.groups()))
            for file in self.directory.glob("*.npz")
            if (name := _NAME.fullmatch(file.name)) and int(name[1]) < int(name[2])
        )
        chosen: list[_File] = []
        while True:
            start = max((file.stop for file in chosen), default=0)
            jobs = {file.processes for file in found if file.start == start}
            rows = [_unbroken([x for x in found if x.processes == job], start) for job in jobs]
            longest = max(rows, key=lambda row: max((x.stop for x in row), default=0), default=[])
            if not longest:
                return sorted(chosen)
            chosen += longest


def _unbroken(files: list[_File], start: int) -> list[_File]:
    """Of one job: the files of each process from `start` to where all have come; as few as can be.

    Args:
        files: sorted; of a process perhaps joined ones beside those that they were made of.
        start: image.
    """
    before: list[dict[int, _File]] = []  # of each process: where it has come -> the last file
    for process in range(files[0].processes):
        came: dict[int, _File] = {}
        for file in files:
            if file.process == process and (file.start == start or file.start in came):
                came.setdefault(file.stop, file)  # sorted: the first is the longest
        before.append(came)
    common = set.intersection(*({*came} for came in before))
    chosen = []
    for came in before if common else ():
        at = max(common)
        while at > start:
            chosen.append(came[at])
            at = came[at].start
    return chosen


def _cut(parts: list[dict], stop: int) -> tuple[dict[str, np.ndarray], list[dict]]:
    """What parts have of images before `stop`, in order, and what is left of them."""
    joined = _joined(parts)
    own = joined["rows"] < stop
    left = {name: array[~own] for name, array in joined.items()}
    places = np.argsort(joined["rows"][own])
    return {name: array[own][places] for name, array in joined.items()}, [left]


def _joined(parts: list[dict]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def fill(
    units: Units,
    look: Look,
    stream: Callable[[int], Iterable[_Batch]],
    keep: Callable[[np.ndarray, np.ndarray], None] | None = None,
) -> None:
    """Looks at all images of a run that are not in `units` yet; all processes call it together.

    An image is in memory until it was looked at: one batch. A process that is killed loses what it
    has of the batch under way; no process begins a batch before all have finished the last.

    Args:
        units: where to.
        look: what is seen in images.
        stream: index of the first image to make -> batches of it and those after it, whose rows,
            ascending, count from it; of each batch this process gets its own, perhaps none.
        keep: (int [P] indices, uint8 [P, H, W, 3]) -> nothing; keeps the images, which may come a
            second time after an interruption.

    Raises:
        OSError: the disk cannot take more; what is finished stays.
    """
    first = start = units.finished()
    waiting: list[tuple[int, int, dict[str, np.ndarray]]] = []
    for batch in stream(first) if first < units.count else ():
        rows = first + batch.rows
        if keep is not None:
            keep(rows, batch.images)
        seen = dict(look(batch.images))
        stop = distributed.greatest(int(rows[-1]) + 1 if len(rows) else start)
        units.write(start, stop, rows, seen)
        distributed.barrier("finished a batch")
        waiting.append((start, stop, {"rows": rows, **seen}))
        start = stop
        if stop - waiting[0][0] >= UNIT or stop == units.count:
            _join(units, waiting)
            waiting.clear()
    distributed.barrier("looked at all images")


def _join(units: Units, waiting: list[tuple[int, int, dict[str, np.ndarray]]]) -> None:
    """Writes files in a row, which all processes have, as one."""
    if len(waiting) > 1:
        seen = _joined([seen for _, _, seen in waiting])
        units.write(waiting[0][0], waiting[-1][1], seen.pop("rows"), seen)
        for start, stop, _ in waiting:
            units.remove(start, stop)
