"""Programs for TPUs that are not there: compiled by libtpu on any machine, and what they need.

The programs are the real ones, on arrays that have shapes and places but no values. What libtpu
wants to find in the environment before jax is imported is in `launch/aot_check.py`.
"""

import dataclasses
import math
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental import topologies

from lpd_jax import hlo, parallel
from lpd_jax.errors import InputError
from lpd_jax.generation.plan import Plan
from lpd_jax.generation.program import generate, tokenizer_parts
from lpd_jax.generation.sampling import SamplingRule
from lpd_jax.models.decoder import Decoder
from lpd_jax.models.tokenizer import Tokenizer
from lpd_jax.trained import init_decoder, init_tokenizer, product_dtype

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip.

    Attributes:
        hbm_gib: memory of a chip, GiB (the compiler keeps up to 1.25 GiB of it to itself).
        dims: sizes in the name of a topology.
        options: of the topology.
    """

    hbm_gib: int
    dims: int
    options: tuple[tuple[str, str], ...] = ()


# Source: https://cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e ("HBM capacity per chip").
CHIPS = {
    # The two cores of a v4 chip work as one device, which jax's default topology does not know.
    "v4": Chip(32, 3, (("chip_config_name", "megacore"),)),
    "v5e": Chip(16, 2),
    "v5p": Chip(95, 3),
    "v6e": Chip(32, 2),
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
                "compiling for TPUs needs libtpu, which is not installed: pip install -e '.[tpu]'."
            ) from error
        reason = str(error).splitlines()[0].partition(": ")[2]
        raise InputError(
            f"libtpu knows no topology {topology}: {reason}; take sizes that are sold, such as "
            "v5e:16x16."
        ) from error


@dataclasses.dataclass(frozen=True)
class Program:
    """A jitted function and the abstract arrays to compile it for.

    Attributes:
        name: for people.
        function, args: to be lowered.
        batch: images in all.
        parts: name -> the arguments of which the memory is reported under it.
    """

    name: str
    batch: int
    function: Callable
    args: tuple[Any, ...]
    parts: dict[str, Any]


def placed(abstract: Any, shardings: Any) -> Any:
    """Abstract arrays with shardings; one sharding for all, or a tree of them."""
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, abstract)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings
    )


def train_program(
    start: Callable,
    step: Callable,
    num_tokens: int,
    batch: int,
    parts: int,
    mesh: jax.sharding.Mesh,
    rules: parallel.Rules,
) -> Program:
    """The training step of the decoder on `batch` images, computed in `parts` parts.

    `start` and `step` are those of `run.prepare`.

    Raises:
        InputError: the batch does not divide among the devices, or not into the parts.
    """
    _check_batch(batch, parts, mesh)
    boxed = jax.eval_shape(start, jax.random.key(0))
    state = placed(nn.unbox(boxed), parallel.shardings_of(boxed, mesh, rules))
    rows = parallel.batch_sharding(mesh)
    arrays = {
        "codes": jax.ShapeDtypeStruct((batch, num_tokens), jnp.int32, sharding=rows),
        "label": jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=rows),
    }
    known = {"parameters": state.params, "optimizer": state.opt_state}
    if jax.tree.leaves(state.ema):
        known["average of parameters"] = state.ema
    return Program("train step", batch, step, (state, arrays), known)


def generate_program(
    decoder: Decoder,
    tokenizer: Tokenizer,
    order: Any,
    plan: Plan,
    rule: SamplingRule,
    batch: int,
    mesh: jax.sharding.Mesh,
    rules: parallel.Rules,
) -> Program:
    """Labels to pixels for `batch` images, as `Sampler.sample` runs it.

    Raises:
        InputError: the batch does not divide among the devices.
    """
    _check_batch(batch, 1, mesh)
    rows, whole = parallel.batch_sharding(mesh), parallel.replicated(mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    # Laid out as `trained.lay_out` does for the sampler on TPUs.
    boxed = jax.eval_shape(lambda k: init_decoder(decoder, k), key)
    abstract = jax.tree_util.tree_map_with_path(
        lambda path, x: x.update(dtype=product_dtype(path, x, decoder.config.dtype)),
        nn.unbox(boxed),
    )
    decoder_params = placed(abstract, parallel.shardings_of(boxed, mesh, rules))
    tokenizer_params = placed(jax.eval_shape(lambda k: init_tokenizer(tokenizer, k), key), whole)
    numbers = jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=rows)
    key, order, rule = placed((key, *jax.eval_shape(lambda *x: x, order, rule)), whole)

    pixels = tuple(side * tokenizer.config.stride for side in decoder.config.grid)
    parts = tokenizer_parts(batch, parallel.batch_ways(mesh), pixels)

    def run(params, labels, indices, key, order, rule):
        networks = decoder, tokenizer, params
        return generate(*networks, labels, indices, key, order, plan, rule, parts)

    params = (decoder_params, tokenizer_params)
    known = {"decoder": decoder_params, "tokenizer": tokenizer_params}
    args = (params, numbers, numbers, key, order, rule)
    return Program("generation", batch, jax.jit(run), args, known)


def _check_batch(batch: int, parts: int, mesh: jax.sharding.Mesh) -> None:
    ways = parallel.batch_ways(mesh)
    if batch < 1 or batch % (ways * parts):
        raise InputError(
            f"a batch of {batch} does not divide into {parts} part(s) of which each divides among "
            f"{ways} devices (mesh data x fsdp); give a --batch that is a multiple of "
            f"{ways * parts}, or change the mesh."
        )


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
    return dataclasses.replace(
        report,
        fits=peak <= report.limit,
        peak=peak,
        temporary=temporary,
        code=code,
        cost=hlo.cost(text),
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
            " cut them over more chips with --config.mesh.fsdp or --config.mesh.tensor."
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
