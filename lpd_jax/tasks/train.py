"""Task: trains the decoder on codes, with the paper's scheme (section 3.1)."""

import dataclasses
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lpd_jax import checkpoint, parallel
from lpd_jax.data import codes as code_dataset
from lpd_jax.data import pipeline
from lpd_jax.data.sources import Arrays
from lpd_jax.errors import InputError
from lpd_jax.metrics import read_rows
from lpd_jax.models.decoder import Decoder, DecoderConfig
from lpd_jax.tasks import build
from lpd_jax.tasks.workdir import claim, plain, timed, write_json
from lpd_jax.trained import init_decoder, load_decoder
from lpd_jax.training.objectives import decoder_loss
from lpd_jax.training.run import train as run_training
from lpd_jax.training.state import TrainState
from lpd_jax.viz import plots

_LOG = logging.getLogger(__name__)


def run(config: ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Trains (or goes on training) in `workdir/decoder`; returns its figures."""
    workdir = Path(workdir)
    if not 0 <= config.train.label_drop < 1:
        raise InputError(f"train.label_drop={config.train.label_drop} must be in [0, 1).")
    spec = code_dataset.read_spec(workdir / "codes")
    directory = claim(
        workdir / "decoder",
        {
            "seed": config.seed,
            "decoder": config.decoder,
            "train": build.lasting(config.train),
            "tokenizer": spec.tokenizer["fingerprint"],
        },
    )
    network = Decoder(
        DecoderConfig(
            grid=spec.grid,
            vocab_size=spec.codebook_size,
            num_classes=len(spec.class_names),
            **config.decoder,
        )
    )
    if not (directory / "model/model.json").is_file():
        with timed(workdir, "train"):
            state = _train(config, directory, network, workdir / "codes")
            about = {
                "kind": "decoder",
                "config": dataclasses.asdict(network.config),
                "class_names": spec.class_names,
                "label_drop": config.train.label_drop,
                "tokenizer": spec.tokenizer["fingerprint"],
            }
            params = state.params if state.ema is None else state.ema
            checkpoint.save_model(directory / "model", plain(about), params)
    with timed(workdir, "train"):
        return _report(config, directory, workdir / "codes")


def _train(config: ConfigDict, directory: Path, network: Decoder, codes: Path) -> TrainState:
    section, mesh = config.train, build.mesh(config)
    steps_of = build.steps_of(section, network.config.num_tokens)
    batches = pipeline.batches(
        Arrays(code_dataset.load_codes(codes, "train")),
        batch_size=section.batch_size,
        seed=config.seed,
        rows=parallel.process_rows(mesh, section.batch_size),
        transform=pipeline.choose_view,
    )
    return run_training(
        "train",
        directory,
        lambda key: init_decoder(network, key),
        decoder_loss(network, steps_of, section.label_drop),
        iter(batches),
        fields=("codes", "label"),
        optimizer=build.optimizer(section),
        loop=build.loop(section),
        seed=config.seed,
        mesh=mesh,
        rules=build.rules(config),
        ema_decay=section.ema_decay,
    )


def _report(config: ConfigDict, directory: Path, codes: Path) -> dict[str, float]:
    """Held-out loss per code for each schedule that training draws from, and the curves."""
    mesh, rules = build.mesh(config), build.rules(config)
    network, params, _ = load_decoder(directory / "model", mesh, rules)
    arrays = code_dataset.load_codes(codes, "heldout")
    size = min(config.train.batch_size, len(arrays["label"]))
    steps_of = build.steps_of(config.train, network.config.num_tokens)
    key = jax.random.key(config.seed)

    @jax.jit
    def loss(params, batch, step_of):
        return decoder_loss(network, step_of[None], label_drop=0.0)(params, batch, key)[0]

    def mean_loss(step_of) -> float:
        losses = []
        for start in range(0, len(arrays["label"]) - size + 1, size):
            rows = slice(start, start + size)
            batch = {"codes": arrays["codes"][rows, 0], "label": arrays["label"][rows]}
            losses.append(loss(params, batch, step_of))
        return float(np.mean(jax.device_get(losses)))

    with parallel.use(mesh, rules):
        figures = {
            f"heldout_loss_{steps}_steps": mean_loss(jnp.asarray(step_of))
            for steps, step_of in zip(config.train.schedules, steps_of, strict=True)
        }
    if jax.process_index() == 0:
        write_json(directory / "figures.json", figures)
        rows = read_rows(directory)
        plots.curves(rows, ["loss", "accuracy", "grad_norm", "learning_rate"]).savefig(
            directory / "curves.png"
        )
    _LOG.info("train: %s", figures)
    return figures
