"""Figures without Inception-v3, by a judge that is fitted to real images.

At most `evaluate.real_images` images of each split, always the same, stand for the real ones. With
`evaluate.lpips` a Fréchet distance of features of VGG16 stands beside that of gray pixels.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lpd_jax import distributed, storage
from lpd_jax.errors import InputError
from lpd_jax.evaluation import scores
from lpd_jax.evaluation.figures import ratio
from lpd_jax.evaluation.judge import Judge, Looks, RealFeatures, fit_judge, look_at
from lpd_jax.evaluation.looking import Extractor, FeatureNetwork
from lpd_jax.pixels import to_unit
from lpd_jax.sampler import Sampler
from lpd_jax.tasks import build, measuring, results
from lpd_jax.tasks.workdir import digest, done, plain, writing

FEATURES = "gray levels of at most 32x32 pixels (Fréchet distance), of 8x8 (classifier)"
VGG_FEATURES = "mean of relu5_3 over the pixels (512), of images as they are"


class VggFeatures(NamedTuple):
    """float32 [B, 512], see `vgg.features`."""

    vgg: jax.Array


def real_images(config: ConfigDict) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images and labels of the splits train and heldout, at most `evaluate.real_images` of each."""
    most = config.evaluate.real_images
    return [build.labelled_images(config.data, split, most) for split in ("train", "heldout")]


def fit(config: ConfigDict) -> Judge:
    """The judge of `config.data`."""
    return fit_judge(*real_images(config))


def vgg_network(path: str) -> FeatureNetwork:
    """VGG16 with the weights at `path`.

    Raises:
        InputError: there are none, or they are of another network.
    """
    from lpd_jax.evaluation import vgg

    def apply(variables: Any, images: jax.Array) -> VggFeatures:
        return VggFeatures(vgg.features(variables, to_unit(images)))

    found = vgg.load(path)
    return FeatureNetwork(found.name, found.sha256, apply, found.variables)


class JudgeLook:
    """A `looking.Look` that is a judge, and VGG16 where there is one."""

    def __init__(self, judge: Judge, vgg: Extractor | None = None):
        self._judge, self._vgg = judge, vgg

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        found = self._judge.look(images)._asdict()
        return found | self._vgg(images) if self._vgg else found


def by_heldout(
    config: ConfigDict, workdir: storage.Path, about: dict[str, Any]
) -> tuple[dict[str, Any], np.ndarray, dict[str, Any]]:
    """Figures of one image per held-out image, in `evaluate.steps` steps and one code a step.

    Returns:
        Figures, images for a picture, and the settings that decide them.
    """
    judge = fit(config)
    labels, load = judge.heldout_labels, functools.cache(lambda: build.sampler(config, workdir))
    (few, shown), (full, _) = (
        look(config, workdir, about, load, judge, steps)
        for steps in (config.evaluate.steps, math.prod(about["config"]["grid"]))
    )
    frechet, frechet_full = judge.frechet(few), judge.frechet(full)
    own = {
        "class_accuracy_full_steps": judge.class_accuracy(full, labels),
        "frechet_full_steps": frechet_full,
        "frechet_few_to_full": ratio(frechet, frechet_full),
    }
    found = _figures(config, judge, few, labels, about["class_names"])
    found["samples"] |= own
    return found, shown, settings_of(config, about, config.evaluate.steps)


def by_units(
    config: ConfigDict, source: measuring.Source, directory: storage.Path, names: list[str]
) -> dict[str, Any]:
    """Figures of any number of images, generated or given; see `by_heldout` for the settings."""
    splits, keep = real_images(config), config.evaluate.keep
    judge = fit_judge(*splits)
    what = {"data": plain(config.data), "real_images": config.evaluate.real_images}
    network = vgg_network(config.evaluate.lpips) if config.evaluate.lpips else None
    vgg, real = None, None
    if network is not None:
        what["vgg"], vgg = network.identity, Extractor(network)
        real = RealFeatures(*(np.float64(vgg(images)["vgg"]) for images, _ in splits))
    look = JudgeLook(judge, vgg)
    units = measuring.look_at(source, look, f"looks-{digest(what)}", directory, keep)

    def compute() -> dict[str, Any]:
        with scores.scratch(units.directory) as scratch:
            wanted = Looks._fields if real is None else (*Looks._fields, "vgg")
            seen = units.mapped(wanted, storage.path(scratch))
            looks = Looks(*(seen[name] for name in Looks._fields))
            found = _figures(config, judge, looks, source.labels, names)
            if real is not None:
                found["samples"] |= _vgg_figures(real, seen["vgg"])
                found["vgg"] = {"name": network.name, "sha256": network.identity}
                found["vgg"] |= {"features": VGG_FEATURES}
            return found

    return distributed.decided(compute)


