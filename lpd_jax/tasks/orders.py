"""Task: draws generation orders ahead of time, and shows what they look like.

    python -m lpd_jax orders --config=configs/lpd_256.py:L --workdir=runs/l \\
        --config.orders.count=1000

Order i of the file is the one that `sample` gives image i of the same seed. The file has the
official format, so other programs can read it, and `sample.order_file` reads it (or an official
one) back in place of drawing.
"""

import dataclasses
import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from lpd_jax import checks, storage
from lpd_jax.errors import InputError
from lpd_jax.generation.schedule import Schedule, write_orders
from lpd_jax.sampler import draw_orders
from lpd_jax.tasks import build, results
from lpd_jax.tasks.workdir import digest, done, timed, write_json
from lpd_jax.viz import orders as pictures
from lpd_jax.viz import plots

_LOG = logging.getLogger(__name__)

LAST = "statistics.json"  # the file that says that a directory is complete
_BATCH = 64  # more leave the caches of a CPU, see docs/orders.md
_MEASURED = 1024  # orders that the statistics are of, at most


def run(config: ConfigDict, workdir: storage.Where) -> storage.Path:
    """Writes orders, pictures and statistics to a directory named by the settings; returns it.

    Raises:
        InputError: no orders are asked for, the file to show has too few, or a setting is wrong.
    """
    section, count = config.sample, config.orders.count
    checks.whole("orders.count", count, 1)
    grid = build.grid(config)
    group_sizes = build.group_sizes(section, grid[0] * grid[1])
    order = build.order(section)
    fields = build.deciding(section)
    names = ("order", "order_file", "order_field", "field_context", "proximity", "repulsion")
    settings = {
        "seed": config.seed,
        "grid": grid,
        "count": count,
        "group_sizes": group_sizes,
        "sample": {name: fields[name] for name in names},
    }
    name = f"{results.order(section)}-{len(group_sizes)}steps-seed{config.seed}-{digest(settings)}"
    directory = storage.path(workdir) / "orders" / name
    if done(directory / LAST):
        _LOG.info("orders: already in %s", directory)
        return directory
    with timed(workdir, "orders"):
        if jax.process_index() == 0:
            orders = draw(order, config.seed, count, grid, group_sizes)
            schedule = Schedule(orders, group_sizes, grid).check()
            with results.directory(directory, settings, config, LAST) as partial:
                _write(partial, schedule)
    _LOG.info("orders: %d in %s", count, directory)
    return directory


def draw(
    order, seed: int, count: int, grid: tuple[int, int], group_sizes: tuple[int, ...]
) -> np.ndarray:
    """Orders int32 [count, N] of images 0 to count - 1, as `Sampler.sample` draws them.

    Args:
        order: one of `lpd_jax.generation.orders`, or orders int32 [images, N], which are cut.
        seed: of the run.
        count: images.
        grid: rows and columns.
        group_sizes: S ints, sum N.
    """
    if isinstance(order, np.ndarray):
        if len(order) < count:
            raise InputError(f"the order file holds {len(order)} orders; lower orders.count.")
        return order[:count]
    key, size = jax.random.key(seed), min(count, _BATCH)
    parts = []
    for start in tqdm(range(0, count, size), "orders", unit="batch", dynamic_ncols=True):
        indices = jnp.arange(start, start + size, dtype=jnp.int32)
        parts.append(jax.device_get(draw_orders(order, key, indices, grid, group_sizes)))
    return np.concatenate(parts)[:count]


def _write(directory: storage.Path, schedule: Schedule) -> None:
    measured = dataclasses.replace(schedule, orders=schedule.orders[:_MEASURED])
    step_maps = np.asarray(measured.step_map)
    rows = pictures.statistics_table(step_maps)
    title = "order of image 0"
    plots.save(pictures.step_heatmap(step_maps[0], title), directory / "heatmap.png")
    plots.save(pictures.group_panels(step_maps[0], title=title), directory / "groups.png")
    pictures.save_animation(directory / "order.gif", step_maps[0])
    write_json(directory / "group_sizes.json", list(schedule.group_sizes))
    write_orders(directory / "orders.json", schedule.orders)
    head = f"Means over {len(step_maps)} orders.\n\n"
    storage.write_text(directory / "statistics.md", f"{head}{pictures.markdown_table(rows)}\n")
    # JSON has no NaN.
    plain = json.loads(json.dumps(rows), parse_constant=lambda _: None)
    write_json(directory / LAST, {"orders": len(step_maps), "steps": plain})
