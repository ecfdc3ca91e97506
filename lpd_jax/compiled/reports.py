"""What a program needs on each chip that it is compiled for."""

import dataclasses
import math
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lpd_jax import parallel
from lpd_jax.compiled import hlo
from lpd_jax.compiled.account import Account, account
from lpd_jax.compiled.programs import Program
from lpd_jax.compiled.targets import Chip

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Report:
    """What a program needs on each chip.

    Attributes:
        name: of the program.
        fits: the compiler found room for it.
        parts: bytes of what goes in, by name.
        peak: bytes in use at the worst moment, programs and arguments included; of a program that
            does not fit what the compiler said that it would take.
        limit: bytes of memory.
        temporary, code: bytes of activations and other temporaries, and of the program.
        cost: FLOPs, collectives, host transfers; None if it does not fit.
        account: where its cycles go; None if it does not fit or the compiler says nothing.
        lower_seconds, compile_seconds: wall-clock time of tracing and of the compiler.
        cpu_seconds: CPU time of the compiler, which other work on the machine does not change.
    """

    name: str
    fits: bool
    parts: dict[str, int]
    peak: int
    limit: int
    temporary: int
    code: int
    cost: hlo.Cost | None
    account: Account | None
    lower_seconds: float
    compile_seconds: float
    cpu_seconds: float


def check(program: Program, chip: Chip, mesh: jax.sharding.Mesh, rules: parallel.Rules) -> Report:
    """Compiles a program and reads off what it needs."""
    start = time.perf_counter()
    with parallel.use(mesh, rules):
        lowered = program.function.lower(*program.args)
        middle, cpu = time.perf_counter(), time.process_time()
        compiled, text = _compile(lowered)
    report = Report(
        name=program.name,
        fits=False,
        parts={name: _bytes_per_device(tree) for name, tree in program.parts.items()},
        peak=0,
        limit=chip.hbm_gib * GIB,
        temporary=0,
        code=0,
        cost=None,
        account=None,
        lower_seconds=middle - start,
        compile_seconds=time.perf_counter() - middle,
        cpu_seconds=time.process_time() - cpu,
    )
    if isinstance(compiled, int):
        return dataclasses.replace(report, peak=compiled)
    memory = compiled.memory_analysis()
    temporary, code = memory.temp_size_in_bytes, memory.generated_code_size_in_bytes
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = memory.argument_size_in_bytes + outputs + temporary + code
    cost = hlo.cost(text)
    return dataclasses.replace(
        report,
        fits=peak <= report.limit,
        peak=peak,
        temporary=temporary,
        code=code,
        cost=cost,
        account=account(text, program.scopes, chip) if cost.cycles else None,
    )


def advice(report: Report, remat: str) -> str | None:
    """What to change, in one sentence; None where nothing has to be.

    Args:
        report: of a program.
        remat: how the decoder was configured, see `DecoderConfig`.
    """
    if report.cost is not None and report.cost.host_transfers:
        return (
            f"{report.name} waits for the host while it runs, at "
            f"{', '.join(report.cost.host_transfers)}; take the callback out of the program."
        )
    if report.fits:
        return None
    need = f"{report.name} does not fit, {report.peak / GIB:.1f} GiB of {report.limit / GIB:g}"
    inputs = sum(report.parts.values())
    if inputs > report.limit / 2:
        return (
            f"{need}: the parameters and what belongs to them are {inputs / GIB:.1f} on every chip;"
            " cut them over more chips with --config.mesh.fsdp or --config.mesh.tensor (of"
            " sample_mesh for generation)."
        )
    if report.name == "generation":
        return f"{need}: take a smaller --batch (sample.batch_size) or more chips."
    if remat != "full":
        return f"{need}: set --config.decoder.remat=full, or take a smaller --batch or more chips."
    return (
        f"{need}: divide the batch with --config.train.accumulate, or take a smaller --batch or "
        "more chips."
    )


def _compile(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled | int, str]:
    """The program, or the bytes that it would need where the compiler finds no room; its HLO.

    The HLO is what the compiler dumps: `compiled.as_text()` goes through a protobuf that jax's own
    parser refuses for v5p and v6e (libtpu is newer there than jaxlib).
    """
    with tempfile.TemporaryDirectory() as directory:
        try:
            compiled = lowered.compile({"xla_dump_to": directory, "xla_dump_hlo_as_text": True})
        except jax.errors.JaxRuntimeError as error:
            amount = r"([\d.]+)([KMGT])"
            found = re.search(rf"\({amount}\) exceeds|Used {amount}", str(error))
            if "RESOURCE_EXHAUSTED" not in str(error) or found is None:
                raise
            number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
            return round(float(number) * 1024 ** (1 + "KMGT".index(unit))), ""
        # The last dump: as "after_optimizations", with what the instructions are expected to cost.
        files = Path(directory).glob("*.after_codegen.txt")
        return compiled, max(files, key=lambda file: file.stat().st_size).read_text()


def _bytes_per_device(tree: Any) -> int:
    return sum(
        jnp.dtype(x.dtype).itemsize * math.prod(x.sharding.shard_shape(x.shape))
        for x in jax.tree.leaves(tree)
    )


def row(report: Report, lines: int) -> dict[str, Any]:
    """The report as JSON data, with that many lines of its account."""
    data = dataclasses.asdict(dataclasses.replace(report, account=None))
    return data | {"account": report.account and report.account.row(lines)}


def describe(report: Report, batch: int, lines: int = 0) -> str:
    """Lines for people: what one chip needs for a batch of that many images in all.

    `lines` of the account are added, the dearest instructions first.
    """

    def figures() -> Iterator[tuple[str, str]]:
        for name, size in report.parts.items():
            yield name, f"{size / GIB:.2f} GiB"
        if report.fits:
            yield "activations, other", f"{report.temporary / GIB:.2f} GiB"
            yield "program", f"{report.code / GIB:.2f} GiB"
        yield "peak", f"{report.peak / GIB:.2f} of {report.limit / GIB:g} GiB"
        if report.cost is not None:
            yield "products", f"{report.cost.flops / 1e12:.3f} TFLOP"
            if report.cost.cycles is not None:
                yield "expected cycles", f"{report.cost.cycles / 1e6:.1f} M"
            for kind, size in report.cost.collective_bytes.items():
                yield kind, f"{size / 1e9:.3f} GB"
            yield "host transfers", str(len(report.cost.host_transfers))
        yield "tracing", f"{report.lower_seconds:.1f} s"
        yield "compilation", f"{report.compile_seconds:.1f} s"
        yield "of the CPU for it", f"{report.cpu_seconds:.1f} s"

    head = f"{report.name}, {batch} images, per chip:"
    table = [f"  {name:<24}{text:>14}" for name, text in figures()]
    known = [report.account.describe(lines)] if report.account else []
    return "\n".join([head, *table, *known])