def _vgg_figures(real: RealFeatures, seen: np.ndarray) -> dict[str, float]:
    """The distance of features [M, 512], and that of as many real images."""
    value, floor = real.frechet(seen), real.frechet_floor(len(seen))
    return {
        "frechet_vgg": value,
        "frechet_vgg_floor": floor,
        "frechet_vgg_ratio": ratio(value, floor),
    }


def _figures(
    config: ConfigDict, judge: Judge, looks: Looks, labels: np.ndarray | None, names: list[str]
) -> dict[str, Any]:
    """Figures of images that were looked at; without labels, those that need none."""
    count = len(looks.levels)
    frechet, floor = judge.frechet(looks), judge.frechet_floor(count)
    samples = {
        "steps": config.evaluate.steps,
        "count": count,
        "frechet": frechet,
        "frechet_ratio": ratio(frechet, floor),
        "near_copies": judge.near_copies(looks),
        "near_copies_heldout": judge.near_copies_heldout(),
        "settings": plain(config.sample),
    }
    found = {
        "classifier": {"heldout_accuracy": judge.heldout_accuracy},
        "samples": samples,
        "frechet_floor": floor,
        "features": FEATURES,
    }
    if labels is None:
        del samples["steps"], samples["settings"]  # of images made elsewhere
        return found
    samples["class_accuracy"] = judge.class_accuracy(looks, labels)
    return found | {"classes": judge.by_class(looks, labels, names)}


def section(config: ConfigDict, steps: int) -> ConfigDict:
    """The sample section with another number of steps."""
    found = config.sample.copy_and_resolve_references()
    found.update(steps=steps, group_sizes=())
    return found


def settings_of(config: ConfigDict, about: dict[str, Any], steps: int) -> dict[str, Any]:
    """What decides one image per held-out image, and what it is judged by."""
    own = build.deciding(section(config, steps))
    settings = {"seed": config.seed, "model": about["identity"], "sample": own}
    return settings | {
        "data": plain(config.data),
        "evaluate": {"real_images": config.evaluate.real_images},
    }


def look(
    config: ConfigDict,
    workdir: storage.Path,
    about: dict[str, Any],
    load: Callable[[], Sampler],
    judge: Judge,
    steps: int,
) -> tuple[Looks, np.ndarray]:
    """Looks of one image per held-out image, of its class, and the first images.

    They are made once for each model and set of settings.
    """
    name = results.name(settings_of(config, about, steps), steps)
    cache = workdir / "report/looks" / f"{name}.npz"
    if not done(cache):
        own, labels = section(config, steps), judge.heldout_labels
        batches = build.batches(config, own, load(), labels, progress=True)
        looks, shown = look_at(judge, batches, measuring.SHOWN)
        with distributed.first_process_first(name):
            if jax.process_index() == 0:
                with writing(cache.parent), storage.whole(cache) as file:
                    np.savez_compressed(file, shown=shown, **looks._asdict())
    with storage.local(cache) as file, np.load(file) as found:
        return Looks(found["levels"], found["classes"]), found["shown"]


def check_data(config: ConfigDict, size: tuple[int, int]) -> None:
    """Refuses to judge against images of another size.

    Raises:
        InputError: `data.size` is not that of the images.
    """
    if [config.data.size] * 2 != list(size):
        raise InputError(
            f"data.size={config.data.size}, and the images to judge have "
            f"{'x'.join(map(str, size))} pixels; set data.size to that."
        )
