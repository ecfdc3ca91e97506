"""TPUs that are not there, for which libtpu compiles on any machine.

What libtpu wants to find in the environment before jax is imported is in `launch/aot_check.py`.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from lpd_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip.

    Attributes:
        hbm_gib: memory of a chip, GiB (the compiler keeps up to 1.25 GiB of it to itself).
        dims: sizes in the name of a topology.
        flops_per_cycle: of bfloat16 products, two for each multiply-add.
        bytes_per_cycle: of memory.
        options: of the topology.
    """

    hbm_gib: int
    dims: int
    flops_per_cycle: int
    bytes_per_cycle: int
    options: tuple[tuple[str, str], ...] = ()


# Source: https://cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e ("HBM capacity per chip").
CHIPS = {
    # The two cores of a v4 chip work as one device, which jax's default topology does not know.
    # The clocks of the last two columns: peak FLOP/s of these pages over FLOPs a cycle.
    "v4": Chip(32, 3, 262144, 1170, (("chip_config_name", "megacore"),)),
    "v5e": Chip(16, 2, 131072, 545),
    "v5p": Chip(95, 3, 262144, 1580),
    "v6e": Chip(32, 2, 524288, 937),
}


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as "v5e:16x16".

    Raises:
        InputError: not a name of a topology, or of another chip.
    """
    kind, _, sizes = topology.partition(":")
    chip = CHIPS.get(kind)
    if chip is None or not re.fullmatch(r"[1-9]\d*" + (chip.dims - 1) * r"x[1-9]\d*", sizes):
        raise InputError(
            f"topology {topology!r} must be a chip and its sizes: v5e:16x16 or v6e:16x16 (two "
            "sizes), v4:4x4x4 or v5p:4x4x4 (three)."
        )
    return chip


def devices(topology: str, slices: int = 1) -> Sequence[jax.Device]:
    """The devices of `slices` slices of a topology; they can be compiled for, not run on.

    Raises:
        InputError: no such topology, or libtpu is missing.
    """
    options = dict(chip_of(topology).options)
    if slices > 1:
        options["num_slices"] = slices
    try:
        return topologies.get_topology_desc(topology, platform="tpu", **options).devices
    except (ImportError, RuntimeError) as error:
        if "not installed" in str(error):
            raise InputError(
                "compiling for TPUs needs libtpu, which is not installed: pip install -e '.[aot]'."
            ) from error
        reason = str(error).splitlines()[0].partition(": ")[2]
        raise InputError(
            f"libtpu knows no topology {topology}: {reason}; take sizes that are sold, such as "
            "v5e:16x16."
        ) from error


def chips_of(topology: str) -> int:
    """Chips of a topology such as "v5e:16x16"."""
    return math.prod(int(size) for size in topology.partition(":")[2].split("x"))
