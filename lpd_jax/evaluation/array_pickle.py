"""Pickles of NumPy arrays from strangers: read without running what else a pickle can say."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from lpd_jax.errors import InputError


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes as pickles of before Python 3 spell them."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding}")
    return text.encode(encoding)


def _reconstruct(kind: str, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """An empty array, which its pickle then fills."""
    return np.empty(0, np.int8)


# What the pickles of arrays and scalars name, before and since NumPy 2. None of it does anything
# but build an array; the class, which could be called with a buffer, is there in name only.
_ALLOWED = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): _latin1,
}
for _package in ("numpy.core", "numpy._core"):
    _ALLOWED |= {
        (f"{_package}.multiarray", "_reconstruct"): _reconstruct,
        (f"{_package}.multiarray", "scalar"): np._core.multiarray.scalar,
        (f"{_package}.numeric", "_frombuffer"): np._core.numeric._frombuffer,
    }


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a reference to something outside of it")


def read(path: Path) -> Any:
    """The dicts, lists and tuples of NumPy arrays, numbers and texts in a local pickle.

    Raises:
        InputError: the file holds or names anything else, in which case nothing of it has run, or
            it is not a pickle, or is cut short.
    """
    try:
        return _Unpickler(io.BytesIO(path.read_bytes())).load()
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is not opened, because it holds more than NumPy arrays and plain containers "
            f"or is damaged ({error}), and such a pickle can run code; fetch it from its authors "
            "again."
        ) from error
    # Damaged bytes read as instructions raise almost anything.
    except Exception as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__} while it was read); fetch it again."
        ) from error
