"""What a compiled program does on one device, read from its optimized HLO text.

XLA's own cost analysis counts the body of a loop once; a scan over 48 layers is then 48 times too
cheap. Here loops are multiplied out.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
    "ragged-all-to-all",
)
_HOST_OPS = ("infeed", "outfeed", "send", "recv")
_HOST_CALLS = re.compile(r'custom_call_target="[^"]*(callback|[Hh]ost)[^"]*"')
_HOST_MEMORY = re.compile(r"\{[^{}]*S\(5\)[^{}]*\}")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_ASSIGNMENT = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPERATION = re.compile(r"(?:^|\s)([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|called_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_LOOP = re.compile(r"\bcondition=%?([\w.\-]+), body=%?([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Cost:
    """Work of one device in one run of a program.

    Attributes:
        flops: of matrix products and convolutions, two for each multiply-add; padding is not
            counted, recomputation is.
        collective_bytes: kind of collective -> bytes of the arrays that it puts together or takes
            apart, as one device holds them.
        host_transfers: names of instructions that exchange data with the host while it runs.
        open_loops: loops whose trip count the text does not tell; counted as one trip.
        cycles: that the TPU compiler expects the instructions to take, by its model of the chip and
            not by measurement, without those that it has no figure for; None if it gives none.
    """

    flops: int
    collective_bytes: dict[str, int]
    host_transfers: tuple[str, ...]
    open_loops: tuple[str, ...]
    cycles: int | None


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of the text: `shape` is of its result, `text` what follows its name."""

    name: str
    shape: str
    operation: str
    operands: tuple[str, ...]
    text: str


def cost(text: str) -> Cost:
    """Reads the text of a compiled program, `compiled.as_text()`."""
    return Reader(text).cost()


@dataclasses.dataclass(frozen=True)
class Collective:
    """An exchange between devices.

    Attributes:
        kind: "all-reduce", "all-gather", ...
        dims: of the (first) array that it leaves on each device.
        times: how often it runs.
        source: the operation of the program that it was made for, with its scopes.
    """

    kind: str
    dims: tuple[int, ...]
    times: int
    source: str


def loop_collectives(text: str) -> list[Collective]:
    """The collectives inside of loops, for which devices wait for each other again and again."""
    reader = Reader(text)

    def walk(computation: str, times: int, inside: bool) -> Iterator[Collective]:
        for i in reader.computations[computation]:
            kind = i.operation.removesuffix("-start")
            if inside and kind in _COLLECTIVES:
                source = re.search(r'op_name="([^"]*)"', i.text)
                yield Collective(kind, tuple(_dims(i.shape)), times, source[1] if source else "")
            for runs, callee in reader.callees_of(i):
                yield from walk(callee, times * runs, inside or i.operation == "while")

    return list(walk(reader.entry, 1, False))


class Reader:
    """The computations of a program, and sums over what they call."""

    def __init__(self, text: str):
        self.computations, self.entry = _parse(text)
        self.defined = {i.name: i for body in self.computations.values() for i in body}

    def cost(self) -> Cost:
        collectives: Counter[str] = Counter()
        for kind, size in self.collectives(self.entry).values():
            collectives[kind] += size
        everything = list(self.defined.values())
        return Cost(
            flops=self.total(self.own_flops, self.entry),
            collective_bytes=dict(sorted(collectives.items())),
            host_transfers=tuple(i.name for i in everything if _is_host_transfer(i)),
            open_loops=tuple(
                i.name for i in everything if i.operation == "while" and not self.trips(i)
            ),
            cycles=self.total(own_cycles, self.entry) or None,
        )

    @functools.cache  # noqa: B019 - a reader lives for one text
    def total(self, own: Callable[[Instruction], int], computation: str) -> int:
        """Sum of `own` over the instructions of a computation and of what it calls."""
        here = sum(own(i) for i in self.computations[computation])
        return here + sum(n * self.total(own, c) for n, c in self.callees(computation))

    @functools.cache  # noqa: B019
    def collectives(self, computation: str) -> dict[str, tuple[str, int]]:
        """Channel -> kind and bytes.

        An asynchronous collective appears in several fusions, its start, its end and what runs in
        between, all with one channel.
        """
        found = dict(self.own_collectives(computation))
        for times, callee in self.callees(computation):
            for channel, (kind, size) in self.collectives(callee).items():
                size = max(times * size, found.get(channel, (kind, 0))[1])
                found[channel] = kind, size
        return found

    def own_collectives(self, computation: str) -> Iterator[tuple[str, tuple[str, int]]]:
        for i in self.computations[computation]:
            kind = i.operation.removesuffix("-start")
            if kind not in _COLLECTIVES:
                continue
            operands = sum(size_of(self.defined[name].shape) for name in i.operands)
            result = size_of(i.shape)
            if i.operation.endswith("-start") and result > operands:
                result -= operands  # the result of a start carries its operands along
            # The TPU compiler writes reduce-scatter as an all-reduce in a fusion of this name.
            fused = kind == "all-reduce" and "reduce-scatter" in computation
            channel = re.search(r"\bchannel_id=(\d+)", i.text)
            yield (
                channel[1] if channel else i.name,
                ("reduce-scatter" if fused else kind, max(operands, result)),
            )

    def callees(self, computation: str) -> Iterator[tuple[int, str]]:
        for i in self.computations[computation]:
            yield from self.callees_of(i)

    def callees_of(self, i: Instruction) -> Iterator[tuple[int, str]]:
        """How often one run of an instruction runs a computation, and which."""
        if i.operation == "while":
            condition, body = _LOOP.search(i.text).groups()
            yield 1, condition
            yield self.trips(i) or 1, body
            return
        for name in _CALLED.findall(i.text):
            yield 1, name
        for names in _BRANCHES.findall(i.text):
            yield from ((1, name.strip().lstrip("%")) for name in names.split(","))

    def trips(self, loop: Instruction) -> int | None:
        """Trip count that the backend noted, or the bound of a counter that starts from zero."""
        if known := re.search(r'known_trip_count\W+"?n"?\W+(\d+)', loop.text):
            return int(known[1])
        condition = self.computations[_LOOP.search(loop.text)[1]]
        for i in condition:
            if i.operation == "compare" and "direction=LT" in i.text:
                bound = self.defined[i.operands[1]]
                constant = re.search(r"constant\((\d+)\)", bound.text)
                return int(constant[1]) if constant else None
        return None

    def own_flops(self, i: Instruction) -> int:
        if i.operation not in ("dot", "convolution"):
            return 0
        left, right = (_dims(self.defined[name].shape) for name in i.operands[:2])
        if i.operation == "dot":
            contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", i.text)[1]
            depth = math.prod(left[int(d)] for d in contracted.split(",") if d)
            return 2 * math.prod(_dims(i.shape)) * depth
        return _convolution_flops(i.text, left, right, _dims(i.shape))


