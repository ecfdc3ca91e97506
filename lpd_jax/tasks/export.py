"""Task: writes the compiled sampler as files that run without this package.

    python -m lpd_jax export --config=configs/digits.py --workdir=runs/digits
    python -m lpd_jax export --config=configs/lpd_256.py:L --workdir=weights/l \\
        --config.sample.quantize=int8 --config.export.path=l-int8

Steps, order, guidance, temperature, dtype and quantisation are those of the `sample` section. The
directory holds the program, its parameters, the script that calls them and a note.
"""

import contextlib
import json
import logging
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata

from ml_collections import ConfigDict
from safetensors.numpy import save_file

from lpd_jax import checkpoint, storage
from lpd_jax.errors import InputError
from lpd_jax.export import PLATFORMS, Artifact, export_sampler
from lpd_jax.sampler import Sampler
from lpd_jax.tasks import build
from lpd_jax.tasks.workdir import digest, plain, timed, write_json

_LOG = logging.getLogger(__name__)

LOADER = pathlib.Path(__file__).parents[1] / "run_export.py"  # copied into every export
SETTINGS = "settings.json"
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
    sampler = build.sampler(config, workdir)
    sizes = build.group_sizes(section, sampler.decoder.config.num_tokens)
    model = checkpoint.fingerprint({}, (sampler.decoder_params, sampler.tokenizer_params))
    # What decides the artifact; the seed, labels and batch size are given when it is called.
    at_call = ("labels", "count", "batch_size")
    settings = plain(
        {
            "sample": {k: v for k, v in section.to_dict().items() if k not in at_call},
            "model": model,
            "jax": metadata.version("jax"),
        }
    )
    name = f"{section.order}-{len(sizes)}steps-cfg{section.guidance:g}-{digest(settings)}"
    directory = storage.path(config.export.path or workdir / "export" / name)
    if _is_there(directory, settings):
        _LOG.info("export: already in %s", directory)
        return directory
    with timed(workdir, "export"):
        artifact = export_sampler(
            sampler, sizes, build.order(section), build.sampling(section), section.segments
        )
        try:
            with _directory(directory) as partial:
                _write(partial, artifact, sampler, len(sizes), settings)
        except OSError as error:
            raise InputError(
                f"{directory} cannot be written ({error.strerror}); give another "
                "--config.export.path."
            ) from error
    _LOG.info("export: %.1f MB in %s", _megabytes(directory), directory)
    return directory


def _is_there(directory: storage.Path, settings: dict) -> bool:
    """Whether the directory holds this very artifact.

    Raises:
        InputError: it holds something else.
    """
    found = directory / SETTINGS
    if found.is_file() and json.loads(found.read_text()) == settings:
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


@contextlib.contextmanager
def _directory(final: storage.Path) -> Iterator[pathlib.Path]:
    """A local directory to write, which then takes its name whole; in a bucket settings last."""
    if storage.in_bucket(final):
        with tempfile.TemporaryDirectory() as partial:
            yield pathlib.Path(partial)
            for name in FILES:
                storage.put(pathlib.Path(partial) / name, final / name)
        return
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    partial.rename(final)


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
