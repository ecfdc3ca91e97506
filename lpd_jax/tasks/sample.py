"""Task: generates images of chosen classes, and shows how they appear step by step."""

import logging
import math
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lpd_jax import checks, storage
from lpd_jax.generation.schedule import Schedule
from lpd_jax.sampler import Sampler, Samples
from lpd_jax.tasks import build, results
from lpd_jax.tasks.workdir import done, timed
from lpd_jax.viz import images as pictures
from lpd_jax.viz import orders as order_pictures
from lpd_jax.viz import plots

_LOG = logging.getLogger(__name__)

LAST = "samples.png"  # the file that says that a directory is complete


def run(config: ConfigDict, workdir: storage.Where) -> storage.Path:
    """Writes images, codes and pictures to a directory named by the settings; returns it.

    The name says the model too, by a digest; `samples/index.html` shows all of them.

    Raises:
        InputError: a setting does not fit the model, or the directory cannot be written.
    """
    workdir = storage.path(workdir)
    section = config.sample
    about = build.about(config, workdir)
    names, classes = about["class_names"], about["config"]["num_classes"]
    chosen = build.labels(section.labels, names, classes)
    labels = np.tile(
        np.array(chosen or range(classes), np.int32), checks.whole("sample.count", section.count, 1)
    )
    group_sizes = build.group_sizes(section, math.prod(about["config"]["grid"]))
    settings = {
        "seed": config.seed,
        "model": about["identity"],
        "sample": build.deciding(section) | {"labels": chosen, "count": section.count},
    }
    shown = [[*names, "any"][label] for label in chosen]
    directory = workdir / "samples" / results.name(settings, len(group_sizes), labels=shown)
    if done(directory / LAST):
        _LOG.info("sample: already in %s", directory)
        return directory
    with timed(workdir, "sample"):
        sampler = build.sampler(config, workdir)
        samples = build.generate(config, section, sampler, labels, progress=True)
        if jax.process_index() == 0:
            with results.directory(directory, settings, config, LAST) as partial:
                _write(partial, sampler, samples, labels, len(chosen), group_sizes, settings)
            results.index(directory.parent, LAST)
    _LOG.info("sample: %d images in %s", len(labels), directory)
    return directory


def _write(
    directory: storage.Path,
    sampler: Sampler,
    samples: Samples,
    labels: np.ndarray,
    classes: int,
    group_sizes: tuple[int, ...],
    settings: dict[str, Any],
) -> None:
    schedule = sampler.schedule(samples, group_sizes)
    with storage.whole(directory / "samples.npz") as file:
        np.savez_compressed(
            file,
            images=samples.images,
            codes=samples.codes,
            orders=samples.orders,
            labels=labels,
            group_sizes=group_sizes,
            **({} if samples.steps is None else {"steps": samples.steps}),
        )
    names = [*sampler.class_names, "any"]
    columns = classes or min(len(sampler.class_names), 10)
    scale = max(1, 96 // samples.images.shape[1])
    step_map = np.asarray(schedule.step_map[0])
    plots.save(order_pictures.group_panels(step_map), directory / "order.png")
    frames = appearing(samples.images[:columns], schedule)
    pictures.save_png(pictures.strip(frames, 10, scale), directory / "strip.png")
    animation = [pictures.grid(frame, columns, scale) for frame in frames]
    pictures.save_gif(animation, directory / "generation.gif")
    sheet = pictures.grid(samples.images, columns, scale, [names[label] for label in labels])
    pictures.save_png(sheet, directory / LAST, results.chunks(settings, labels, names))


def appearing(images: np.ndarray, schedule: Schedule) -> np.ndarray:
    """uint8 [S, B, H, W, 3]: the images with what is not yet generated at each step covered."""
    step_map = np.asarray(schedule.step_map)[: len(images)]
    steps = range(len(schedule.group_sizes))
    return np.stack([pictures.hide_unknown(images, step_map <= step) for step in steps])
