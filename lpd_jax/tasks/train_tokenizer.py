"""Task: trains the VQ tokenizer on images, and shows what it makes of held-out ones."""

import logging
from pathlib import Path

import grain
import jax
import numpy as np
from ml_collections import ConfigDict

from lpd_jax import checkpoint, parallel
from lpd_jax.data import pipeline
from lpd_jax.errors import InputError
from lpd_jax.evaluation import reconstruction
from lpd_jax.metrics import Writer, read_rows
from lpd_jax.models.tokenizer import Tokenizer, to_uint8
from lpd_jax.tasks import build
from lpd_jax.tasks.workdir import claim, plain, timed, write_json
from lpd_jax.trained import init_tokenizer, load_tokenizer
from lpd_jax.training.loop import fit
from lpd_jax.training.objectives import tokenizer_loss
from lpd_jax.training.optimizer import learning_rate, make_optimizer
from lpd_jax.training.state import init_state, make_train_step
from lpd_jax.viz import images as pictures
from lpd_jax.viz import plots

_LOG = logging.getLogger(__name__)


def run(config: ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Trains (or goes on training) in `workdir/tokenizer`; returns its figures."""
    directory = claim(
        Path(workdir) / "tokenizer",
        {
            "seed": config.seed,
            "data": config.data,
            "tokenizer": config.tokenizer,
            "train_tokenizer": build.lasting(config.train_tokenizer),
        },
    )
    network = build.tokenizer(config)
    train = build.images(config.data, "train")
    heldout = build.images(config.data, "heldout")
    if config.data.size % network.config.stride:
        raise InputError(
            f"data.size={config.data.size} is not a multiple of {network.config.stride}, the "
            "stride of the tokenizer (2 to the number of ch_mult less one); change one of them."
        )
    if not (directory / "model/model.json").is_file():
        with timed(workdir, "train_tokenizer"):
            params = _train(config, directory, network, train)
            about = {"kind": "tokenizer", "config": plain(network.config), "data": config.data}
            about = plain(about)
            about["fingerprint"] = checkpoint.fingerprint(about, params)
            checkpoint.save_model(directory / "model", about, params)
    with timed(workdir, "train_tokenizer"):
        return _report(config, directory, heldout)


def _train(config: ConfigDict, directory: Path, network: Tokenizer, source):
    section = config.train_tokenizer
    mesh, rules = build.mesh(config), build.rules(config)
    optimizer_config = build.optimizer(section)
    optimizer = make_optimizer(optimizer_config)
    key = jax.random.key(config.seed)

    def init(key):
        return init_state(init_tokenizer(network, key), optimizer, ema=False)

    state, shardings = parallel.born_sharded(init, mesh, rules, key)
    step_fn = jax.jit(
        make_train_step(tokenizer_loss(network), optimizer, learning_rate(optimizer_config), key),
        in_shardings=(shardings, parallel.batch_sharding(mesh)),
        out_shardings=(shardings, None),
        donate_argnums=0,
    )
    batches = iter(
        pipeline.batches(
            source,
            batch_size=section.batch_size,
            seed=config.seed,
            transform=pipeline.flip_or_not if config.data.flip else None,
        )
    )
    loop = build.loop(section)
    with checkpoint.Checkpoints(directory / "checkpoints", loop.keep, loop.keep_every) as saved:
        if saved.latest is not None:
            state, batches = saved.restore(checkpoint.abstract_of(state), batches)
            _LOG.info("train_tokenizer: going on from step %d", int(state.step))
        with Writer(directory, int(state.step)) as writer, parallel.use(mesh, rules):
            state = fit(
                state,
                step_fn,
                batches,
                lambda batch: parallel.put_batch({"image": batch["image"]}, mesh),
                loop,
                saved,
                writer,
                "train_tokenizer",
            )
    return state.params


def _report(config: ConfigDict, directory: Path, heldout) -> dict[str, float]:
    """Held-out PSNR and codebook usage, with pictures."""
    network, params, _ = load_tokenizer(directory / "model", build.mesh(config))
    grid = (config.data.size // network.config.stride,) * 2

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
        plots.curves(rows, ["mse", "commitment", "entropy", "codes_in_batch"]).savefig(
            directory / "curves.png"
        )
        plots.code_histogram(counts).savefig(directory / "codebook.png")
    _LOG.info("train_tokenizer: %s", figures)
    return figures
