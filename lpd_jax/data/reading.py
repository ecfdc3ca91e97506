"""Reading with threads of this process or with processes of its own, by Grain.

Decoding an image holds Python's lock for part of the time, so that threads alone do not use many
cores; processes do, and take some seconds to start.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags

from lpd_jax.data.image_files import BadImage

_GROUP = 16  # records that are read, and sent between processes, at a time


class Workers(NamedTuple):
    """Who reads.

    Attributes:
        processes: number of them; 0 reads in this one.
        threads: of this process, when there are no others.
    """

    processes: int = 0
    threads: int = 8


THREADS = Workers()


class Group(NamedTuple):
    """Records that follow each other in what was asked for.

    Attributes:
        places: int [n], which of what was asked for they are; without those that are bad.
        records: their arrays, each stacked [n, ...]; None when n is 0.
        bad: place, name and reason of each that cannot be read.
    """

    places: np.ndarray
    records: dict[str, np.ndarray] | None
    bad: tuple[tuple[int, str, str], ...]


def ahead(items: grain.MapDataset, workers: Workers, buffer: int) -> grain.IterDataset:
    """The items in their order, prepared by `workers` before they are asked for.

    Args:
        items: what is read; each item is one reader's work.
        workers: who reads.
        buffer: items that each may be ahead.
    """
    if not workers.processes:
        return items.to_iter_dataset(grain.ReadOptions(workers.threads, buffer * workers.threads))
    if not flags.FLAGS.is_parsed():  # Grain has some, which it looks up here
        flags.FLAGS.mark_as_parsed()
    return items.to_iter_dataset(grain.ReadOptions(1, 1)).mp_prefetch(
        grain.MultiprocessingOptions(workers.processes, buffer), worker_init_fn=_begin_worker
    )


def in_order(
    sources: Sequence[Any], wanted: np.ndarray, workers: Workers = THREADS
) -> Iterator[Group]:
    """Records of several sources, those that cannot be read left out and named.

    Args:
        sources: of images.
        wanted: int [M, 2], of each record the number of its source and its index there.
        workers: who reads.
    """
    groups = grain.MapDataset.range(-(-len(wanted) // _GROUP)).map(_Read(sources, wanted))
    stream = iter(ahead(groups, workers, 2))
    try:
        for places, records, bad in stream:
            yield Group(places, records or None, bad)
    finally:
        if workers.processes:
            stream.close()


class _Read:
    """Number of a group -> what a `Group` holds, as Grain passes it between processes."""

    def __init__(self, sources: Sequence[Any], wanted: np.ndarray):
        self._sources, self._wanted = sources, wanted

    def __call__(self, group: int) -> tuple[np.ndarray, dict[str, np.ndarray], tuple]:
        first = group * _GROUP
        places, records, bad = [], [], []
        for place, (source, index) in enumerate(self._wanted[first : first + _GROUP], first):
            try:
                records.append(self._sources[source][int(index)])
                places.append(place)
            except BadImage as error:
                bad.append((place, error.name, error.reason))
        names = records[0] if records else ()
        stacked = {name: np.stack([record[name] for record in records]) for name in names}
        return np.array(places, int), stacked, tuple(bad)


def _begin_worker(index: int, count: int) -> None:
    """A worker leaves Ctrl-C to the process that started it, and ends when that one is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Positioned:
    """An iterator that can be asked where it is, and sent elsewhere.

    Args:
        begin: position -> iterable of what follows.
    """

    def __init__(self, begin: Callable[[int], Any]):
        self._begin, self._next = begin, 0
        self._stream: Any = None  # an iterator that can be closed, once it has begun

    def __iter__(self) -> "Positioned":
        return self

    def __next__(self) -> Any:
        if self._stream is None:
            self._stream = iter(self._begin(self._next))
        item = next(self._stream)
        self._next += 1
        return item

    def get_state(self) -> dict[str, int]:
        """JSON data."""
        return {"next_index": self._next}

    def set_state(self, state: dict[str, int]) -> None:
        self.close()
        self._next = state["next_index"]

    def close(self) -> None:
        """Ends readers that are processes; the next item starts them again."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None
