"""Static plan of the decoding loop: which steps share one compiled body, padded to which widths.

A scan needs every iteration to have one shape, so the groups of the steps it covers are padded to
the widest of them. Cutting the steps in K segments, each its own scan in the same program, trades
program size for less padding.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from lpd_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Segment:
    """Steps `first` to `last - 1` of the loop, run by one scan.

    Attributes:
        first, last: steps covered; step 0 is the prefill and belongs to no segment.
        context_width: widest preceding group, tokens that enter the cache.
        query_width: widest group, tokens that are asked for.
        room: places of the cache in all of the steps, the overhang of padded writes included.
    """

    first: int
    last: int
    context_width: int
    query_width: int
    room: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything about a generation that is fixed at compile time.

    Attributes:
        group_sizes: tokens generated in each step, their sum M.
        segments: partition of steps 1..S-1.
        num_known: known tokens that enter the cache in the prefill, with the class.
    """

    group_sizes: tuple[int, ...]
    segments: tuple[Segment, ...]
    num_known: int = 0

    @property
    def num_generated(self) -> int:
        """M, tokens to be generated."""
        return sum(self.group_sizes)

    @property
    def num_tokens(self) -> int:
        """N, tokens of the whole image."""
        return self.num_known + self.num_generated

    @property
    def starts(self) -> np.ndarray:
        """int32 [S], generation position of the first token of each step."""
        return np.cumsum([0, *self.group_sizes[:-1]]).astype(np.int32)

    @property
    def padded_work(self) -> float:
        """Token places computed, over token places needed (>= 1)."""
        sizes = self.group_sizes
        needed = 1 + self.num_known + sum(sizes) + sum(sizes[:-1])
        computed = 1 + self.num_known + sizes[0]
        computed += sum(
            (s.last - s.first) * (s.context_width + s.query_width) for s in self.segments
        )
        return computed / needed


def make_plan(group_sizes: Sequence[int], num_segments: int = 1, num_known: int = 0) -> Plan:
    """Cuts the steps in at most `num_segments` runs so that the padded work is least.

    Exact, by dynamic programming over cut points.

    Raises:
        InputError: no groups, an empty group, or no segment.
    """
    sizes = tuple(int(size) for size in group_sizes)
    if not sizes or min(sizes) < 1:
        raise InputError(f"group sizes {list(sizes)} must be one or more numbers of at least 1.")
    if num_segments < 1:
        raise InputError(f"segments={num_segments} must be at least 1.")
    steps = len(sizes)

    def segment(first: int, last: int) -> Segment:
        context_width = max(sizes[first - 1 : last - 1])
        return Segment(
            first=first,
            last=last,
            context_width=context_width,
            query_width=max(sizes[first:last]),
            room=1 + num_known + sum(sizes[: last - 2]) + context_width,
        )

    def work(first: int, last: int) -> int:
        return (last - first) * (max(sizes[first - 1 : last - 1]) + max(sizes[first:last]))

    # best[last] = (work, segments, cuts) of covering steps 1..last-1 with as many segments as are
    # allowed so far; of equal work, the fewer segments the better.
    best = {1: (0, 0, (1,))}
    for _ in range(min(num_segments, steps - 1)):
        longer = {
            last: min(
                (best[first][0] + work(first, last), best[first][1] + 1, (*best[first][2], last))
                for first in best
                if first < last
            )
            for last in range(2, steps + 1)
        }
        best |= {last: min(cost, best.get(last, cost)) for last, cost in longer.items()}
    cuts = best[steps][2]
    segments = tuple(segment(a, b) for a, b in itertools.pairwise(cuts))
    return Plan(sizes, segments, num_known)
