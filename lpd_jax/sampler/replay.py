"""How finished images appeared, step by step."""

from collections.abc import Callable, Iterator

import numpy as np

from lpd_jax import pixels
from lpd_jax.generation.results import Partial


def replay(
    images: np.ndarray,
    step_map: np.ndarray,
    look: Callable[[np.ndarray], np.ndarray],
    cover: bool,
) -> Iterator[Partial]:
    """What was known from the start, if anything was, then one `Partial` per step.

    Args:
        images: uint8 [B, H, W, 3], the finished ones, which come last.
        step_map: int32 [B, h, w], the step at which a cell was generated; -1 for the start.
        look: bool [B, N] of the known cells -> uint8 [B, H, W, 3] of what they show.
        cover: hide the cells that are not known yet.
    """
    last = step_map.max()
    for step in range(-1 if (step_map < 0).any() else 0, last + 1):
        known = step_map <= step
        shown = images if step == last else look(known.reshape(len(known), -1))
        yield Partial(
            step + 1,
            pixels.hide_unknown(shown, known) if cover else shown,
            known.reshape(len(known), -1),
        )
