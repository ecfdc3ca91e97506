"""Task: measures how far a trained decoder looks: attention by distance, for each layer and head.

    python -m lpd_jax attention --config=digits --workdir=runs/digits

Writes attention.json and a picture to a directory that is named by the settings. The codes are
those in the workdir; with --checkpoint the model is another one. Each image is generated, as it
were, one token a step in a random order, and every query is asked what it attends to.
"""

import logging
from collections.abc import Iterator

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from lpd_jax import parallel, storage
from lpd_jax.data import codes as code_dataset
from lpd_jax.errors import InputError
from lpd_jax.evaluation.attention import Reach, reach
from lpd_jax.generation.orders import Random
from lpd_jax.sampler import draw_orders
from lpd_jax.tasks import build, results, scoring
from lpd_jax.tasks.workdir import digest, done, timed, write_json
from lpd_jax.trained import load_decoder
from lpd_jax.viz import attention as pictures
from lpd_jax.viz import plots

_LOG = logging.getLogger(__name__)

LAST = "attention.json"  # the file that says that a directory is complete
NEAR = 3  # cells: the paper's figure 7b
_AT_ONCE = 16


def run(config: ConfigDict, workdir: storage.Where) -> storage.Path:
    """Measures; returns the directory of the results.

    Raises:
        InputError: a setting is wrong, or the codes are absent or another tokenizer's.
    """
    workdir, section = storage.path(workdir), config.attention
    if jax.process_count() > 1:
        raise InputError("attention is measured by one process; start it without --num_processes.")
    about = build.about(config, workdir)
    scoring.check_codes(workdir, about)
    settings = {
        "seed": config.seed,
        "model": about["identity"],
        "params": config.sample.params,
        "attention": section.to_dict(),
    }
    directory = workdir / "attention" / f"{section.split}-seed{config.seed}-{digest(settings)}"
    if done(directory / LAST):
        _LOG.info("attention: already in %s", directory)
        return directory
    with timed(workdir, "attention"):
        found = _measure(config, workdir)
        with results.directory(directory, settings, config, LAST) as partial:
            figure = pictures.locality(found.per_token, found.within(NEAR), NEAR)
            plots.save(figure, partial / "attention.png", dpi=150)
            write_json(partial / LAST, summary(found))
        results.index(directory.parent, "attention.png")
    near = 100 * found.within(NEAR)
    _LOG.info("attention: %.0f to %.0f %% within %d cells", near.min(), near.max(), NEAR)
    _LOG.info("attention: in %s", directory)
    return directory


def summary(found: Reach) -> dict[str, list]:
    """Lists [L][H] or [L][H][S] by name; None where there is no token at a distance."""
    per_token = np.where(np.isnan(found.per_token), None, found.per_token)
    return {
        "per_token": per_token.tolist(),
        "mass": found.mass.tolist(),
        "to_class": found.to_class.tolist(),
        "to_itself": found.to_itself.tolist(),
        f"within_{NEAR}": found.within(NEAR).tolist(),
    }


def _measure(config: ConfigDict, workdir: storage.Path) -> Reach:
    section = config.attention
    mesh = parallel.make_mesh(parallel.MeshConfig(), jax.devices()[:1])
    place = storage.path(config.checkpoint or workdir) / "decoder/model"
    network, params, _ = load_decoder(place, mesh, build.rules(config), config.sample.params)
    codes = code_dataset.first_views(workdir / "codes", section.split)
    count = min(section.images or len(codes["label"]), len(codes["label"]))
    key, sizes = jax.random.key(config.seed), (1,) * network.config.num_tokens

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for start in tqdm(range(0, count, _AT_ONCE), "attention", unit="batch"):
            rows = np.arange(start, min(start + _AT_ONCE, count), dtype=np.int32)
            orders = draw_orders(Random(), key, rows, network.config.grid, sizes)
            yield codes["codes"][rows], codes["label"][rows], np.asarray(orders)

    return reach(network, params, batches())
