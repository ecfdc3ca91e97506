"""What a click asks for: checked, and rounded up to the shapes that programs are compiled for.

A program is compiled for a number of images, of steps and (in an edit) of cells to generate. Images
and cells are rounded up to one of a few numbers, and steps are chosen from a list, so that sliders
move without a compilation. Class, seed, guidance, temperature and thresholds are data in any case.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from lpd_jax import checks
from lpd_jax.errors import InputError
from lpd_jax.generation import orders
from lpd_jax.sampler import Sampler
from lpd_jax.sampler import checks as sampler_checks

_STEPS = (1, 2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)  # of whole images, to choose from
MOST_CLASSES = 16
GUIDANCE = (0.0, 10.0)  # least and most that the page offers
TEMPERATURE = (0.0, 2.0)
PROXIMITY = (0.0, 4.0)
REPULSION = (0.0, 8.0)


@dataclasses.dataclass(frozen=True)
class Request:
    """One set of images.

    Attributes:
        classes: labels to choose from, in turns; at least one.
        count: images.
        steps: decoding steps of a whole image.
        guidance: scale, None for a model without it.
        temperature: 0 takes the best code.
        order: name of a generation order.
        proximity, repulsion: thresholds of the order "locality".
        seed: 0 to 2^32 - 1.
    """

    classes: tuple[int, ...]
    count: int
    steps: int
    guidance: float | None
    temperature: float
    order: str
    proximity: float
    repulsion: float
    seed: int

    @property
    def labels(self) -> list[int]:
        """A label for each image: the classes in turns, as the task `sample` does."""
        return [self.classes[i % len(self.classes)] for i in range(self.count)]


def request(
    sampler: Sampler,
    most: int,
    classes: Any,
    count: Any,
    steps: Any,
    guidance: Any,
    temperature: Any,
    order: Any,
    proximity: Any,
    repulsion: Any,
    seed: Any,
) -> Request:
    """The checked request of what the page's controls hold.

    Args:
        sampler: the models.
        most: images a click may ask for.
        classes: labels, one or several.
        count, steps, guidance, temperature, order, proximity, repulsion, seed: see `Request`.

    Raises:
        InputError: a value is none of those that the page offers.
    """
    classes = classes if isinstance(classes, Sequence) else [classes]
    if not 1 <= len(classes) <= MOST_CLASSES:
        raise InputError(f"choose 1 to {MOST_CLASSES} classes; {len(classes)} were chosen.")
    network = sampler.decoder.config
    labels = sampler_checks.labels(
        [*classes], sampler.class_names, network.num_classes, sampler.guidable
    )
    if _number("steps", steps) not in step_choices(sampler):
        raise InputError(
            f"steps={steps} must be one of {', '.join(map(str, step_choices(sampler)))}."
        )
    if not isinstance(order, str) or order not in orders.NAMES:
        raise InputError(f"order={order!r} must be one of {', '.join(orders.NAMES)}.")
    return Request(
        classes=tuple(labels.tolist()),
        count=_number("images", count, 1, most),
        steps=int(steps),
        guidance=checks.number("guidance", guidance, *GUIDANCE) if sampler.guidable else None,
        temperature=checks.number("temperature", temperature, *TEMPERATURE),
        order=order,
        proximity=checks.number("proximity", proximity, *PROXIMITY),
        repulsion=checks.number("repulsion", repulsion, *REPULSION),
        seed=checks.seed(_number("seed", seed)),
    )


def _number(name: str, value: Any, *limits: float) -> int:
    """A whole number, also one that the page holds as 3.0."""
    whole = isinstance(value, float) and value.is_integer()
    return checks.whole(name, int(value) if whole else value, *limits)


def step_choices(sampler: Sampler) -> list[int]:
    """Numbers of steps to choose from: a list, and the model's own number."""
    num_tokens = sampler.decoder.config.num_tokens
    return sorted({s for s in _STEPS if s <= num_tokens} | {own_steps(sampler)})


def own_steps(sampler: Sampler) -> int:
    """The steps that the model is sampled with unless a call says otherwise."""
    return len(sampler.defaults.sizes(sampler.decoder.config.num_tokens))


def steps_given(sampler: Sampler, steps: int) -> int | None:
    """`steps` for a call of the sampler: None where the model has group sizes of that number."""
    fitted = bool(sampler.defaults.group_sizes) and steps == own_steps(sampler)
    return None if fitted else steps


def image_bucket(count: int, most: int) -> int:
    """Images that are generated where `count` are asked for: the next power of two, or `most`."""
    return min(1 << (count - 1).bit_length(), most)


def cell_bucket(cells: int, num_tokens: int) -> int:
    """Cells that are generated where `cells` of N are marked: 1/16 of them, or 1/8 to 8/8."""
    shares = (1, *range(2, 17, 2))
    return next(size for n in shares if (size := -(-n * num_tokens // 16)) >= cells)
