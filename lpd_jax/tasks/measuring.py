"""Sets of images to be judged, and what is seen in them; shared by the tasks that do."""

import dataclasses
import functools
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lpd_jax import distributed, storage
from lpd_jax.data import image_sets
from lpd_jax.errors import InputError
from lpd_jax.evaluation import distances, keeping, scores
from lpd_jax.evaluation import reference as references
from lpd_jax.evaluation.looking import AT_ONCE, Extractor, FeatureNetwork, Look
from lpd_jax.evaluation.moments import Moments
from lpd_jax.evaluation.reference import Reference
from lpd_jax.evaluation.units import Units, fill
from lpd_jax.models.tokenizer import Tokenizer, to_uint8
from lpd_jax.sampler import Sampler
from lpd_jax.tasks import build, results
from lpd_jax.tasks.workdir import digest, writing

_LOG = logging.getLogger(__name__)
DECODED = 8  # images that a device decodes at a time
SHOWN = 100  # images of a set that a picture shows
KEEP = ("", "png", "npz")
ROUNDING = "uint8 by round((x + 1) / 2 * 255), clipped, as in the official evaluation"


@dataclasses.dataclass(frozen=True)
class Source:
    """Images that are generated, or were made elsewhere.

    Attributes:
        name: of a directory.
        settings: all that decides the images.
        count: how many.
        size: (H, W).
        stream: index of the first image to make -> batches of it and all after it, in order.
        labels: int [count] of generated images; None where no class was asked for.
        classes: how many there are; None where that is not known.
    """

    name: str
    settings: dict[str, Any]
    count: int
    size: tuple[int, int]
    stream: Callable[[int], Iterable[Any]]
    labels: np.ndarray | None = None
    classes: int | None = None

    @property
    def shown(self) -> np.ndarray:
        """int [<= SHOWN]: indices of the images in a picture, all along the set."""
        return np.unique(np.linspace(0, self.count - 1, SHOWN).round().astype(int))


def balanced(count: int, classes: int) -> np.ndarray:
    """int32 [count]: labels of all classes alike (to within one), in their order."""
    return np.sort(np.arange(count, dtype=np.int32) % classes)


def generated(
    config: ConfigDict,
    about: dict[str, Any],
    section: ConfigDict,
    count: int,
    load: "Loader",
) -> Source:
    """Images of the model, of all classes alike in their order, as a sample section says.

    Args:
        config: its seed counts.
        about: of `build.about`.
        section: of the sampling.
        count: how many images.
        load: of `loader`; called when images are needed.
    """
    classes = about["config"]["num_classes"]
    labels = balanced(count, classes)
    settings = {
        "seed": config.seed,
        "model": about["identity"],
        "sample": build.deciding(section),
        "evaluate": {"num_images": count},
    }

    def stream(first: int) -> Iterable[Any]:
        sampler, decode = load()
        # Of fewer images than a batch the program would have another shape, and round otherwise.
        start = max(0, min(first, count - section.batch_size))
        how = {"progress": True, "first_index": start, "pixels": False}
        batches = build.batches(config, section, sampler, labels[start:], **how)
        return developed(batches, decode, skipped=first - start)

    name = results.name(settings, section.steps, of=f"{count}images")
    return Source(name, settings, count, tuple(about["image_size"]), stream, labels, classes)


Loader = Callable[[], tuple[Sampler, Extractor]]


def loader(config: ConfigDict, workdir: storage.Path) -> Loader:
    """Loads the sampler and what decodes its codes, once."""

    @functools.cache
    def load() -> tuple[Sampler, Extractor]:
        sampler = build.sampler(config, workdir)
        return sampler, decoder_of_codes(sampler)

    return load


class Decoded(NamedTuple):
    """What a tokenizer makes of codes: uint8 [B, H, W, 3]."""

    images: jax.Array


def decoder_of_codes(sampler: Sampler) -> Extractor:
    """Codes int32 [M, N] -> `Decoded`, in programs of one shape; see `looking`.

    The program that generates decodes a batch of any size, and that can move a pixel by one level.
    """
    apply = _decoding(sampler.tokenizer, sampler.decoder.config.grid)
    params = jax.device_get(sampler.tokenizer_params)
    return Extractor(FeatureNetwork("tokenizer", "", apply, params), DECODED)


@functools.cache
def _decoding(tokenizer: Tokenizer, grid: tuple[int, int]) -> Callable[[Any, jax.Array], Decoded]:
    """One function for a tokenizer: jax compiles another again, although it does the same."""

    def apply(params: Any, codes: jax.Array) -> Decoded:
        return Decoded(to_uint8(tokenizer.apply({"params": params}, codes, grid, method="decode")))

    return apply


