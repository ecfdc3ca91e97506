"""How a model is sampled unless the caller says otherwise: what its `model.json` says of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from lpd_jax.errors import InputError
from lpd_jax.generation.sampling import SamplingRule, sampling_rule
from lpd_jax.sampler import checks

Guidance = float | Literal["default"] | None


@dataclasses.dataclass(frozen=True)
class Defaults:
    """Fields of a `sample` section; the values here are those of a model that says nothing.

    Attributes:
        steps: S; all N where a model has fewer tokens.
        group_sizes: S ints, sum N, instead of steps; or empty.
        group_schedule: "cosine" or "uniform".
        order: name of an order.
        proximity, repulsion: thresholds of the order "locality".
        guidance, guidance_schedule, temperature, top_k, top_p: see `SamplingRule`.
    """

    steps: int = 20
    group_sizes: tuple[int, ...] = ()
    group_schedule: str = "cosine"
    order: str = "locality"
    proximity: float = 1.0
    repulsion: float = 2.0
    guidance: float | None = 1.0
    guidance_schedule: str = "linear"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def sizes(self, num_tokens: int, steps: int | None = None) -> tuple[int, ...]:
        """Group sizes of `steps`, or of the model's own number of them.

        Raises:
            InputError: the steps or sizes do not fit N.
        """
        if steps is None and self.group_sizes:
            return checks.group_sizes(self.group_sizes, num_tokens)
        steps = min(self.steps, num_tokens) if steps is None else steps
        return checks.steps(steps, num_tokens, self.group_schedule)

    def rule(
        self, guidance: Guidance = "default", temperature: float | None = None
    ) -> SamplingRule:
        """The sampling rule, with another guidance (None for none) or temperature if given.

        Raises:
            InputError: a number is none, not finite, or out of its range.
        """
        return sampling_rule(
            temperature=self.temperature if temperature is None else temperature,
            guidance=self.guidance
            if isinstance(guidance, str) and guidance == "default"
            else guidance,
            guidance_schedule=self.guidance_schedule,
            top_k=self.top_k,
            top_p=self.top_p,
        )


def left_out(guidance: Guidance) -> bool:
    """Whether a call leaves the guidance to the model; None asks for none."""
    return isinstance(guidance, str) and guidance == "default"


def read(about: Mapping[str, Any] | None, num_tokens: int, guidable: bool) -> Defaults:
    """The `sampling` entry of a decoder's `model.json`, checked.

    A model that was trained without label dropout is sampled without guidance, whatever is written.

    Raises:
        InputError: unknown fields, or values that do not fit the model.
    """
    about = {} if about is None else about
    fields = {field.name for field in dataclasses.fields(Defaults)}
    unknown = sorted(set(about) - fields) if isinstance(about, Mapping) else [str(about)]
    if unknown:
        raise InputError(
            f"the sampling defaults hold {', '.join(unknown)}; they may hold "
            f"{', '.join(sorted(fields))}."
        )
    values = dict(about)
    if not guidable:
        values["guidance"] = None
    defaults = Defaults(**values | {"group_sizes": tuple(values.get("group_sizes") or ())})
    if "steps" in values and not defaults.group_sizes:
        checks.steps(defaults.steps, num_tokens, defaults.group_schedule)
    defaults.sizes(num_tokens), defaults.rule()
    checks.order(
        defaults.order, 1, num_tokens, proximity=defaults.proximity, repulsion=defaults.repulsion
    )
    return defaults
