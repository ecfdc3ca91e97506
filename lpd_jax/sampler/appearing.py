"""Images step by step: those that are being made, and how finished ones appeared."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from lpd_jax import distributed, pixels
from lpd_jax.generation import stepwise
from lpd_jax.generation.plan import Plan
from lpd_jax.generation.results import Partial
from lpd_jax.generation.sampling import SamplingRule
from lpd_jax.models.decoder import Decoder
from lpd_jax.models.tokenizer import Tokenizer
from lpd_jax.sampler.stream import Batches, Take


def live(
    networks: tuple[Decoder, Tokenizer, tuple[Any, Any]],
    given: Callable[[Take], tuple[Any, ...]],
    edited: tuple[np.ndarray, ...],
    plan: Plan,
    rule: SamplingRule,
    batches: Batches,
    count: int,
    every: int,
    cover: bool,
) -> Iterator[Partial]:
    """Generates, and yields what was known from the start, looks on the way, and the last images.

    The next step is started before a look is waited for, so that the devices have work meanwhile.

    Args:
        networks: decoder, tokenizer and their parameters.
        given: of the `take` of a batch (see `Batches.run`), its labels, indices, key and order.
        edited: images float32 [B, H, W, 3] and cells to generate bool [B, N]; or ().
        plan, rule: of all steps.
        batches: how rows lie on the devices.
        count: images.
        every: steps from one look to the next.
        cover: hide the cells that are not known yet.
    """
    decoder, tokenizer, params = networks
    grid, on = decoder.config.grid, batches.on_devices
    take, parts = batches.whole(count)
    rest = plan, grid, parts

    def look(done: int) -> tuple[int, jax.Array, jax.Array]:
        return done, *on(stepwise.look, tokenizer, params[1], run, np.int32(done), *rest)

    def arrived(look: tuple[int, jax.Array, jax.Array]) -> Partial:
        images, known = (x[:count] for x in distributed.to_host(look[1:]))
        if cover:
            images = pixels.hide_unknown(images, known.reshape(-1, *grid))
        return Partial(look[0], images, known)

    if edited:
        arrays = (*map(take, edited), *given(take))
        run, cache = on(stepwise.begin_edit, *networks, *arrays, plan, rule, parts)
    else:
        run, cache = on(stepwise.begin, decoder, params[0], *given(take), plan, rule)
    looks = [look(0)] if plan.num_known else []
    for number, segment in stepwise.later_steps(plan):
        if number % every == 0:
            looks.append(look(int(number)))
        run, cache = on(stepwise.step, decoder, params[0], run, cache, number, plan, segment, rule)
        yield from map(arrived, looks)
        looks = []
    samples = on(stepwise.finish, tokenizer, params[1], run, *rest)
    yield from map(arrived, looks)  # there is one still where a single step does all
    images = distributed.to_host(samples.images)[:count]
    yield Partial(len(plan.group_sizes), images, np.ones((count, plan.num_tokens), bool))


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
