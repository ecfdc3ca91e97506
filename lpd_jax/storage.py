"""Where files lie: on a local disk, or in a Google Cloud Storage bucket (gs://bucket/...).

A bucket has neither links nor directories that can be renamed, cannot append to a file, and only
Python can read from it; all that follows from this is here. Local paths stay `pathlib.Path`:
epath's cannot be linked, and their `stat` fails for a user without a name, as containers have.
"""

import contextlib
import errno
import hashlib
import logging
import os
import pathlib
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import TypeAlias

import fsspec
from etils import epath

from lpd_jax.errors import InputError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

_LOG = logging.getLogger(__name__)
Path: TypeAlias = pathlib.Path | epath.Path
Where = str | os.PathLike[str]


def path(where: Where) -> Path:
    """The path of a file or directory, local ("~" is the home directory) or in a bucket.

    Nothing is read yet.

    Raises:
        InputError: another scheme than gs://, no name of a bucket, or gcsfs is not installed.
    """
    text = os.fspath(where)
    if "://" not in text:
        return pathlib.Path(text).expanduser()
    if not re.match("gs://[^/]", text):
        raise InputError(
            f"{text} is neither a local path nor in a bucket (gs://bucket/...); mount other "
            "storage on every host and give the path of the mount."
        )
    try:
        fsspec.get_filesystem_class("gcs")
    except ImportError as error:
        raise InputError(f"gs:// paths need gcsfs: pip install -e '.[gcs]' ({text}).") from error
    # A listing that gcsfs keeps hides what other processes and TensorStore have written since.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    # Where TensorFlow is installed, epath would import it.
    os.environ.setdefault("EPATH_USE_TF", "false")
    return epath.Path(text)


def check(where: Where) -> None:
    """Returns if there may be something at `where`.

    Raises:
        InputError: as `path`, or the bucket cannot be reached with the credentials at hand.
    """
    place = path(where)
    try:
        in_bucket(place) and place.exists()
    # gcsfs, aiohttp and google.auth each have types of their own for this.
    except Exception as error:
        raise InputError(
            f"{place} cannot be reached ({brief(error)}); see that the bucket exists and that "
            "these credentials may use it (gcloud auth application-default login)."
        ) from error


def in_bucket(where: Where) -> bool:
    """Whether a path is that of an object in a bucket."""
    return os.fspath(where).startswith("gs://")


def absolute(where: Where) -> Path:
    """A path that does not depend on the working directory; those in buckets never do."""
    place = path(where)
    return place if in_bucket(place) else place.absolute()