def developed(
    batches: Iterable[Any], decode: Extractor, skipped: int = 0
) -> Iterator[image_sets.Batch]:
    """Images of batches of codes, but for the first `skipped`; rows count from there."""
    for batch in batches:
        own = batch.rows >= skipped
        yield image_sets.Batch(batch.rows[own] - skipped, decode(batch.codes[own])["images"])


def given(path: str, batch_size: int) -> Source:
    """Images made elsewhere: a folder or an `.npz`; `batch_size` and more are read at a time."""
    found = image_sets.open_images(path)
    settings = {"images": str(found.path), "identity": found.identity}
    # As many as the devices of all processes look at without blank ones among them.
    full = AT_ONCE * len(jax.local_devices()) * jax.process_count()
    at_once = full * math.ceil(batch_size / full)

    def stream(first: int) -> Iterable[Any]:
        return found.batches(first, at_once)

    name = f"given-{found.path.stem[:24]}-{found.identity[:8]}"
    return Source(name, settings, found.count, found.size, stream)


def of_data(config: ConfigDict, split: str) -> Source:
    """All images of a split of `config.data`, as training sees them but for the flips."""
    source, size = build.images(config.data, split), config.data.size
    processes, own = jax.process_count(), jax.process_index()

    def stream(first: int) -> Iterable[image_sets.Batch]:
        with ThreadPoolExecutor(config.reading.threads) as readers:
            for start in range(first, len(source), config.encode.batch_size):
                end = min(len(source), start + config.encode.batch_size)
                rows = np.array_split(np.arange(start, end), processes)[own]
                images = [r["image"] for r in readers.map(source.__getitem__, rows.tolist())]
                empty = np.empty((0, size, size, 3), np.uint8)
                yield image_sets.Batch(rows - first, np.stack(images) if images else empty)

    settings = {"data": config.data, "split": split}
    name = f"{config.data.source}-{split}-{size}-{digest(settings)}"
    classes = len(source.class_names)
    return Source(name, settings, len(source), (size, size), stream, classes=classes)


def check_square(source: Source) -> None:
    """Refuses images of a reference that are not square."""
    height, width = source.size
    if height != width:
        raise InputError(
            f"the images of the reference are of {width}x{height} pixels; references are square."
        )


@functools.cache
def network(path: str) -> FeatureNetwork:
    """Inception-v3 with the weights at `path`.

    Raises:
        InputError: there are none, or they are of another network.
    """
    from lpd_jax.evaluation import inception, inception_weights

    found = inception_weights.load(path)
    _LOG.info("evaluate: %s, sha256 %s", found.name, found.sha256)
    return FeatureNetwork(found.name, found.sha256, inception.apply_inception, found.variables)


def look_at(
    source: Source, look: Look, what: str, directory: storage.Path, keep: str = ""
) -> Units:
    """What is seen in all images of a source; goes on where it was stopped.

    Args:
        source: of the images.
        look: what sees.
        what: name of that, with the hash of the network.
        directory: of this source; gets a directory for the units, and what is kept of the images.
        keep: "png", "npz" or empty.

    Raises:
        InputError: it cannot be written; an image is unreadable or of another size.
    """
    units = Units(directory / f"{what}{'-' if keep else ''}{keep}", source.count)
    pngs = directory / {"png": "images", "npz": "images-on-the-way"}.get(keep, "")

    def write(rows: np.ndarray, images: np.ndarray) -> None:
        early = np.isin(rows, source.shown)
        keeping.write_pngs(directory / "shown", rows[early], images[early])
        if keep:
            keeping.write_pngs(pngs, rows, images)

    with writing(directory):
        fill(units, look, source.stream, write)
        archive = directory / "images.npz"
        if keep == "npz" and jax.process_index() == 0 and not archive.is_file():
            keeping.write_npz(archive, pngs, source.count)
            _remove(pngs)
    return units


def _remove(directory: storage.Path) -> None:
    if storage.in_bucket(directory):
        directory.rmtree()
    else:
        shutil.rmtree(directory)


def shown(source: Source, directory: storage.Path) -> np.ndarray:
    """uint8 [<= SHOWN, H, W, 3]: images that `look_at` left for a picture."""
    return keeping.read_pngs(directory / "shown", source.shown)