def own_cycles(i: Instruction) -> int:
    """Cycles that the TPU compiler expects of one instruction; 0 where it has no figure."""
    found = re.search(r'"estimated_cycles":"(\d+)"', i.text)
    # The largest number stands for "no idea".
    return int(found[1]) if found and int(found[1]) < 2**62 else 0


def _parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    computations: dict[str, list[Instruction]] = {}
    entry = ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            body = computations[head[2]] = []
            entry = head[2] if head[1] else entry
        elif found := _ASSIGNMENT.match(line):
            rest = found[2]
            operation = _OPERATION.search(rest)
            arguments = rest[operation.end() :].partition(")")[0]
            operands = tuple(re.findall(r"%([\w.\-]+)", arguments))
            body.append(
                Instruction(found[1], rest[: operation.start()], operation[1], operands, rest)
            )
    return computations, entry


def _dims(shape: str) -> list[int]:
    """Sizes of the first array of a shape."""
    return [int(d) for d in _ARRAY.search(shape)[2].split(",") if d]


def size_of(shape: str) -> int:
    """Bytes of all arrays of a shape, tuples included."""
    bits = 0
    for dtype, dims in _ARRAY.findall(shape):
        width = re.search(r"\d+", dtype)
        size = _BITS[dtype] if dtype in _BITS else int(width[0])
        bits += size * math.prod(int(d) for d in dims.split(",") if d)
    return bits // 8


def _convolution_flops(
    text: str, left: Sequence[int], right: Sequence[int], out: Sequence[int]
) -> int:
    """Multiply-adds that meet data rather than padding, times two.

    TPUs know matrix products as convolutions, a batch of them as a dilated one of which most taps
    meet padding; as in XLA's own `HloCostAnalysis::HandleConvolution`.
    """
    window = re.search(r"window=\{([^}]*)\}", text)
    fields = dict(f.split("=") for f in window[1].split()) if window else {}
    a, b, c = re.split(r"_|->", re.search(r"dim_labels=([\w>\-]+)", text)[1])
    groups = int(found[1]) if (found := re.search(r"batch_group_count=(\d+)", text)) else 1
    flops = 2 * out[c.index("b")] * out[c.index("f")] * right[b.index("i")] // groups
    for axis in range(len(c) - 2):
        taps = {
            name: [int(x) for x in fields[name].split("x")[axis].split("_")]
            for name in ("size", "stride", "pad", "lhs_dilate", "rhs_dilate")
            if name in fields
        }
        stride, apart = taps.get("stride", [1])[0], taps.get("rhs_dilate", [1])[0]
        spread, pad = taps.get("lhs_dilate", [1])[0], taps.get("pad", [0])[0]
        length = left[a.index(str(axis))]
        places = (
            place * stride + tap * apart - pad
            for place in range(out[c.index(str(axis))])
            for tap in range(right[b.index(str(axis))])
        )
        flops *= sum(p >= 0 and p % spread == 0 and p // spread < length for p in places)
    return flops


def _is_host_transfer(i: Instruction) -> bool:
    operation = i.operation.removesuffix("-start").removesuffix("-done")
    return (
        operation in _HOST_OPS
        or bool(operation == "custom-call" and _HOST_CALLS.search(i.text))
        or bool(_HOST_MEMORY.search(i.shape))
    )
