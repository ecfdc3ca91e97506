"""Task: generates part of given images anew, as their own class and as others.

    python -m lpd_jax edit --config=configs/digits.py --workdir=runs/digits
    python -m lpd_jax edit --config=configs/lpd_256.py:L --workdir=runs/l --checkpoint=weights/l \\
        --config.edit.images=dog.jpg --config.edit.mask=dog_mask.png --config.edit.labels=207,281

The first takes held-out images of the data and regenerates a rectangle, `edit.box`; with
`--config.edit.outside=True` it keeps the rectangle and continues the image around it. Steps, order,
guidance and temperature are those of the `sample` section.
"""

import hashlib
import logging
import math
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from lpd_jax import checks, storage
from lpd_jax.data.crop import center_crop
from lpd_jax.data.image_files import EXAMPLES, EXTENSIONS, read_image
from lpd_jax.errors import InputError
from lpd_jax.generation import editing
from lpd_jax.sampler import Edits, Sampler
from lpd_jax.tasks import build, results
from lpd_jax.tasks.workdir import done, timed
from lpd_jax.viz import images as pictures

_LOG = logging.getLogger(__name__)

LAST = "edits.png"  # the file that says that a directory is complete


def run(config: ConfigDict, workdir: storage.Where) -> storage.Path:
    """Writes edited images and a sheet to a directory named by the settings; returns it.

    Raises:
        InputError: images, mask, labels or settings are missing or do not fit the model.
    """
    workdir = storage.path(workdir)
    section = config.sample
    checks.whole("edit.count", config.edit.count, 1)
    about = build.about(config, workdir)
    size, names = tuple(about["image_size"]), about["class_names"]
    if config.edit.images:
        images, sizes = _read_images(config.edit, size)
        own = None
    else:
        (images, own), sizes = _heldout(config, size), set()
    mask = _mask(config.edit, size, sizes)
    chosen = build.labels(config.edit.labels, names, about["config"]["num_classes"])
    labels = _labels(chosen, own, len(images), len(names))
    steps = len(build.group_sizes(section, math.prod(about["config"]["grid"])))
    settings = {
        "seed": config.seed,
        "model": about["identity"],
        "sample": build.deciding(section),
        "labels": chosen,
        "keep_pixels": config.edit.keep_pixels,
        "content": hashlib.sha256(images.tobytes() + mask.tobytes()).hexdigest(),
    }
    stem = storage.path(config.edit.images).stem if config.edit.images else "heldout"
    shown = [[*names, "any"][label] for label in chosen] or ["own", "next"]
    directory = workdir / "edits" / results.name(settings, steps, labels=shown, of=stem)
    if done(directory / LAST):
        _LOG.info("edit: already in %s", directory)
        return directory
    with timed(workdir, "edit"):
        sampler = build.sampler(config, workdir)
        edits = [_edit(config, sampler, images, mask, row, steps) for row in labels]
        if jax.process_index() == 0:
            with results.directory(directory, settings, config, LAST) as partial:
                _write(partial, sampler, images, own, labels, edits, settings)
            results.index(directory.parent, LAST)
    _LOG.info("edit: %d images, each as %d classes, in %s", len(images), len(labels), directory)
    return directory


def _edit(
    config: ConfigDict,
    sampler: Sampler,
    images: np.ndarray,
    mask: np.ndarray,
    labels: np.ndarray,
    steps: int,
) -> Edits:
    """Image i has the same orders and noise whatever the class, so that only the class differs."""
    section = config.sample
    return sampler.edit(
        images,
        mask,
        labels,
        steps=steps,
        order=build.order(section),
        rule=build.sampling(section),
        group_schedule=section.group_schedule,
        keep_pixels=config.edit.keep_pixels,
        seed=config.seed,
        batch_size=section.batch_size,
        segments=section.segments,
        progress=jax.process_index() == 0,
    )


