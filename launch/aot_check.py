"""Does it fit? Compiles the real training step and the real generation for TPUs, without one.

    python launch/aot_check.py --config=lpd_256:XXL --topology=v5e:16x16
    python launch/aot_check.py --config=lpd_256:XXL --topology=v5e:1x1 --what=generate --lines=20

Needs libtpu (pip install -e '.[aot]') and some minutes. Prints per chip: memory by kind against
the chip's, FLOPs, the cycles that the compiler expects (in all, by part of the program and, with
--lines, by instruction), bytes of collectives, compile time. Fields of the config are set as in a
run: --config.mesh.fsdp=16, --config.sample_mesh.data=8 for generation; options of the compiler with
LIBTPU_INIT_ARGS in the environment. `launch/aot_diff.py` compares the rows of two files of --json.
Exit codes: 0 it fits; 1 it does not, or it waits for the host while it runs; 2 the input is wrong.
"""

import dataclasses
import json
import math
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

os.environ.update(
    JAX_PLATFORMS="cpu",
    TPU_SKIP_MDS_QUERY="1",  # no metadata server here
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",  # another process may be compiling too
    TPU_WORKER_HOSTNAMES="localhost",  # these two keep libtpu from warning that it has no TPU;
    TPU_ACCELERATOR_TYPE="v5e-1",  # the topology decides what it compiles for
)
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
from absl import app, flags
from ml_collections import ConfigDict

from lpd_jax import config_files
from lpd_jax.compiled import programs, reports, targets
from lpd_jax.errors import InputError
from lpd_jax.generation.plan import make_plan
from lpd_jax.models.decoder import Decoder
from lpd_jax.models.initial import init_decoder
from lpd_jax.parallel import MeshConfig, batch_ways, make_mesh
from lpd_jax.tasks import build
from lpd_jax.trained import decoder_of
from lpd_jax.training.objectives import decoder_loss
from lpd_jax.training.step import Part, prepare

_CONFIG = flags.DEFINE_string("config", None, "A shipped config by its name, or a file.")
_TOPOLOGY = flags.DEFINE_string("topology", None, "Chips of a slice: v5e:16x16, v4:4x4x4.")
_WHAT = flags.DEFINE_enum("what", "both", ["train", "generate", "both"], "Programs to check.")
_BATCH = flags.DEFINE_integer(
    "batch", None, "Images in all; train.batch_size and sample.batch_size of the config."
)
_CLASSES = flags.DEFINE_integer("classes", 1000, "Classes of the data.")
_LINES = flags.DEFINE_integer("lines", 0, "Dearest instructions to print; 12 in --json, or these.")
_JSON = flags.DEFINE_string("json", None, "File to append one line per program to.")


def decoder(config: ConfigDict, classes: int) -> Decoder:
    """The decoder that the tasks train on codes of `config.tokenizer`."""
    return decoder_of(
        config.decoder,
        grid=build.grid(config),
        vocab_size=config.tokenizer.codebook_size,
        num_classes=classes,
    )


def train_program(
    config: ConfigDict, mesh: jax.sharding.Mesh, batch: int | None = None, classes: int = 1000
) -> programs.Program:
    """The step that `lpd_jax.tasks.train` runs; `batch` images, or as many as the config says."""
    network, section, rules = decoder(config, classes), config.train, build.rules(config)
    steps_of = build.steps_of(section, network.config.num_tokens)
    part = Part(
        lambda key: init_decoder(network, key),
        decoder_loss(
            network,
            steps_of,
            section.label_drop,
            section.loss_chunk,
            build.training_order(section, network.config.grid),
        ),
        build.optimizer(section),
        section.ema_decay,
    )
    start, step = prepare(
        {"decoder": part}, key=jax.random.key(config.seed), mesh=mesh, rules=rules
    )
    arrays = network.config.num_tokens, batch or section.batch_size, section.accumulate
    return programs.train_program(start, step, *arrays, mesh, rules)


def generate_program(
    config: ConfigDict, mesh: jax.sharding.Mesh, batch: int | None = None, classes: int = 1000
) -> programs.Program:
    """The program that `lpd_jax.tasks.sample` runs; `batch` as in `train_program`."""
    section, tokenizer = config.sample, build.tokenizer(config)
    network = decoder(config, classes)
    if section.dtype:
        network = Decoder(dataclasses.replace(network.config, dtype=section.dtype))
        tokenizer = tokenizer.clone(decode_dtype=section.dtype)
    ways = batch_ways(mesh)
    return programs.generate_program(
        network,
        tokenizer,
        build.order(section),
        make_plan(build.group_sizes(section, network.config.num_tokens), section.segments),
        build.sampling(config.sample),
        batch or ways * math.ceil(section.batch_size / ways),
        mesh,
        build.rules(config),
    )


def main(argv: list[str]) -> int:
    """Checks what the flags say; `argv[1:]` set fields of the config. Returns the exit code."""
    if _CONFIG.value is None or _TOPOLOGY.value is None:
        raise InputError(
            "give --config and --topology, such as --config=lpd_256:XXL --topology=v5e:16x16."
        )
    config, chip = config_files.load(_CONFIG.value), targets.chip_of(_TOPOLOGY.value)
    config_files.override(config, argv[1:])
    sections = {"train": config.mesh, "generate": config.sample_mesh}
    makers = {"train": train_program, "generate": generate_program}
    sentences = []
    for name in makers if _WHAT.value == "both" else [_WHAT.value]:
        asked = MeshConfig(**sections[name])
        slices, rules = max(1, asked.slices), build.rules(config)
        mesh = make_mesh(asked, targets.devices(_TOPOLOGY.value, slices))
        sizes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
        chips = f"{mesh.size} chips of {chip.hbm_gib} GiB"
        print(f"{slices} x {_TOPOLOGY.value}: {chips}, mesh {sizes}")
        program = makers[name](config, mesh, _BATCH.value, _CLASSES.value)
        report = reports.check(program, chip, mesh, rules)
        print(reports.describe(report, program.batch, _LINES.value))
        sentences.append(reports.advice(report, config.decoder.get("remat", "none")))
        if _JSON.value:
            row = {"model": _CONFIG.value, "what": name, "topology": _TOPOLOGY.value}
            row |= {"slices": slices, "mesh": dict(mesh.shape), "batch": program.batch}
            if name == "generate":
                row["segments"] = config.sample.segments
            row |= {"fields": argv[1:], "commit": _commit(), "libtpu": metadata.version("libtpu")}
            row["libtpu_init_args"] = os.environ.get("LIBTPU_INIT_ARGS", "")
            with Path(_JSON.value).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row | reports.row(report, _LINES.value or 12)) + "\n")
    for sentence in filter(None, sentences):
        print(f"aot_check: {sentence}", file=sys.stderr)
    return 1 if any(sentences) else 0


def _commit() -> str:
    """Of the checkout that this is; with a plus where it was changed since, "" outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _parse(argv: list[str]) -> list[str]:
    """What remains are the flags that set fields of the config."""
    fields = [argument for argument in argv if config_files.OVERRIDE.match(argument)]
    try:
        program, *rest = flags.FLAGS([argument for argument in argv if argument not in fields])
    except flags.Error as error:
        raise InputError(str(error).strip().splitlines()[-1]) from error
    if rest:
        raise InputError(f"{rest[0]!r} is no flag; see --help.")
    return [program, *fields]


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=_parse)
    except InputError as error:
        print(f"aot_check: {error}", file=sys.stderr)
        sys.exit(2)
