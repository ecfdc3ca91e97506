"""Task: shows what `sample` and `edit` made on one page, by class, with the settings of each.

    python -m lpd_jax gallery --config=digits --workdir=runs/digits

Writes gallery.html, which needs no other file and no network: it can be sent to somebody. The
settings are those that the pictures carry in their PNG text chunks.
"""

import json
import logging
import zipfile
from collections.abc import Iterator

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from lpd_jax import checks, storage
from lpd_jax.errors import InputError
from lpd_jax.tasks import results
from lpd_jax.tasks.workdir import writing
from lpd_jax.viz.gallery import Result, Row, page

_LOG = logging.getLogger(__name__)

PAGE = "gallery.html"
# A directory of results has its arrays beside the picture that carries its settings.
_KINDS = {"samples.png": "samples.npz", "edits.png": "edits.npz"}


def run(config: ConfigDict, workdir: storage.Where) -> storage.Path:
    """Writes the page into the directory whose results it shows; returns its path.

    Raises:
        InputError: there is nothing to show, or the page cannot be written.
    """
    section = config.gallery
    where = storage.path(section.directory or workdir)
    most = checks.whole("gallery.per_class", section.per_class, 1)
    if jax.process_index() != 0:
        return where / PAGE
    found = [result for place in _places(where) if (result := _result(place, where, most))]
    if not found:
        raise InputError(
            f"there are no samples or edits in {where}; make some with the task sample or edit, or "
            "name another directory with --config.gallery.directory=."
        )
    with writing(where):
        storage.write_text(where / PAGE, page(f"{where.name}: generated images", found))
    count = sum(len(row.images) for result in found for row in result.rows)
    _LOG.info("gallery: %d images of %d runs in %s", count, len(found), where / PAGE)
    return where / PAGE


def _places(where: storage.Path) -> list[storage.Path]:
    """Pictures of results in a workdir, in its samples or edits, or of one, newest first."""
    files = [
        file
        for picture in _KINDS
        for pattern in (picture, f"*/{picture}", f"*/*/{picture}")
        for file in where.glob(pattern)
        if not file.parent.name.startswith(".")
    ]
    return sorted(files, key=storage.modified, reverse=True)


def _result(picture: storage.Path, where: storage.Path, most: int) -> Result | None:
    """What is beside a picture; None, with a warning, where that cannot be read."""
    try:
        with storage.local(picture) as file, Image.open(file) as image:
            settings = json.loads(getattr(image, "text", {}).get("lpd_jax", "{}"))
        with storage.local(picture.parent / _KINDS[picture.name]) as file, np.load(file) as arrays:
            rows = [*_rows(dict(arrays), settings.pop("classes", {}), most)]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        _LOG.warning("gallery: left out %s, which cannot be read (%s)", picture.parent, error)
        return None
    name = str(picture.parent.relative_to(where)) if picture.parent != where else where.name
    return Result(name, dict(results.flat(settings)), rows)


def _rows(arrays: dict[str, np.ndarray], classes: dict[str, str], most: int) -> Iterator[Row]:
    """Images by class; before those of an edit, the images that were edited.

    Args:
        arrays: of samples.npz or edits.npz.
        classes: names of labels; a label without one is its own.
        most: images of a class, at most.
    """
    images, labels = arrays["images"], arrays["labels"]
    numbers = np.broadcast_to(np.arange(labels.shape[-1]), labels.shape)
    if "before" in arrays:
        before = arrays["before"]
        yield Row("before", before[:most], range(len(before[:most])), len(before))
    images = images.reshape(-1, *images.shape[-3:])
    for label in np.unique(labels):
        own = np.flatnonzero(labels.ravel() == label)
        shown = own[:most]
        name = classes.get(str(label), str(label))
        yield Row(name, images[shown], numbers.ravel()[shown].tolist(), len(own))