def _heldout(config: ConfigDict, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Held-out images uint8 [B, H, W, 3], evenly spread over the data, and their labels int [B]."""
    if (config.data.size,) * 2 != size:
        raise InputError(
            f"data.size={config.data.size}, and the model makes images of {size[0]}x{size[1]} "
            "pixels; set data.size to that, or name files with --config.edit.images."
        )
    source = build.images(config.data, "heldout")
    count = min(config.edit.count, len(source))
    records = [source[i] for i in np.linspace(0, len(source) - 1, count).round().astype(int)]
    images = np.stack([record["image"] for record in records])
    return images, np.array([record["label"] for record in records])


def _read_images(
    section: ConfigDict, size: tuple[int, int]
) -> tuple[np.ndarray, set[tuple[int, int]]]:
    """Image files uint8 [B, H, W, 3], cropped to the model's size, and the sizes they had."""
    path = storage.path(section.images)
    files = [path]
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix.lower() in EXTENSIONS)
        if not files:
            raise InputError(
                f"there are no images in {path}; put some in ({EXAMPLES}), or name one file."
            )
    found = [_read(file, "RGB") for file in files[: section.count]]
    images = np.stack([np.asarray(center_crop(image, size[0])) for image in found])
    return images, {image.size for image in found}


def _mask(section: ConfigDict, size: tuple[int, int], sizes: set[tuple[int, int]]) -> np.ndarray:
    """bool [H, W], True where to generate.

    A file is of the model's size, or of the size of all image files, and then cropped as they are.
    White is generated; so is what is transparent, which counts as white.
    """
    if section.mask:
        picture = _read(storage.path(section.mask), "L")
        if picture.size != size[::-1]:
            if {picture.size} != sizes:
                raise InputError(
                    f"the mask {section.mask} has {picture.width}x{picture.height} pixels; make "
                    f"it as large as the images to edit, or {size[1]}x{size[0]} as the model's."
                )
            picture = center_crop(picture, size[0])
        mask = np.asarray(picture) > 127
    else:
        mask = editing.rectangle(size, section.box)
    mask = ~mask if section.outside else mask
    if not mask.any():
        raise InputError(
            "the mask leaves nothing to generate: white is generated, black is kept "
            "(edit.outside=True turns that round)."
        )
    return mask


def _labels(
    chosen: list[int], own: np.ndarray | None, count: int, num_classes: int
) -> list[np.ndarray]:
    """Labels int [B] of each edit: every class asked for, or the own one and the next."""
    if chosen:
        return [np.full(count, label) for label in chosen]
    if own is None:
        raise InputError(
            "an image file has no class; say what to generate with --config.edit.labels=3, or "
            "several to compare: 3,7."
        )
    return [own, (own + 1) % num_classes]


def _read(path: storage.Path, mode: str) -> Image.Image:
    if not path.is_file():
        raise InputError(f"there is no image file {path}; give the path of one.")
    with storage.local(path) as file:
        return read_image(file, str(path)).convert(mode)


def _write(
    directory: storage.Path,
    sampler: Sampler,
    images: np.ndarray,
    own: np.ndarray | None,
    labels: list[np.ndarray],
    edits: list[Edits],
    settings: dict[str, Any],
) -> None:
    names = [*sampler.class_names, "any"]
    with storage.whole(directory / "edits.npz") as file:
        np.savez_compressed(
            file,
            before=images,
            generated=edits[0].step_map >= 0,
            images=np.stack([edit.images for edit in edits]),
            codes=np.stack([edit.codes for edit in edits]),
            step_map=np.stack([edit.step_map for edit in edits]),
            labels=np.stack(labels),
        )
    for row, edit in zip(labels, edits, strict=True):
        for i, (label, image) in enumerate(zip(row, edit.images, strict=True)):
            text = results.chunks(settings | {"index": i, "label": int(label)}, [label], names)
            pictures.save_png(Image.fromarray(image), directory / f"{i:03d}-as-{label}.png", text)
    masked = pictures.hide_unknown(images, edits[0].step_map < 0)
    columns = [images, masked, *(edit.images for edit in edits)]
    tiles = np.stack(columns, axis=1).reshape(-1, *images.shape[1:])
    heads = [
        text
        for i in range(len(images))
        for text in (
            "before" if own is None else f"before: {names[own[i]]}",
            "mask",
            *(f"as {names[row[i]]}" for row in labels),
        )
    ]
    sheet = pictures.grid(tiles, len(columns), max(1, 96 // images.shape[1]), heads)
    text = results.chunks(settings, np.ravel(labels), names)
    pictures.save_png(sheet, directory / LAST, text)
