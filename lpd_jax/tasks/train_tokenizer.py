"""Task: trains the VQ tokenizer on images, and shows what it makes of held-out ones."""

import logging
from typing import Any

import grain
import jax
import numpy as np
from ml_collections import ConfigDict

from lpd_jax import checkpoint, distributed, parallel, storage
from lpd_jax.data import pipeline
from lpd_jax.evaluation import reconstruction
from lpd_jax.metrics import read_rows
from lpd_jax.models.tokenizer import Tokenizer, to_uint8
from lpd_jax.tasks import build
from lpd_jax.tasks.workdir import alone, claim, plain, timed, write_json
from lpd_jax.trained import init_tokenizer, load_tokenizer
from lpd_jax.training.loop import train as run_training
from lpd_jax.training.objectives import tokenizer_loss
from lpd_jax.training.step import Part
from lpd_jax.viz import images as pictures
from lpd_jax.viz import plots

_LOG = logging.getLogger(__name__)


def run(config: ConfigDict, workdir: storage.Where) -> dict[str, float]:
    """Trains (or goes on training) in `workdir/tokenizer`; returns its figures."""
    workdir = storage.path(workdir)
    build.loop(config.train_tokenizer)
    build.optimizer(config.train_tokenizer)
    with alone(workdir / "tokenizer"):
        directory = claim(
            workdir / "tokenizer",
            {
                "seed": config.seed,
                "data": config.data,
                "tokenizer": config.tokenizer,
                "train_tokenizer": build.lasting(config.train_tokenizer),
            },
            config,
        )
        network = build.tokenizer(config)
        train = build.images(config.data, "train")
        heldout = build.images(config.data, "heldout")
        grid = build.grid(config)
        if not distributed.from_first((directory / "model/model.json").is_file()):
            with timed(workdir, "train_tokenizer"):
                params = _train(config, directory, network, train)
                about = plain({"kind": "tokenizer", "config": network.config, "data": config.data})
                about["fingerprint"] = checkpoint.fingerprint(about, params)
                checkpoint.save_model(directory / "model", about, params)
                del params
        with timed(workdir, "train_tokenizer"):
            return _report(config, directory, heldout, grid)


def _train(config: ConfigDict, directory: storage.Path, network: Tokenizer, source) -> Any:
    """Parameters after training."""
    section, mesh = config.train_tokenizer, build.mesh(config)
    batches = pipeline.batches(
        source,
        batch_size=section.batch_size,
        seed=config.seed,
        rows=parallel.process_rows(mesh, section.batch_size),
        transform=pipeline.flip_or_not if config.data.flip else None,
    )
    part = Part(
        lambda key: init_tokenizer(network, key),
        tokenizer_loss(network),
        build.optimizer(section),
    )
    state = run_training(
        "train_tokenizer",
        directory,
        {"tokenizer": part},
        iter(batches),
        fields=("image",),
        loop=build.loop(section),
        seed=config.seed,
        mesh=mesh,
        rules=build.rules(config),
    )
    return state.params["tokenizer"]


def _report(
    config: ConfigDict, directory: storage.Path, heldout, grid: tuple[int, int]
) -> dict[str, float]:
    """Held-out PSNR and codebook usage, with pictures."""
    network, params, _ = load_tokenizer(directory / "model", build.mesh(config))

    @jax.jit
    def round_trip(params, images):
        codes = network.apply({"params": params}, pipeline.to_unit(images), method="encode")
        decoded = network.apply({"params": params}, codes, grid, method="decode")
        return codes, to_uint8(decoded)

    codes, originals, decoded = [], [], []
    size = min(config.encode.batch_size, len(heldout))
    for batch in grain.MapDataset.source(heldout).batch(size):
        originals.append(batch["image"])
        # Whole batches only reach the compiled program: the last one is filled up.
        filled = np.resize(batch["image"], (size, *batch["image"].shape[1:]))
        new_codes, new_decoded = jax.device_get(round_trip(params, filled))
        codes.append(new_codes[: len(batch["image"])])
        decoded.append(new_decoded[: len(batch["image"])])
    codes, originals, decoded = map(np.concatenate, (codes, originals, decoded))
    counts = reconstruction.code_counts(codes, network.config.codebook_size)
    figures = {
        "psnr_db": reconstruction.psnr(originals, decoded),
        "codebook_usage": reconstruction.codebook_usage(codes, network.config.codebook_size),
    }
    if jax.process_index() == 0:
        write_json(directory / "figures.json", figures)
        pairs = np.stack([originals[:32], decoded[:32]], 1).reshape(-1, *originals.shape[1:])
        scale = max(1, 64 // config.data.size)
        sheet = pictures.grid(pairs, 16, scale, ["real", "coded"] * (len(pairs) // 2))
        pictures.save_png(sheet, directory / "reconstructions.png")
        rows = read_rows(directory)
        figure = plots.curves(rows, ["mse", "commitment", "entropy", "codes_in_batch"])
        plots.save(figure, directory / "curves.png")
        plots.save(plots.code_histogram(counts), directory / "codebook.png")
    _LOG.info(
        "train_tokenizer: held-out PSNR %.2f dB, %.1f %% of the codes used",
        figures["psnr_db"],
        100 * figures["codebook_usage"],
    )
    return figures
