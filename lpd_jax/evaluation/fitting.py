"""Group sizes fitted to a model: the cut of an order that costs least, by dynamic programming.

Generating positions a .. b-1 of an order at once costs the sum of their bits in view of the first
a alone. The best S groups of the first b tokens end with the best cut of S-1 groups of some first
a: `best[s, b] = min_a best[s - 1, a] + cost[a, b]`. As in ARDM (Hoogeboom et al., 2021, arXiv
2110.02037), where a token's cost depends on a alone; here it may depend on its position too.

The bits of a group depend a little on how the tokens before it were grouped, since those attend to
their own groups, and on the queries that are asked beside them. Costs are measured under one
grouping of what comes before, and with all that comes after asked at once: near enough to choose
by, so that what was chosen is measured itself before it is used.

Dims: M images, N image tokens, S steps.
"""

import numpy as np

from lpd_jax.errors import InputError
from lpd_jax.evaluation.likelihood import Bits


def group_costs(bits: Bits, orders: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    """What each possible group of these orders costs, in bits an image: one pass for each start.

    Args:
        bits: of `likelihood.scorer`, for M images.
        orders: int32 [M, N].
        sizes: how the tokens before a group are grouped.

    Returns:
        float64 [N + 1, N + 1]; entry [a, b] is of the group of positions a .. b-1, infinite where
        b <= a.
    """
    tokens = orders.shape[1]
    costs = np.full((tokens + 1, tokens + 1), np.inf)
    for start in range(tokens):
        steps = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        steps[start:] = len(sizes)  # all that is left at once
        costs[start, start + 1 :] = np.cumsum(bits(orders, steps).mean(0)[start:])
    return costs


def fitted_sizes(costs: np.ndarray, steps: int) -> tuple[int, ...]:
    """The S group sizes of least cost, and sum N.

    Args:
        costs: of `group_costs`.
        steps: S.

    Raises:
        InputError: fewer than one step or more steps than tokens.
    """
    tokens = len(costs) - 1
    if not 1 <= steps <= tokens:
        raise InputError(
            f"{tokens} tokens cannot be generated in {steps} steps; choose 1 to {tokens}."
        )
    best, starts = costs[0], []
    for _ in range(steps - 1):
        totals = best[:, None] + costs
        starts.append(np.argmin(totals, axis=0))
        best = np.min(totals, axis=0)
    ends = [tokens]
    for start in reversed(starts):
        ends.append(int(start[ends[-1]]))
    return tuple(np.diff([0, *reversed(ends)]).tolist())
