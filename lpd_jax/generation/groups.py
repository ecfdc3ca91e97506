"""Group sizes: how many tokens each step generates.

Dims: N tokens, S steps. A list of group sizes is a tuple of S positive ints that sum to N; the
first group holds one token, because nothing is known about the image yet.

The official table (orders/group_sizes_lookup.json of mit-han-lab/lpd) follows the cosine formula
g_i = N (cos(πi/2S) - cos(π(i+1)/2S)) with hand corrections of ±1 that make the sum N; models are
trained on its entries, so those corrections are kept as data.
"""

import numpy as np

from lpd_jax.errors import InputError

KINDS = ("cosine", "uniform")  # of group sizes that need no file

# (N, S) -> runs (first step, last step + 1, tokens added to each group) on the rounded formula; the
# one-token-per-step entries need none.
_CORRECTIONS = {
    (256, 8): ((0, 1, -4), (4, 7, 1)),
    (256, 12): ((0, 1, -1),),
    (256, 16): ((14, 15, -1),),
    (256, 20): (),
    (256, 24): ((16, 17, -1), (18, 19, -1), (21, 22, -1)),
    (256, 32): ((30, 32, -1),),
    (256, 64): ((43, 44, -1),),
    (256, 128): ((75, 87, -1),),
    (256, 256): (),
    (1024, 32): ((28, 29, -1),),
    (1024, 40): ((35, 36, -1),),
    (1024, 48): (),
    (1024, 56): ((46, 47, -1), (52, 53, -1)),
    (1024, 64): ((49, 50, -1), (55, 56, -1)),
    (1024, 80): ((54, 55, -1), (60, 61, -1), (67, 68, -1)),
    (1024, 96): (
        (46, 47, -1),
        (51, 52, -1),
        (57, 58, -1),
        (64, 65, -1),
        (72, 73, -1),
        (85, 86, -1),
    ),
    (1024, 128): ((94, 95, -1), (120, 121, -1)),
    (1024, 160): (
        (47, 48, -1),
        (59, 60, -1),
        (72, 73, -1),
        (86, 87, -1),
        (103, 104, -1),
        (126, 127, -1),
    ),
    (1024, 192): ((191, 192, 2),),
    (1024, 224): (
        (30, 32, -1),
        (51, 53, -1),
        (73, 74, -1),
        (97, 98, -1),
        (124, 125, -1),
        (161, 162, -1),
    ),
    (1024, 256): ((96, 98, -1), (130, 132, -1), (174, 176, -1)),
    (1024, 512): ((300, 350, -1),),
    (1024, 1024): (),
}


def cosine(num_tokens: int, steps: int) -> tuple[int, ...]:
    """Cosine schedule: int[S], non-decreasing, first group 1, all ≥ 1, sum N.

    Rounds the formula, keeps every group ≥ 1, then moves the surplus or shortage one token at a
    time, each from the group that rounding favoured most. Equal to the official table wherever the
    rounded formula already sums to N (20 steps of 256, 48 steps of 1024). One step takes all.

    Raises:
      InputError: fewer than one step or more steps than tokens.
    """
    _check_steps(num_tokens, steps)
    if steps == 1:
        return (num_tokens,)
    exact = _formula(num_tokens, steps)
    sizes = np.maximum(np.rint(exact).astype(int), 1)
    sizes[0] = 1
    while excess := int(sizes.sum()) - num_tokens:
        sign = 1 if excess > 0 else -1
        movable = (np.arange(steps) > 0) & (sizes - sign >= 1)
        sizes[np.argmax(np.where(movable, sign * (sizes - exact), -np.inf))] -= sign
    return tuple(np.sort(sizes).tolist())


def uniform(num_tokens: int, steps: int) -> tuple[int, ...]:
    """Equal groups: int[S], sum N, sizes differ by at most one, the smaller ones first.

    Raises:
      InputError: fewer than one step or more steps than tokens.
    """
    _check_steps(num_tokens, steps)
    small, larger = divmod(num_tokens, steps)
    return (small,) * (steps - larger) + (small + 1,) * larger


def official(num_tokens: int, steps: int) -> tuple[int, ...]:
    """The official table's entry: int[S], sum N.

    Raises:
      InputError: the table has no such entry.
    """
    if (num_tokens, steps) not in _CORRECTIONS:
        there = official_steps(num_tokens)
        raise InputError(
            f"The official table has no {steps}-step entry for {num_tokens} tokens (it has "
            f"{there if there else '256 and 1024 tokens only'}); use cosine(...) instead."
        )
    if steps == num_tokens:
        return (1,) * steps
    sizes = np.maximum(np.rint(_formula(num_tokens, steps)).astype(int), 1)
    for start, stop, extra in _CORRECTIONS[num_tokens, steps]:
        sizes[start:stop] += extra
    return tuple(sizes.tolist())


def official_steps(num_tokens: int) -> tuple[int, ...]:
    """Step counts the official table holds for N tokens, ascending; empty for other N."""
    return tuple(steps for n, steps in _CORRECTIONS if n == num_tokens)


def group_sizes(num_tokens: int, steps: int, kind: str = "cosine") -> tuple[int, ...]:
    """Group sizes int[S], sum N; steps == num_tokens gives one token per step in either kind.

    Args:
      num_tokens: N.
      steps: S, 1 ≤ S ≤ N.
      kind: 'cosine' is the official table where it has the entry and the formula elsewhere;
        'uniform' has equal groups.

    Raises:
      InputError: unknown kind, fewer than one step or more steps than tokens.
    """
    if kind == "uniform":
        return uniform(num_tokens, steps)
    if kind != "cosine":
        raise InputError(f"Group sizes are 'cosine' or 'uniform', not {kind!r}.")
    return (official if (num_tokens, steps) in _CORRECTIONS else cosine)(num_tokens, steps)


def check_group_sizes(sizes: tuple[int, ...], num_tokens: int) -> None:
    """Refuses group sizes that do not cut N tokens in non-empty groups.

    Raises:
      InputError: a group with no token (says which), or a sum other than N (says which).
    """
    for step, size in enumerate(sizes):
        if size < 1:
            raise InputError(
                f"Group {step} of {len(sizes)} has size {size}; every group needs at least one "
                "token."
            )
    if sum(sizes) != num_tokens:
        raise InputError(
            f"The {len(sizes)} group sizes sum to {sum(sizes)}, but there are {num_tokens} tokens "
            "to generate; make the sum equal."
        )


def step_of(sizes: tuple[int, ...]) -> np.ndarray:
    """Step number of each generation position: int32[N], non-decreasing, 0..S-1."""
    return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)


def _check_steps(num_tokens: int, steps: int) -> None:
    if not 1 <= steps <= num_tokens:
        raise InputError(
            f"{num_tokens} tokens cannot be generated in {steps} steps; choose 1 to {num_tokens}."
        )


def _formula(num_tokens: int, steps: int) -> np.ndarray:
    edges = num_tokens * np.cos(np.pi / 2 * np.arange(steps + 1) / steps)
    return edges[:-1] - edges[1:]
