"""Official weights in files: `.npz`, `.safetensors` and PyTorch pickles in, `.safetensors` out."""

import functools
import pickle
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lpd_jax import storage
from lpd_jax.errors import InputError

_BROKEN = (
    *(ValueError, OSError, EOFError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, SafetensorError),
)

# In this order: averaged weights are what one samples from, when a file has them.
CONTAINERS = ("ema", "model_ema", "model", "state_dict")
_WRAPPED = re.compile(rf"((?:(?:module|_orig_mod|{'|'.join(CONTAINERS)})\.)*)(.+)")


class Weights(Mapping):
    """Official name -> array, read when asked for: converting needs no second copy of the file."""

    def __init__(self, path: Path, readers: Mapping[str, Callable[[], np.ndarray]]):
        self._path, self._readers = path, readers

    def __getitem__(self, name: str) -> np.ndarray:
        reader = self._readers[name]
        try:
            return reader()
        except _BROKEN as error:
            raise InputError(
                f"{self._path} is damaged: {name} cannot be read ({error}); fetch the file again."
            ) from error

    def __contains__(self, name: object) -> bool:
        # The mixin's would read the array to find out.
        return name in self._readers

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def read(path: str | Path) -> Weights:
    """The arrays of a weight file under their official names.

    Wrappers are taken off: a dict `{"ema" | "model_ema" | "model" | "state_dict": ...}` (the first
    of these that is there; what lies beside it, such as an optimizer's state, is left out) and the
    prefix `module.` of data-parallel training.

    Raises:
        InputError: no such file, an unknown or unreadable format, a PyTorch file without `torch`,
            a pickle with more than tensors and plain containers, or two arrays of one name.
    """
    path = Path(path)
    formats = {
        ".npz": _read_npz,
        ".safetensors": _read_safetensors,
        ".pth": _read_pickle,
        ".pt": _read_pickle,
    }
    if path.suffix not in formats:
        raise InputError(f"{path} is not a weight file: use one of {', '.join(formats)}.")
    if not path.is_file():
        raise InputError(f"There is no weight file {path}; check the path.")
    try:
        entries = formats[path.suffix](path)
    except InputError:
        raise
    except _BROKEN as error:
        raise InputError(
            f"{path} cannot be read as {path.suffix} ({error}); fetch or export the file again."
        ) from error
    return Weights(path, unwrap(entries))


def write(path: storage.Where, weights: Mapping[str, np.ndarray]) -> None:
    """Writes arrays under their names as `.safetensors`, whole or not at all.

    Raises:
        InputError: the path does not end in `.safetensors`.
    """
    if storage.path(path).suffix != ".safetensors":
        raise InputError(f"Weights are written as .safetensors; rename {path}.")
    with storage.whole(path) as file:
        file.touch()
        mode = file.stat().st_mode
        # The writer copies buffers as they lie in memory and does not look at strides.
        save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, file)
        # The writer makes files that only their owner can read, whatever the umask says.
        file.chmod(mode)


def unwrap(entries: Mapping[str, Callable]) -> dict[str, Callable]:
    """Entries under their names without the wrappers of `read`.

    Raises:
        InputError: two entries end up with one name; all such names are listed.
    """
    container = next((c for c in CONTAINERS if any(f".{c}." in f".{n}" for n in entries)), None)
    inside, beside, doubled = {}, [], []
    for name, entry in entries.items():
        wrappers, bare = _WRAPPED.fullmatch(name).groups()
        if container and container not in wrappers.split("."):
            beside += [bare] if wrappers in ("", "module.") else []
            continue
        if bare in inside:
            doubled.append(bare)
        inside[bare] = entry
    doubled += [bare for bare in beside if bare in inside]
    if doubled:
        raise InputError(
            f"The weights hold two arrays for each of {', '.join(doubled)}; keep one model."
        )
    return inside


def _read_npz(path: Path) -> dict[str, Callable]:
    arrays = np.load(path, allow_pickle=False)
    return {name: functools.partial(arrays.__getitem__, name) for name in arrays.files}


def _read_safetensors(path: Path) -> dict[str, Callable]:
    def tensor(name):
        # Opened anew each time: an open file keeps every page that was read in memory.
        with safe_open(path, framework="numpy") as arrays:
            return arrays.get_tensor(name)

    with safe_open(path, framework="numpy") as arrays:
        return {name: functools.partial(tensor, name) for name in arrays.keys()}  # noqa: SIM118


def _read_pickle(path: Path) -> dict[str, Callable]:
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path} is a PyTorch file: install the extra `lpd-jax[torch]` to read it, or convert "
            "it to .safetensors elsewhere."
        ) from error
    mapped = zipfile.is_zipfile(path)

    def tensors():
        tree = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        return {name: leaf for name, leaf in _flatten(tree) if isinstance(leaf, torch.Tensor)}

    def to_numpy(tensor):
        # NumPy has no bfloat16; the widening is exact and float32 passes through unchanged.
        return tensor.detach().float().numpy()

    try:
        found = tensors()
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than tensors and plain containers and is not opened, because such "
            "a pickle can run code; save its state dict alone and try again."
        ) from error
    if mapped:
        # Opened anew each time, for the same reason as above; it takes milliseconds.
        return {name: lambda name=name: to_numpy(tensors()[name]) for name in found}
    return {name: functools.partial(to_numpy, tensor) for name, tensor in found.items()}


def _flatten(tree, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Leaves of nested dicts under dotted names."""
    if not isinstance(tree, Mapping):
        yield prefix.removesuffix("."), tree
        return
    for name, child in tree.items():
        yield from _flatten(child, f"{prefix}{name}.")
