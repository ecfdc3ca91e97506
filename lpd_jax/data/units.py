"""Who writes which files of a code dataset, where several processes or jobs do.

A unit is one file. Who holds the lock of its name writes it; the kernel drops the locks of a
process that dies, and another one takes its units over. In a bucket, where there are no locks, the
files are dealt out by their number.
"""

import contextlib
import math
import time
from collections.abc import Iterator

from lpd_jax import storage
from lpd_jax.data import codes
from lpd_jax.errors import InputError

_MOST = 64  # at a time: each is an open file
_WAIT = 0.5  # seconds between looks at what others are writing


class Units:
    """The files that this process is to write, some at a time, until all are there.

    Each time it takes a part of what nobody has taken yet, so that the parts get small towards the
    end, when the others are to be ready at the same time.

    Args:
        path: directory of the dataset.
        spec: of it.
        process, count: number of this process, and of all that were started together.
    """

    def __init__(self, path: storage.Path, spec: codes.CodesSpec, process: int, count: int):
        self._path, self._spec = path, spec
        self._process, self._count = process, count
        self._locks: dict[str, contextlib.ExitStack] = {}

    def __iter__(self) -> Iterator[list[codes.Shard]]:
        """Files to write; `written` is to be called of each before the next."""
        try:
            while missing := self._missing():
                if mine := self._take(missing):
                    yield mine
                else:
                    time.sleep(_WAIT)
        finally:
            for lock in self._locks.values():
                lock.close()

    def written(self, unit: codes.Shard) -> None:
        """Lets go of a file that is there now."""
        self._locks.pop(unit.filename).close()

    def _missing(self) -> list[codes.Shard]:
        missing = codes.missing_shards(self._path, self._spec)
        if storage.in_bucket(self._path):
            numbers = {unit.filename: i for i, unit in enumerate(self._spec.shards())}
            mine = (numbers[unit.filename] % self._count == self._process for unit in missing)
            return [unit for unit, is_mine in zip(missing, mine, strict=True) if is_mine]
        return missing

    def _take(self, missing: list[codes.Shard]) -> list[codes.Shard]:
        """Some of them, with their locks."""
        most = min(_MOST, math.ceil(len(missing) / (2 * self._count)))
        first = self._process * len(missing) // self._count  # each begins elsewhere
        found = []
        for unit in missing[first:] + missing[:first]:
            if len(found) == most:
                break
            lock = contextlib.ExitStack()
            try:
                lock.enter_context(storage.locked(self._path / unit.filename))
            except InputError:
                continue  # another process is at it
            if (self._path / unit.filename).exists():  # since it was looked for
                lock.close()
                continue
            self._locks[unit.filename] = lock
            found.append(unit)
        return found
