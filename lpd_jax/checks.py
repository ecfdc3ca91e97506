"""The checks that command line and notebook share: numbers that are what they claim to be."""

import math
import numbers
from typing import Any

from lpd_jax.errors import InputError

_SEEDS = 2**32


def number(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite real number in [least, most], as a float; 0-d arrays are numbers too.

    Raises:
        InputError: anything else: None, text, True, NaN, infinity, an array, out of range.
    """
    value = _scalar(value)
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not least <= value <= most:
        raise InputError(f"{name}={value!r} must be a number{_range(least, most)}.")
    return float(value)


def whole(name: str, value: Any, least: float = -math.inf, most: float = math.inf) -> int:
    """A whole number in [least, most], as an int; 3.0 and True are none.

    Raises:
        InputError: anything else.
    """
    value = _scalar(value)
    integral = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not integral or not least <= value <= most:
        raise InputError(f"{name}={value!r} must be a whole number{_range(least, most)}.")
    return int(value)


def seed(value: Any, name: str = "seed") -> int:
    """A seed: a whole number from 0 to 4,294,967,295, all of which differ.

    Raises:
        InputError: anything else.
    """
    return whole(name, value, 0, _SEEDS - 1)


def _scalar(value: Any) -> Any:
    """A 0-d array (NumPy's or jax's) as the Python number in it; anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () else value


def _range(least: float, most: float) -> str:
    match math.isinf(least), math.isinf(most):
        case True, True:
            return ""
        case False, True:
            return f" of at least {least}"
        case True, False:
            return f" of at most {most}"
    return f" from {least} to {most}"
