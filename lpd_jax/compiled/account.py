"""Where the cycles of a program for a TPU go, by the compiler's own account.

libtpu notes how many cycles it expects of each instruction. Multiplied out over loops that is a
benchmark of a program which is the same on every machine and needs no TPU. It is a model of the
chip and no clock: it compares programs, and says nothing about seconds.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from lpd_jax.compiled import hlo
from lpd_jax.compiled.targets import Chip

# Pattern in the name of the source operation -> part; the first that is found counts.
Parts = Sequence[tuple[str, str]]
TRAIN: Parts = (
    (r"rematted_computation", "layers, computed again"),
    (r"transpose\(jvp\(Decoder\.hidden\)\)/Decoder\._run/", "layers, backward"),
    (r"Decoder\.hidden\)/Decoder\._run/", "layers, forward"),
    (r"Decoder\.hidden|take_along_axis", "embeddings"),
    (r"Decoder\.logits|jvp\(\)", "head and loss"),
    (r"permutation|jit\(draw\)|random_bits", "orders and schedules"),
    (r"", "optimizer and the rest"),
)
GENERATE: Parts = (
    (r"draw_orders", "orders"),
    (r"Tokenizer\.", "VQ decoder"),
    (r"jit\((generate|edit)\)/while(/|$)", "loop over steps"),
    (r"", "first step and cache"),
)

_CONTROL = ("while", "conditional", "call", "async-start")
_FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
    *("partition-id", "replica-id", "opt-barrier", "domain"),
)
# Custom calls by which the compiler talks to itself; they leave no code behind.
_NOTES = re.compile(
    r'custom_call_target="(ConcatBitcast|AssumeGatherIndicesInBound|AllocateBuffer|NopReturnToken'
    r'|GatherScatterIndicesBitpacked|Sharding|SPMD\w*|TODO[^"]*)"'
)
_KERNEL = 'custom_call_target="tpu_custom_call"'
_SLICES = ("dynamic-slice", "slice", "gather")
_VMEM = re.compile(r"[a-z]\w*\[[\d,]*\]\{[^{}]*S\(1\)[^{}]*\}")


@dataclasses.dataclass(frozen=True)
class Line:
    """The instructions that were made for one operation of the program.

    Attributes:
        part: of the program.
        kind: "fusion", "convolution", "copy", ...
        source: the operation, with its scopes; of the loop around it where it has no name itself.
        shape: that one of them leaves.
        times: how often they run, all together.
        cycles: that the compiler expects; 0 where it has no figure.
        flops: of their products.
        bytes: that they read from and write to the chip's memory. What only a part is taken of
            counts as that part; what stays in vector memory does not count.
    """

    part: str
    kind: str
    source: str
    shape: str
    times: int
    cycles: int
    flops: int
    bytes: int


class Part(NamedTuple):
    """Cycles, FLOPs of products and bytes of one part of a program."""

    cycles: int
    flops: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Account:
    """The cycles of a program, taken apart.

    Attributes:
        chip: whose.
        cycles: of all instructions that have a figure, kernels not among them.
        parts: name -> its share of them.
        lines: the dearest first.
        kernels: Mosaic (Pallas) kernels, which the compiler has no figure for. `cycles` of these is
            a charge: twice the larger of the times that their FLOPs, as their author states them,
            and their bytes need at the chip's peak.
        unpriced: whatever else has no figure, collectives and transfers among it.
    """

    chip: Chip
    cycles: int
    parts: dict[str, Part]
    lines: tuple[Line, ...]
    kernels: tuple[Line, ...]
    unpriced: tuple[Line, ...]

    @property
    def charged(self) -> int:
        """Cycles, kernels included."""
        return self.cycles + sum(line.cycles for line in self.kernels)

    @property
    def utilisation(self) -> float:
        """Share of the chip's peak that the products reach, kernels included."""
        flops = sum(line.flops for line in (*self.lines, *self.kernels))
        return flops / max(1, self.charged) / self.chip.flops_per_cycle

    def describe(self, lines: int) -> str:
        """Lines for people: parts, and the dearest lines with the ends of their names."""

        def figures(cycles: int, flops: int, moved: int) -> str:
            used = flops / max(1, cycles) / self.chip.flops_per_cycle
            memory = moved / max(1, cycles) / self.chip.bytes_per_cycle
            share = cycles / max(1, self.charged)
            return f"{cycles / 1e6:12.2f} M{share:7.1%}{used:8.1%}{memory:8.1%}"

        texts = [f"  {'of expected cycles':<24}{'':>14}{'share':>7}{'MXU':>8}{'memory':>8}"]
        texts += [f"  {name:<24}{figures(*part)}" for name, part in self.parts.items()]
        shown = [*self.lines[:lines], *self.kernels]
        for line in shown if lines else ():
            own = figures(line.cycles, line.flops, line.bytes)
            what = f"{line.times} x {line.kind} {line.source[-70:]} {line.shape.partition('{')[0]}"
            texts.append(f"  {'':<24}{own}  {what}")
        for line in self.unpriced[: lines // 4]:
            amount = f"{line.bytes / 1e6:12.1f} MB"
            texts.append(
                f"  {'no figure':<24}{amount}  {line.times} x {line.kind} {line.source[-70:]}"
            )
        return "\n".join(texts)

    def row(self, lines: int) -> dict[str, Any]:
        """JSON data: totals, parts, and the dearest lines."""
        return {
            "cycles": self.charged,
            "utilisation": round(self.utilisation, 4),
            "parts": {name: part._asdict() for name, part in self.parts.items()},
            "lines": [dataclasses.asdict(line) for line in self.lines[:lines]],
            "kernels": [dataclasses.asdict(line) for line in self.kernels],
            "unpriced": [dataclasses.asdict(line) for line in self.unpriced[:lines]],
        }


def account(text: str, parts: Parts, chip: Chip) -> Account:
    """Reads the HLO text that the TPU compiler leaves after its last pass.

    Args:
        text: HLO.
        parts: how to name the parts of this program, such as `TRAIN`.
        chip: that it was compiled for.
    """
    reader = hlo.Reader(text)
    found: dict[str, list[Line]] = {"lines": [], "kernels": [], "unpriced": []}
    for where, line in _lines(reader, parts, chip, reader.entry, 1, ""):
        found[where].append(line)
    lines = _summed(found["lines"])
    return Account(
        chip=chip,
        cycles=sum(line.cycles for line in lines),
        parts={
            name: Part(*(sum(getattr(x, f) for x in lines if x.part == name) for f in Part._fields))
            for name in dict.fromkeys(name for _, name in parts)
            if any(line.part == name for line in lines)
        },
        lines=lines,
        kernels=_summed(found["kernels"]),
        unpriced=_summed(found["unpriced"]),
    )


def _summed(lines: Iterable[Line]) -> tuple[Line, ...]:
    """One line for each kind and source; the dearest, then the largest first."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.kind, line.source), []).append(line)
    names = ("times", "cycles", "flops", "bytes")
    sums = (
        dataclasses.replace(group[0], **{n: sum(getattr(x, n) for x in group) for n in names})
        for group in groups.values()
    )
    return tuple(sorted(sums, key=lambda line: (-line.cycles, -line.bytes)))


def _lines(
    reader: hlo.Reader, parts: Parts, chip: Chip, computation: str, times: int, around: str
) -> Iterator[tuple[str, Line]]:
    """Where each instruction belongs, and its line, multiplied by how often it runs."""
    for i in reader.computations[computation]:
        name = re.search(r'op_name="([^"]*)"', i.text)
        source = name[1] if name else around
        if i.operation in _CONTROL:
            for runs, callee in reader.callees_of(i):
                yield from _lines(reader, parts, chip, callee, times * runs, source)
            continue
        called = [callee for _, callee in reader.callees_of(i)]
        cycles = hlo.own_cycles(i) + sum(reader.total(hlo.own_cycles, c) for c in called)
        flops = reader.own_flops(i) + sum(reader.total(reader.own_flops, c) for c in called)
        moved = _bytes_moved(reader, i)
        where = "lines"
        if _KERNEL in i.text:
            where, flops = "kernels", _stated_flops(i.text)
            cycles = round(2 * max(flops / chip.flops_per_cycle, moved / chip.bytes_per_cycle))
        elif not cycles:
            if i.operation in _FREE or i.operation.endswith("-done") or _NOTES.search(i.text):
                continue
            where = "unpriced"
        part = next(part for pattern, part in parts if re.search(pattern, source))
        amounts = (times * amount for amount in (1, cycles, flops, moved))
        yield where, Line(part, i.operation, source, i.shape.strip(), *amounts)


def _stated_flops(text: str) -> int:
    found = re.search(r'"cost_estimate":\{[^}]*"flops":"?(\d+)', text)
    return int(found[1]) if found else 0


def _bytes_moved(reader: hlo.Reader, i: hlo.Instruction) -> int:
    """Bytes of operands and results that are not in vector memory."""
    moved = hlo.size_of(_VMEM.sub("", i.shape))
    taken = _taken(reader, i)
    for number, name in enumerate(i.operands):
        if name in reader.defined:
            shape = _VMEM.sub("", reader.defined[name].shape)
            moved += min(hlo.size_of(shape), taken.get(number, 2**63))
    return moved


def _taken(reader: hlo.Reader, i: hlo.Instruction) -> dict[int, int]:
    """Number of an operand of a fusion -> bytes, where only slices of it are used."""
    taken: dict[int, int] = {}
    for _, callee in reader.callees_of(i) if i.operation == "fusion" else ():
        body = reader.computations[callee]
        for parameter in body:
            number = re.search(r"parameter\((\d+)\)", parameter.text)
            users = [x for x in body if parameter.name in x.operands]
            if number and users and all(x.operation in _SLICES for x in users):
                taken[int(number[1])] = sum(hlo.size_of(x.shape) for x in users)
    return taken
