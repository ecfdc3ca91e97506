"""What a task owns, on disk or in a bucket: directory, settings it was made with, time it took.

workdir/tokenizer/   checkpoints/ model/ pictures, metrics
workdir/codes/       the code dataset
workdir/decoder/     checkpoints/ model/ pictures, metrics
workdir/samples/     one directory per set of sampling settings
workdir/report/      report.json, report.md, report.html
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import ml_collections

from lpd_jax import distributed, storage
from lpd_jax.errors import InputError


def plain(settings: Any) -> Any:
    """Config sections, tuples and dataclasses as JSON data."""

    def as_dict(value: Any) -> dict[str, Any]:
        return value.to_dict() if isinstance(value, ml_collections.ConfigDict) else vars(value)

    return json.loads(json.dumps(settings, default=as_dict))


def claim(
    directory: storage.Where, settings: Mapping[str, Any], config: Any = None
) -> storage.Path:
    """Makes `directory` the work of these settings, or finds that it is.

    Settings under which nothing was made (the run failed at once) give way to new ones. Every
    process calls it; process 0 writes.

    Raises:
        InputError: it cannot be written, or it is the work of other settings (named one by one),
            or not all processes see it.
    """
    with distributed.first_process_first("claim"):
        return _claim(storage.path(directory), settings)


def _claim(directory: storage.Path, settings: Mapping[str, Any]) -> storage.Path:
    wanted = plain(dict(settings))
    file = directory / "settings.json"
    if file.is_file():
        found = json.loads(file.read_text())
        differences = _differences(found, wanted)
        if differences and any(entry != file for entry in directory.iterdir()):
            raise InputError(
                f"{directory} was made with other settings: {'; '.join(differences)}. Give "
                "another --workdir, or take the change back."
            )
        if not differences:
            return directory
    if jax.process_index() != 0:
        raise InputError(
            f"process {jax.process_index()} does not see {file}, which process 0 has written; give "
            "a --workdir that all hosts share."
        )
    try:
        write_json(file, wanted)
    except OSError as error:
        raise InputError(
            f"workdir {directory} cannot be written ({error.strerror}); give another --workdir."
        ) from error
    return directory


@contextlib.contextmanager
def alone(directory: storage.Where) -> Iterator[None]:
    """The block is the only one, of all jobs, that works in `directory`; see `storage.locked`.

    Every process calls it; process 0 holds the lock.

    Raises:
        InputError: another job is at work there.
    """
    with contextlib.ExitStack() as stack:
        refused = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(storage.locked(directory))
            except InputError as error:
                refused = str(error)
        if refused := distributed.from_first(refused):
            raise InputError(refused)
        yield


def write_json(path: storage.Path, data: Any) -> None:
    """Writes a file whole or not at all."""
    storage.write_text(path, json.dumps(data, indent=2) + "\n")


def read_json(path: storage.Path, missing: str) -> Any:
    """Reads a file that an earlier task wrote.

    Raises:
        InputError: with the sentence `missing` when there is no such file.
    """
    if not path.is_file():
        raise InputError(missing)
    return json.loads(path.read_text())


def digest(settings: Any) -> str:
    """Eight hex digits that change with any setting: names of directories."""
    text = json.dumps(plain(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@contextlib.contextmanager
def timed(workdir: storage.Where, task: str) -> Iterator[None]:
    """Adds the seconds of the block to those that the task took before, in `seconds.json`.

    The block ends when all processes have ended theirs: what they wrote is there for the next.
    """
    start = time.perf_counter()

    def note() -> None:
        if jax.process_index() == 0:
            seconds = read_seconds(workdir)
            seconds[task] = round(seconds.get(task, 0.0) + time.perf_counter() - start, 1)
            write_json(storage.path(workdir) / "seconds.json", seconds)

    try:
        yield
    except distributed.Preempted:
        note()
        raise
    note()
    distributed.barrier(task)


def read_seconds(workdir: storage.Where) -> dict[str, float]:
    """Task -> seconds it took, over all its runs."""
    file = storage.path(workdir) / "seconds.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _differences(found: Any, wanted: Any, path: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [
            line
            for key in sorted(found.keys() | wanted.keys())
            for line in _differences(
                found.get(key), wanted.get(key), f"{path}.{key}" if path else key
            )
        ]
    return [] if found == wanted else [f"{path} was {found!r}, now {wanted!r}"]
