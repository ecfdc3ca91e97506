"""Task: writes the compiled sampler as files that run without this package.

    python -m lpd_jax export --config=configs/digits.py --workdir=runs/digits
    python -m lpd_jax export --config=configs/lpd_256.py:L --workdir=weights/l \\
        --config.sample.quantize=int8 --config.export.path=l-int8

Steps, order, guidance, temperature, dtype and quantisation are those of the `sample` section. The
directory holds the program, its parameters, the script that calls them and a note.
"""

import json
import logging
import math
import pathlib
import shutil
from importlib import metadata

import jax
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from lpd_jax import distributed, storage
from lpd_jax.errors import InputError
from lpd_jax.export import PLATFORMS, Artifact, export_sampler
from lpd_jax.sampler import Sampler
from lpd_jax.tasks import build, results
from lpd_jax.tasks.workdir import SETTINGS, differing, plain, timed, write_json

_LOG = logging.getLogger(__name__)

LOADER = pathlib.Path(__file__).parents[1] / "run_export.py"  # copied into every export
FILES = ("sampler.jaxexport", "params.safetensors", LOADER.name, "README.txt", SETTINGS)

NOTE = """The sampler of an image model, compiled for any batch size and for {platforms}.

    pip install "jax>={jax}" flatbuffers safetensors pillow
    python run_export.py sampler.jaxexport params.safetensors --labels {example} --out grid.png

Labels are 0 to {last}: {names}.
An image takes {steps} steps; --set changes {numbers} (defaults as shown).
The program is one for jax.export of jax {jax}; later versions read it for six months at least.

jax.export.deserialize(bytearray(...)).call(params, labels, indices, seed, numbers)
    params    dict of the arrays in params.safetensors
    labels    int32 [B]
    indices   int32 [B]; label, index and seed decide an image, whatever the batch
    seed      uint32
    numbers   dict of float32 scalars: {names_of_numbers}
returns a dict of images uint8 [B, H, W, 3], codes int32 [B, N] and orders int32 [B, N].
"""


def run(config: ConfigDict, workdir: storage.Where) -> storage.Path:
    """Writes the directory `export.path`, or one in `workdir/export` named by the settings.

    Returns:
        The directory.

    Raises:
        InputError: the path is taken or cannot be written, or the sampler cannot be exported.
    """
    workdir = storage.path(workdir)
    section = config.sample
    about = build.about(config, workdir)
    sizes = build.group_sizes(section, math.prod(about["config"]["grid"]))
    # What decides the artifact; the seed and labels are given when it is called.
    settings = plain(
        {
            "sample": build.deciding(section) | {"segments": section.segments},
            "model": about["identity"],
            "jax": metadata.version("jax"),
        }
    )
    name = results.name({"seed": 0} | settings, len(sizes)).replace("-seed0", "")
    directory = storage.path(config.export.path or workdir / "export" / name)
    if distributed.decided(lambda: _is_there(directory, settings)):
        _LOG.info("export: already in %s", directory)
        return directory
    with timed(workdir, "export"):
        sampler = build.sampler(config, workdir)
        artifact = export_sampler(
            sampler, sizes, build.order(section), build.sampling(section), section.segments
        )
        if jax.process_index() == 0:
            try:
                with storage.whole_directory(directory, SETTINGS) as partial:
                    _write(partial, artifact, sampler, len(sizes), settings)
            except OSError as error:
                raise InputError(
                    f"{directory} cannot be written ({error.strerror or storage.brief(error)}); "
                    "make room there, or give another --config.export.path."
                ) from error
    _LOG.info("export: %.1f MB in %s", _megabytes(directory), directory)
    return directory


def _is_there(directory: storage.Path, settings: dict) -> bool:
    """Whether the directory holds this very artifact.

    Raises:
        InputError: it holds something else.
    """
    found = directory / SETTINGS
    if found.is_file() and not differing(json.loads(found.read_text()), settings):
        return True
    if not directory.exists():
        return False
    names = {file.name for file in directory.iterdir()} if directory.is_dir() else {"a file"}
    # In a bucket the settings come last; without them the files are those of an export cut short.
    if names and not (storage.in_bucket(directory) and names <= {*FILES} - {SETTINGS}):
        raise InputError(
            f"{directory} exists and is not the export of this model with these settings; give "
            "another --config.export.path, or delete it."
        )
    return False


def _write(
    directory: pathlib.Path, artifact: Artifact, sampler: Sampler, steps: int, settings: dict
) -> None:
    names, classes = sampler.class_names, sampler.decoder.config.num_classes
    program, params, loader, readme, last = (directory / name for name in FILES)
    program.write_bytes(artifact.program)
    about = {"numbers": artifact.numbers, "classes": classes, "class_names": names, "steps": steps}
    save_file(artifact.params, params, metadata={"sampler": json.dumps(about)})
    # The writer makes files that only their owner can read, whatever the umask says.
    params.chmod(program.stat().st_mode)
    shutil.copyfile(LOADER, loader)
    readme.write_text(
        NOTE.format(
            platforms=", ".join(PLATFORMS),
            jax=metadata.version("jax"),
            steps=steps,
            last=classes - 1,
            example=f"0,{classes - 1}",
            names=", ".join(names[:10]) + (", ..." if len(names) > 10 else ""),
            numbers=", ".join(f"{k}={v:g}" for k, v in artifact.numbers.items()),
            names_of_numbers=", ".join(artifact.numbers),
        ),
        encoding="utf-8",
    )
    write_json(last, settings)


def _megabytes(directory: storage.Path) -> float:
    return sum(storage.size(file) for file in directory.iterdir()) / 1e6
