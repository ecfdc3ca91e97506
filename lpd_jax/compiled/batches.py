"""Which batch to compile next in the search for the largest that fits.

What a batch that fits needs an image promises the largest power of two of images a chip that leaves
a fifth of the memory free, there and on other slices; where that does not fit it is halved. (With
less free the compiler looks for memory for a quarter of an hour.)
"""

import math
from collections.abc import Sequence
from typing import Any

from lpd_jax.compiled.targets import chip_of, chips_of

_GIB = 2**30
_FREE = 0.8  # share of the memory that a promise may fill


def next_batch(
    rows: list[dict[str, Any]], published: int, topology: str, kin: Sequence[dict[str, Any]] = ()
) -> int | None:
    """The batch to compile next for a cell; None when the largest is known.

    Args:
        rows: of the cell; `fits`, `batch`, `topology`, `peak` and `temporary` are used.
        published: batch of the model, at least one image for each chip is tried.
        topology: of the cell.
        kin: rows of the model on other slices.
    """
    chips = chips_of(topology)
    least, tried = max(published, chips), {row["batch"] for row in rows}
    fitting = [row for row in rows if row["fits"]]
    if rows and not fitting:
        half = min(tried) // 2
        return half if half >= chips else None
    known = fitting or [row for row in kin if row["fits"]]
    if not known:
        return least
    # The larger, the less is in it that does not grow.
    best = max(known, key=lambda row: row["batch"] / chips_of(row["topology"]))
    promised = chips * images_a_chip(best, chip_of(topology).hbm_gib * _GIB)
    if not rows:
        return max(promised, least)
    while promised > max(row["batch"] for row in fitting):
        if promised not in tried:
            return promised
        promised //= 2
    return None


def images_a_chip(row: dict[str, Any], memory: int) -> int:
    """Largest power of two that a row promises for chips of that many bytes; at least 1."""
    # Temporaries grow with the batch, nothing else does: each chip has its part of the parameters.
    image = row["temporary"] * chips_of(row["topology"]) / row["batch"]
    room = (_FREE * memory - row["peak"] + row["temporary"]) / image
    return 2 ** max(0, math.floor(math.log2(max(room, 1))))
