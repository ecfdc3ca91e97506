"""What a task owns, on disk or in a bucket: directory, settings it was made with, time it took.

workdir/tokenizer/   checkpoints/ model/ pictures, metrics
workdir/codes/       the code dataset
workdir/decoder/     checkpoints/ model/ pictures, metrics
workdir/samples/     one directory per model and sampling settings, and index.html of all
workdir/report/      report.{json,md,html} of the newest evaluation, and one directory for each

Each has settings.json, what decides its result, and config.json, all that its last run was given.
"""

import contextlib
import hashlib
import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import jax
import ml_collections

from lpd_jax import distributed, storage
from lpd_jax.configs import base
from lpd_jax.errors import InputError

SETTINGS, CONFIG = _RECORDS = ("settings.json", "config.json")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def plain(settings: Any) -> Any:
    """Config sections, tuples and dataclasses as JSON data."""

    def as_dict(value: Any) -> dict[str, Any]:
        return value.to_dict() if isinstance(value, ml_collections.ConfigDict) else vars(value)

    return json.loads(json.dumps(settings, default=as_dict))


def claim(
    directory: storage.Where,
    settings: Mapping[str, Any],
    config: Any = None,
    *,
    defaults: Mapping[str, Any] | None = None,
) -> storage.Path:
    """Makes `directory` the work of these settings, or finds that it is.

    Compared is what `settings` name, which is what decides the result: a field that the record
    lacks was added since and counts as having its default, and one that is recorded but no longer
    named is passed over. Settings under which nothing was made (the run failed at once) give way
    to new ones. Every process calls it; process 0 writes.

    Args:
        directory: made when absent.
        settings: sections and fields, named as in the config.
        config: the whole config, to be noted beside the settings by a run that does work.
        defaults: of fields that a record may lack; `configs/base.py` when None.

    Raises:
        InputError: it cannot be written, or it is the work of other settings (named one by one),
            or not all processes see it.
    """
    directory = storage.path(directory)
    with distributed.first_process_first("claim"):
        _claim(directory, plain(dict(settings)), defaults)
        if config is not None and jax.process_index() == 0:
            with writing(directory):
                note_config(directory, config)
    return directory


def _claim(directory: storage.Path, wanted: dict[str, Any], defaults: Any) -> None:
    file = directory / SETTINGS
    if file.is_file():
        differences = differing(json.loads(file.read_text()), wanted, defaults)
        if differences and any(entry.name not in _RECORDS for entry in directory.iterdir()):
            raise InputError(
                f"{directory} was made with other settings: {'; '.join(differences)}. Give "
                "another --workdir, or take the change back."
            )
        if not differences:
            return
    if jax.process_index() != 0:
        raise InputError(
            f"process {jax.process_index()} does not see {file}, which process 0 has written; give "
            "a --workdir that all hosts share."
        )
    with writing(directory):
        write_json(file, wanted)


@contextlib.contextmanager
def writing(directory: storage.Path) -> Iterator[None]:
    """What is written in the block goes to `directory`; if it cannot, one sentence says so."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"workdir {directory} cannot be written ({error.strerror or storage.brief(error)}); "
            "make room there, or give another --workdir."
        ) from error


def note_config(directory: storage.Path, config: Any) -> None:
    """Writes `config.json`: the whole config, the command line and the versions of a run."""
    about = {
        "command": sys.argv,
        "versions": {name: metadata.version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
        "config": config,
    }
    write_json(directory / CONFIG, plain(about))


def differing(
    found: Any, wanted: Any, defaults: Mapping[str, Any] | None = None, path: str = ""
) -> list[str]:
    """What was, and is now, for each setting that differs, by the rule of `claim`.

    Args:
        found: recorded, JSON data.
        wanted: now, JSON data; only what is named here is compared.
        defaults: of fields that the record may lack; `configs/base.py` when None.
        path: of these settings in all.
    """
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return [] if found == wanted else [f"{path} was {found!r}, now {wanted!r}"]
    defaults = _defaults() if defaults is None else defaults
    lines = []
    for key, value in sorted(wanted.items()):
        default = defaults.get(key)
        inner = default if isinstance(default, Mapping) else {}
        place = f"{path}.{key}" if path else key
        lines += differing(found.get(key, default), value, inner, place)
    return lines


def done(file: storage.Path) -> bool:
    """Whether the last file of some work is there, as process 0 sees it; all processes call it."""
    return distributed.decided(file.is_file)


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
    """Eight hex digits that change with any setting: names of directories.

    Fields that have their defaults count as absent, so that one that is added changes no name.
    """
    text = json.dumps(_changed(plain(settings), _defaults()), sort_keys=True)
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
            with writing(storage.path(workdir)):
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


def _defaults() -> dict[str, Any]:
    return plain(base.get_config())


def _changed(settings: Any, defaults: Any) -> Any:
    """Settings without those that have their defaults."""
    if not (isinstance(settings, dict) and isinstance(defaults, dict)):
        return settings
    return {
        key: _changed(value, defaults.get(key))
        for key, value in settings.items()
        if key not in defaults or value != defaults[key]
    }