@contextlib.contextmanager
def whole(where: Where) -> Iterator[pathlib.Path]:
    """Writes a file whole or not at all; an older one is replaced at the end.

    Its directory is made when absent. What an exception in the block leaves is removed.

    Yields:
        Name of a local file to write, with the suffix of `where`.

    Raises:
        OSError: it cannot be written.
    """
    place = path(where)
    if in_bucket(place):
        with tempfile.TemporaryDirectory() as directory:
            partial = pathlib.Path(directory) / place.name
            yield partial
            put(partial, place)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    # Unique among hosts too: numbers of processes are not.
    partial = place.with_name(f".{place.stem}.{secrets.token_hex(4)}{place.suffix}")
    try:
        yield partial
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_directory(where: Where, last: str) -> Iterator[pathlib.Path]:
    """Writes a directory whole or not at all, where there is none or an empty one.

    A bucket has no directories to rename: there the file `last` appears after all others, and
    says that they are complete. What an exception in the block leaves is removed.

    Yields:
        A local directory to write files to.

    Raises:
        OSError: it cannot be written.
    """
    place = path(where)
    if in_bucket(place):
        with tempfile.TemporaryDirectory() as directory:
            partial = pathlib.Path(directory)
            yield partial
            for file in sorted(partial.iterdir(), key=lambda file: file.name == last):
                put(file, place / file.name)
        return
    partial = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.replace(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def put(file: pathlib.Path, where: Where) -> None:
    """Uploads a local file; the object appears, or replaces an older one, when it is complete.

    Raises:
        OSError: it cannot be written; `strerror` says why.
    """
    try:
        _bucket().put_file(os.fspath(file), os.fspath(where))
    # gcsfs, aiohttp and google.auth each have types of their own for this.
    except Exception as error:
        raise OSError(errno.EIO, brief(error), os.fspath(where)) from error


@contextlib.contextmanager
def local(where: Where) -> Iterator[pathlib.Path]:
    """Reads a file with a library that needs a local one.

    Yields:
        The file, or for one in a bucket a copy that is removed after the block.

    Raises:
        FileNotFoundError: there is none in the bucket.
    """
    place = path(where)
    if not in_bucket(place):
        yield place
        return
    with tempfile.TemporaryDirectory() as directory:
        copy = pathlib.Path(directory) / place.name
        _bucket().get_file(os.fspath(place), os.fspath(copy))
        yield copy


def write_text(where: Where, text: str) -> None:
    """Writes a UTF-8 file whole or not at all. Raises as `whole`."""
    with whole(where) as file:
        file.write_text(text, encoding="utf-8")


def modified(where: Where) -> float:
    """When a file was last written, in seconds since 1970; in buckets, whole ones."""
    place = path(where)
    return place.stat().mtime if in_bucket(place) else place.stat().st_mtime


def size(where: Where) -> int:
    """Bytes of a file."""
    place = path(where)
    return place.stat().length if in_bucket(place) else place.stat().st_size


class Growing:
    """A directory of files that grow: their writers append to local files.

    A bucket cannot append: there those are temporary files, which are uploaded whole.

    Args:
        where: the directory.
        every: seconds after which an upload is due.

    Attributes:
        local: the directory to write to.
    """

    def __init__(self, where: Where, every: float = 30.0):
        self._path, self._every, self._uploaded = path(where), every, time.monotonic()
        self._temporary = tempfile.TemporaryDirectory() if in_bucket(self._path) else None
        self.local = pathlib.Path(self._temporary.name) if self._temporary else self._path
        self._sizes: dict[pathlib.Path, int] = {}

    def due(self) -> bool:
        """Whether the last upload is long ago; never for a local directory."""
        return self._temporary is not None and time.monotonic() - self._uploaded >= self._every

    def upload(self) -> None:
        """Returns when the files are in the bucket; their writers have flushed them.

        Raises:
            OSError: as `put`.
        """
        if self._temporary is None:
            return
        self._uploaded = time.monotonic()
        for file in self.local.rglob("*"):
            size = file.stat().st_size
            if file.is_file() and self._sizes.get(file) != size:
                put(file, self._path / file.relative_to(self.local).as_posix())
                self._sizes[file] = size

    def close(self) -> None:
        """Uploads; the last call."""
        if self._temporary:
            with self._temporary:
                self.upload()


@contextlib.contextmanager
def locked(directory: Where, wait: bool = False) -> Iterator[None]:
    """The block has the directory to itself; the lock of a process that died is gone with it.

    The lock is a file beside the directory. Buckets, and file systems without locks, give none.

    Args:
        directory: or a file, which need not be there.
        wait: until it is free.

    Raises:
        InputError: another process is at work there.
    """
    place = path(directory)
    if in_bucket(place) or fcntl is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(place.with_name(f".{place.name}.lock").open("a"))
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise InputError(
                f"another process is at work in {place}; wait until it ends, or give another "
                "--workdir."
            ) from error
        except OSError as error:
            # Writing there says what is wrong better than this, if anything is.
            _LOG.warning("%s cannot be locked (%s); start one process only", place, error.strerror)
        yield


def is_full(error: BaseException | None) -> bool:
    """Whether an exception, or one that it was raised for, says that a disk or a quota is full."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def sha256(file: pathlib.Path) -> str:
    """Of a local file's bytes, in hexadecimal."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def brief(error: Exception) -> str:
    """Type and beginning of the message of an error of another library, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _bucket() -> fsspec.AbstractFileSystem:
    # As epath asks for it, so that there is one connection.
    return fsspec.filesystem("gcs", finalize_on_close=True)
