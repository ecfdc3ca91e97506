"""Task: asks a trained model which cells depend on each other, for orders that keep them apart.

    python -m lpd_jax fit_order --config=digits --workdir=runs/digits
    python -m lpd_jax sample --config=digits --workdir=runs/digits \\
        --config.sample.order_field=runs/digits/fields/NAME/field.npy

The field is measured on training codes; `fit_schedule` fits group sizes to its order too.
"""

import logging

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from lpd_jax import parallel, storage
from lpd_jax.evaluation import dependence
from lpd_jax.evaluation.likelihood import Bits
from lpd_jax.generation import field, orders
from lpd_jax.sampler import draw_orders
from lpd_jax.tasks import build, results, scoring
from lpd_jax.tasks.workdir import digest, done, timed
from lpd_jax.viz import likelihood as pictures
from lpd_jax.viz import plots

_LOG = logging.getLogger(__name__)
LAST = "field.npy"  # the file that says that a directory is complete


def run(config: ConfigDict, workdir: storage.Where) -> storage.Path:
    """Measures; returns the file that `sample.order_field` takes.

    Raises:
        InputError: a setting is wrong, or the codes are absent or another tokenizer's.
    """
    workdir, section = storage.path(workdir), config.fit_order
    about = build.about(config, workdir)
    scoring.check_codes(workdir, about)
    settings = {
        "seed": config.seed,
        "model": about["identity"],
        "sample": {name: config.sample[name] for name in ("dtype", "params")},
        "fit_order": section,
    }
    directory = workdir / "fields" / f"seed{config.seed}-{digest(settings)}"
    if not done(directory / LAST):
        with timed(workdir, "fit_order"):
            found, grid = _measure(config, workdir)
            if jax.process_index() == 0:
                with results.directory(directory, settings, config, LAST) as partial:
                    figure = pictures.dependence(found, dependence.by_offset(found, grid), grid)
                    plots.save(figure, partial / "field.png")
                    field.write(partial / LAST, found)
                results.index(directory.parent, "field.png")
    _LOG.info("fit_order: --config.sample.order_field=%s", directory / LAST)
    return directory / LAST


def _measure(config: ConfigDict, workdir: storage.Path) -> tuple[np.ndarray, tuple[int, int]]:
    """The dependence of every two cells, float [N, N], and the grid."""
    bits, count, grid = scoring.prepare(config, workdir, "train", config.fit_order.images)
    key, indices = jax.random.key(config.seed), np.arange(count, dtype=np.int32)
    with parallel.use(build.mesh(config), build.rules(config)):
        single = (1,) * (grid[0] * grid[1])
        drawn = jax.device_get(draw_orders(orders.Random(), key, indices, grid, single))
        with tqdm(total=len(single), desc="fit_order", unit="pass", dynamic_ncols=True) as bar:
            return dependence.pairwise(_shown(bits, bar), drawn, grid), grid


def _shown(bits: Bits, bar: tqdm) -> Bits:
    """The same, with a bar that moves."""

    def run(*args: np.ndarray) -> np.ndarray:
        bar.update()
        return bits(*args)

    return run
