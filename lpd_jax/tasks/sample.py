"""Task: generates images of chosen classes, and shows how they appear step by step."""

import logging

import jax
import numpy as np
from ml_collections import ConfigDict

from lpd_jax import storage
from lpd_jax.errors import InputError
from lpd_jax.generation.schedule import Schedule
from lpd_jax.sampler import Sampler, Samples
from lpd_jax.tasks import build
from lpd_jax.tasks.workdir import claim, digest, timed
from lpd_jax.viz import images as pictures
from lpd_jax.viz import orders as order_pictures
from lpd_jax.viz import plots

_LOG = logging.getLogger(__name__)


def run(config: ConfigDict, workdir: storage.Where) -> storage.Path:
    """Writes images, codes and pictures to a directory named by the settings; returns it."""
    workdir = storage.path(workdir)
    section = config.sample
    sampler = build.sampler(config, workdir)
    labels = _labels(section, len(sampler.class_names))
    group_sizes = build.group_sizes(section, sampler.decoder.config.num_tokens)
    settings = {"seed": config.seed, "sample": section, "checkpoint": config.checkpoint}
    name = f"{section.order}-{len(group_sizes)}steps-cfg{section.guidance:g}-{digest(settings)}"
    directory = workdir / "samples" / name
    if (directory / "samples.png").is_file():
        _LOG.info("sample: already in %s", directory)
        return directory
    with timed(workdir, "sample"):
        samples = build.generate(config, section, sampler, labels, progress=True)
        claim(directory, settings)
        if jax.process_index() == 0:
            _write(directory, section, sampler, samples, labels, group_sizes)
    _LOG.info("sample: %d images in %s", len(labels), directory)
    return directory


def _labels(section: ConfigDict, num_classes: int) -> np.ndarray:
    """The labels asked for, each `section.count` times; all classes by default."""
    labels = list(section.labels) or list(range(num_classes))
    if section.count < 1:
        raise InputError(f"sample.count={section.count} must be at least 1.")
    return np.tile(np.int32(labels), section.count)


def _write(
    directory: storage.Path,
    section: ConfigDict,
    sampler: Sampler,
    samples: Samples,
    labels: np.ndarray,
    group_sizes: tuple[int, ...],
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
        )
    names = [*sampler.class_names, "any"]
    columns = len(list(section.labels)) or min(len(sampler.class_names), 10)
    scale = max(1, 96 // samples.images.shape[1])
    step_map = np.asarray(schedule.step_map[0])
    plots.save(order_pictures.group_panels(step_map), directory / "order.png")
    frames = appearing(samples.images[:columns], schedule)
    pictures.save_png(pictures.strip(frames, 10, scale), directory / "strip.png")
    animation = [pictures.grid(frame, columns, scale) for frame in frames]
    pictures.save_gif(animation, directory / "generation.gif")
    # The grid is written last: it says that the directory is complete.
    sheet = pictures.grid(samples.images, columns, scale, [names[label] for label in labels])
    pictures.save_png(sheet, directory / "samples.png")


def appearing(images: np.ndarray, schedule: Schedule) -> np.ndarray:
    """uint8 [S, B, H, W, 3]: the images with what is not yet generated at each step covered."""
    step_map = np.asarray(schedule.step_map)[: len(images)]
    steps = range(len(schedule.group_sizes))
    return np.stack([pictures.hide_unknown(images, step_map <= step) for step in steps])
