"""Task: writes statistics of real images to a file, for evaluate.reference.

    python -m lpd_jax reference --config=folder --workdir=runs/mine --config.data.path=photos \\
        --config.evaluate.inception=weights-inception-2015-12-05-6726825d.pth

The images are those of config.data (the split `reference.split`), cropped as for training, or of a
folder or .npz as they are (`reference.images`). It goes on where it was stopped.
"""

import dataclasses
import logging

import jax
from ml_collections import ConfigDict

from lpd_jax import distributed, storage
from lpd_jax.errors import InputError
from lpd_jax.evaluation import reference as references
from lpd_jax.evaluation import scores
from lpd_jax.tasks import measuring
from lpd_jax.tasks.workdir import alone, timed, writing

_LOG = logging.getLogger(__name__)


def run(config: ConfigDict, workdir: storage.Where) -> storage.Path:
    """Looks at all images and writes their statistics; returns the file.

    Raises:
        InputError: no weights, no images, or the file cannot be written.
    """
    workdir, section = storage.path(workdir), config.reference
    if not config.evaluate.inception:
        raise InputError(
            "a reference holds features of Inception-v3; give its weights, "
            "--config.evaluate.inception=..."
        )
    file = storage.path(section.path or workdir / "reference.npz")
    if file.suffix != ".npz":
        raise InputError(f"reference.path={section.path} must end in .npz.")
    if section.images:
        source = measuring.given(section.images, config.encode.batch_size)
    else:
        source = measuring.of_data(config, section.split)
    measuring.check_square(source)
    of, directory = measuring.network(config.evaluate.inception), workdir / "references"
    with timed(workdir, "reference"), alone(directory / source.name):
        units = measuring.features(source, of, directory / source.name)
        if jax.process_index() == 0:
            with writing(file.parent), scores.scratch(units.directory) as scratch:
                seen = scores.gather(units, storage.path(scratch))
                found = scores.reference_of(seen, source.name, source.size[0], section.pool3)
                found = dataclasses.replace(found, classes=source.classes)
                # Without images for precision and recall rather than with none of them.
                found = found if section.pool3 else dataclasses.replace(found, pool3=None)
                references.write(file, found)
        distributed.barrier("reference")
    _LOG.info("reference: %d images, --config.evaluate.reference=%s", source.count, file)
    return file
