"""One layer of checks for everything that asks for images: notebooks and the tasks.

Each function takes what a caller gave and returns what the programs take, or raises `InputError`
with one sentence. Numbers are checked by `lpd_jax.checks`, guidance, temperature, top-k and top-p
by `lpd_jax.generation.sampling.sampling_rule`.

B images, N tokens.
"""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from lpd_jax import checks
from lpd_jax.errors import InputError
from lpd_jax.generation import groups, orders
from lpd_jax.generation.orders import LocalityAware
from lpd_jax.generation.sampling import SamplingRule, sampling_rule
from lpd_jax.generation.schedule import check_orders


def labels(values: Any, class_names: Sequence[str], num_classes: int, guidable: bool) -> np.ndarray:
    """Labels int32 [B] of a list of numbers and names of classes, mixed as one likes.

    Numbers are always labels and texts always names: "3" is the class of that name.

    Args:
        values: a sequence of B >= 1 labels.
        class_names: what the labels mean.
        num_classes: the label that generates without a class.
        guidable: the model was trained with label dropout, and can generate without a class.

    Raises:
        InputError: no list, an empty one, a label out of range, or a name that no class, or more
            than one, has.
    """
    if isinstance(values, np.ndarray | jax.Array):
        values = np.asarray(values)
        listed = values.tolist() if values.ndim == 1 else values
    else:
        listed = values
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not len(listed):
        raise InputError(f"labels={values!r} must be a list of numbers or names of classes: [3].")
    found = np.array([_label(value, class_names, num_classes) for value in listed], np.int32)
    if not guidable and num_classes in found:
        raise InputError(
            "generation without a class needs a model trained with label dropout, and this one was "
            "trained with train.label_drop=0; give a class, or train again with label_drop=0.1."
        )
    return found


def _label(value: Any, class_names: Sequence[str], num_classes: int) -> int:
    if isinstance(value, str):
        places = [i for i, name in enumerate(class_names) if name == value]
        if len(places) == 1:
            return places[0]
        if places:
            numbers = " and ".join(map(str, places))
            raise InputError(f"the classes {numbers} are all named {value!r}; give the number.")
        near = difflib.get_close_matches(value, class_names)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else ""
        few = ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
        raise InputError(f"no class is named {value!r}; {hint or f'the classes are {few}.'}")
    label = checks.whole("label", value)
    if not 0 <= label <= num_classes:
        raise InputError(
            f"label {label} is out of range: labels are a list of numbers from 0 to "
            f"{num_classes - 1} ({num_classes} generates without a class)."
        )
    return label


def order(
    given: Any,
    count: int,
    num_tokens: int,
    first_index: int = 0,
    *,
    proximity: float = 1.0,
    repulsion: float = 2.0,
) -> Any:
    """An order as the programs take it: one of `lpd_jax.generation.orders`, or int32 [B, N].

    Args:
        given: one of those, or the name of one, or orders int [images, N] (NumPy, jax or lists),
            of which image i of the run gets the i-th.
        count: B, the images from `first_index` on.
        num_tokens: N.
        first_index: index of the first image in the run.
        proximity, repulsion: thresholds of the name "locality".

    Raises:
        InputError: an unknown name, thresholds that are no finite numbers, orders of another shape
            or type, too few of them, or one that is no permutation.
    """
    if isinstance(given, LocalityAware):  # its numbers in one type, for one program
        return orders.named("locality", given.proximity, given.repulsion)
    if isinstance(given, str) and given == "confident":
        given = orders.Confident()
    if isinstance(given, orders.Confident):
        return orders.confident(given.threshold, given.noise)
    if hasattr(given, "draw"):
        return given
    if isinstance(given, str):
        return orders.named(given, proximity, repulsion)
    array = _array("order", given)
    if array.dtype.kind not in "iu" or not array.ndim:
        raise InputError(
            f"order={_brief(given)} must be the name of an order ({', '.join(orders.NAMES)}), one "
            "of lpd_jax.generation.orders, or whole numbers [images, tokens]."
        )
    if array.ndim != 2:
        raise InputError(
            f"orders of shape {list(array.shape)} were given; they must be [images, {num_tokens}], "
            "one row per image."
        )
    needed = first_index + count
    if len(array) < needed or array.shape[1] != num_tokens:
        last = f" up to image {needed - 1}" if first_index else ""
        raise InputError(
            f"{len(array)} orders of {array.shape[1]} tokens were given for {count} "
            f"images{last} of {num_tokens}; draw enough of them with the `orders` task."
        )
    taken = array[first_index:needed]
    check_orders(taken, num_tokens, first_index)
    return taken.astype(np.int32)


def group_sizes(values: Any, num_tokens: int) -> tuple[int, ...]:
    """Group sizes: S whole numbers of at least 1, sum N.

    Raises:
        InputError: anything else.
    """
    array = isinstance(values, np.ndarray | jax.Array)
    if isinstance(values, str) or not (array or isinstance(values, Sequence)):
        raise InputError(f"group_sizes={values!r} must be a list of whole numbers.")
    sizes = tuple(checks.whole("group size", size) for size in values)
    groups.check_group_sizes(sizes, num_tokens)
    return sizes


def steps(value: Any, num_tokens: int, kind: str = "cosine") -> tuple[int, ...]:
    """Group sizes of a number of steps from 1 to N, in the schedule "cosine" or "uniform".

    Raises:
        InputError: anything else.
    """
    return groups.group_sizes(num_tokens, checks.whole("steps", value), kind)


def rule(given: SamplingRule, guidable: bool) -> SamplingRule:
    """The rule with numbers that are checked and of one type; unguided for a model that is.

    Args:
        given: the rule.
        guidable: the model was trained with label dropout.

    Raises:
        InputError: no rule, a number out of range, or a guidance other than 1 that the model was
            not trained for.
    """
    if not isinstance(given, SamplingRule):
        raise InputError(f"rule={_brief(given)} must be one of `sampling_rule(...)`.")
    checked = sampling_rule(**vars(given))
    if guidable or checked.guidance is None:
        return checked
    if float(checked.guidance) != 1:
        raise InputError(
            "guidance needs a model trained with label dropout, and this one was trained with "
            "train.label_drop=0; set guidance to 1 or train again with label_drop=0.1."
        )
    return dataclasses.replace(checked, guidance=None)


def index(value: Any, count: int) -> int:
    """Index of the first of `count` images in the run.

    Raises:
        InputError: negative, no whole number, or beyond int32.
    """
    return checks.whole("first_index", value, 0, 2**31 - count)


def batch_size(value: Any) -> int | None:
    """Images per call of a program; None for all at once.

    Raises:
        InputError: below 1, or no whole number.
    """
    return None if value is None else checks.whole("batch_size", value, 1)


def images(given: Any, count: int, size: tuple[int, int]) -> np.ndarray:
    """Images to edit: uint8 [count, H, W, 3] of `size`, NumPy or jax.

    Raises:
        InputError: another type or shape.
    """
    array = np.asarray(given) if isinstance(given, jax.Array) else given
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        raise InputError("the images to edit must be a NumPy array of uint8, 0 to 255.")
    if array.shape != (count, *size, 3):
        raise InputError(
            f"images of shape {list(array.shape)} were given with {count} labels; this model "
            f"needs {[count, *size, 3]}."
        )
    return array


def _array(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except (TypeError, ValueError):  # lists of different lengths
        raise InputError(
            f"{name}={_brief(value)} is no array: its rows differ in length."
        ) from None


def _brief(value: Any) -> str:
    """`repr`, cut: arrays and models are long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