def features(source: Source, of: FeatureNetwork, directory: storage.Path, keep: str = "") -> Units:
    """`look_at` by a network."""
    return look_at(source, Extractor(of), f"features-{of.identity[:12]}", directory, keep)


@dataclasses.dataclass(frozen=True)
class Real:
    """What generated images are compared with.

    Attributes:
        reference: its statistics; `sha256` says which they are, whatever they come from.
        source: its images, where pool3 features of them are still to be found; or None.
    """

    reference: Reference
    source: Source | None = None


def real(
    path: str,
    of: FeatureNetwork,
    size: tuple[int, int],
    workdir: storage.Path,
    batch_size: int,
    classes: int | None = None,
) -> Real:
    """The reference at a path: a folder of images, or an `.npz` of statistics or of images.

    Args:
        path: of it.
        of: network, to look at images with.
        size: (H, W) of the images to be judged.
        workdir: keeps the features of the reference's images, in `references`.
        batch_size: images that are read at a time, or as many more as devices take without waste.
        classes: of the images to be judged; None where that is not known.

    Raises:
        InputError: there is none; of another resolution, of other features, or of another number of
            classes where it says how many.
    """
    place, source = storage.path(path), None
    if place.is_file() and image_sets.holds(place, ("mu", "ref_mu")):
        found = references.read(place)
        _check_side(path, found.size, size)
        if None not in (classes, found.classes) and classes != found.classes:
            raise InputError(
                f"the reference {path} is of images of {found.classes} classes and those to be "
                f"judged are of {classes}; take a reference of the same classes."
            )
        if found.images and found.pool3 is None:
            source = given(path, batch_size)
        return Real(found, source)
    source = given(path, batch_size)
    check_square(source)
    _check_side(path, source.size[0], size)
    return Real(_of_images(source, of, workdir))


def _check_side(path: str, side: int | None, size: tuple[int, int]) -> None:
    if side is not None and (side, side) != tuple(size):
        raise InputError(
            f"the reference {path} is of images of {side}x{side} pixels and those to be judged "
            f"have {size[1]}x{size[0]}; take a reference of that resolution."
        )


def _of_images(source: Source, of: FeatureNetwork, workdir: storage.Path) -> Reference:
    """The reference that images make."""
    directory = workdir / "references" / source.name
    units = features(source, of, directory)
    with scores.scratch(directory) as scratch:
        seen = scores.gather(units, storage.path(scratch))
        found = scores.reference_of(seen, source.name, source.size[0], keep=10_000)
    return dataclasses.replace(found, sha256=f"images {source.name}")


def pool3(found: Real, of: FeatureNetwork, workdir: storage.Path) -> np.ndarray | None:
    """float32 [R, D]: features of the reference's images; None where it has none.

    All processes call it.
    """
    if found.source is None:
        return found.reference.pool3
    units = features(found.source, of, workdir / "references" / found.source.name)
    return np.concatenate([seen["pool3"] for seen in units.read()])


def quick(batches: Iterable[Any], look: Look, reference: Reference) -> dict[str, float]:
    """FID and inception score (shuffled splits) of some thousands of images.

    All features are kept: 12 kB an image, in every process. Nothing is written.

    Args:
        batches: of `Sampler.batches`.
        look: with pool3 and logits.
        reference: to compare with.

    Returns:
        "fid" and "inception_score", the same in every process.
    """
    parts = []
    for batch in batches:
        seen = look(batch.images)
        parts.append((batch.rows, {name: seen[name] for name in ("pool3", "logits")}))
    rows, seen = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    seen = distributed.rows_to_host(rows, seen)

    def compute() -> dict[str, float]:
        own = Moments.of(seen["pool3"])
        fid = distances.frechet(own.mean, own.covariance, reference.mu, reference.sigma)
        score = distances.inception_score(seen["logits"], min(scores.SPLITS, own.count))
        return {"fid": fid, "inception_score": score.mean}

    return distributed.decided(compute)


def figures(
    units: Units, found: Real | None, of: FeatureNetwork, workdir: storage.Path
) -> dict[str, dict[str, float]]:
    """Figures of images whose features are in `units`; process 0 finds them, all get them.

    Without a reference, `found`, they are inception scores.
    """
    real_pool3 = None if found is None else pool3(found, of, workdir)
    reference = None if found is None else found.reference

    def compute() -> dict[str, dict[str, float]]:
        with scores.scratch(units.directory) as scratch:
            seen = scores.gather(units, storage.path(scratch))
            return scores.score(seen, reference, real_pool3)

    return distributed.decided(compute)
