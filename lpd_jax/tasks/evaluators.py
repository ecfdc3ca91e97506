"""What is looked at while the decoder is trained: held-out loss, a sheet of samples, FID."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lpd_jax import storage
from lpd_jax.data import codes as code_dataset
from lpd_jax.errors import InputError
from lpd_jax.models.decoder import Decoder
from lpd_jax.sampler import Sampler
from lpd_jax.tasks import build, measuring
from lpd_jax.trained import load_tokenizer
from lpd_jax.training.heldout import Heldout, heldout_losses, mean_and_error
from lpd_jax.training.loop import Evaluator
from lpd_jax.training.step import TrainState
from lpd_jax.viz import images as pictures

PART = "decoder"  # of the state, the only one that is trained
_SHEET = 16  # images at most


def of(
    config: ConfigDict,
    workdir: storage.Path,
    network: Decoder,
    codes: storage.Path,
    spec: code_dataset.CodesSpec,
) -> list[Evaluator]:
    """What `config.train` asks for.

    Raises:
        InputError: FID is asked for without weights or a reference, or those do not fit.
    """
    section, found = config.train, []
    if section.eval_every:
        run = _heldout(config, network, codes)
        found.append(Evaluator("heldout", section.eval_every, run))
    if not (section.sheet_every or section.fid_every):
        return found
    sampler = _samplers(config, workdir, network, spec)
    if section.sheet_every:
        run = _sheet(config, workdir, network.config.num_classes, sampler)
        found.append(Evaluator("sheet", section.sheet_every, run))
    if section.fid_every:
        run = _fid(config, workdir, network.config.num_classes, sampler)
        found.append(Evaluator("fid", section.fid_every, run))
    return found


def losses(config: ConfigDict, network: Decoder, codes: storage.Path) -> Heldout:
    """Losses of all held-out images; the first view of each, which is not flipped."""
    return heldout_losses(
        network,
        code_dataset.first_views(codes, "heldout"),
        batch_size=config.train.batch_size,
        key=jax.random.key(config.seed),
        mesh=build.mesh(config),
        chunk=config.train.loss_chunk,
        draw_order=build.training_order(config.train, network.config.grid),
    )


def _heldout(config: ConfigDict, network: Decoder, codes: storage.Path) -> Callable:
    of_params = losses(config, network, codes)
    steps_of = build.steps_of(config.train, network.config.num_tokens)

    def run(step: int, state: TrainState) -> dict[str, float]:
        mean, error = mean_and_error(of_params(state.params[PART], steps_of))
        row = {"heldout_loss": mean, "heldout_loss_se": error}
        if state.ema[PART] is not None:
            row["ema_heldout_loss"] = mean_and_error(of_params(state.ema[PART], steps_of))[0]
        return row

    return run


def _samplers(
    config: ConfigDict, workdir: storage.Path, network: Decoder, spec: code_dataset.CodesSpec
) -> Callable[[Any], Sampler]:
    """Parameters of the decoder -> a sampler with the tokenizer that it is trained with."""
    mesh = build.mesh(config)
    path = storage.path(config.checkpoint or workdir) / "tokenizer/model"
    tokenizer, tokenizer_params, _ = load_tokenizer(path, mesh)

    def sampler(params: Any) -> Sampler:
        return Sampler(
            decoder=Decoder(dataclasses.replace(network.config, dropout=0.0)),
            decoder_params=params,
            tokenizer=tokenizer,
            tokenizer_params=tokenizer_params,
            class_names=spec.class_names,
            guidable=config.train.label_drop > 0,
            mesh=mesh,
            rules=build.rules(config),
        )

    return sampler


def _sheet(
    config: ConfigDict, workdir: storage.Path, classes: int, sampler: Callable[[Any], Sampler]
) -> Callable:
    labels = np.arange(classes)[:_SHEET]

    def run(step: int, state: TrainState) -> dict[str, np.ndarray]:
        average = state.ema[PART]
        own = sampler(state.params[PART] if average is None else average)
        images = build.generate(config, config.sample, own, labels).images
        page = pictures.grid(images, 8, max(1, 64 // images.shape[1]))
        if jax.process_index() == 0:
            pictures.save_png(page, workdir / f"decoder/sheets/{step:07d}.png")
        return {"samples": np.asarray(page.convert("RGB"))}

    return run


def _fid(
    config: ConfigDict, workdir: storage.Path, classes: int, sampler: Callable[[Any], Sampler]
) -> Callable:
    """FID and inception score of `train.fid_images` images, of the parameters and their average."""
    chosen = config.evaluate
    if not (chosen.inception and chosen.reference):
        raise InputError(
            "train.fid_every needs weights and a reference: --config.evaluate.inception=... and "
            "--config.evaluate.reference=...; or set it to 0."
        )
    labels = measuring.balanced(config.train.fid_images, classes)
    network = measuring.network(chosen.inception)
    batch_size, size = config.sample.batch_size, sampler(None).image_size
    real = measuring.real(chosen.reference, network, size, workdir, batch_size, classes)
    # Once: they compile their programs, and training leaves the tokenizer as it is.
    look, decode = measuring.Extractor(network), measuring.decoder_of_codes(sampler(None))

    def figures(params: Any) -> dict[str, float]:
        codes = build.batches(config, config.sample, sampler(params), labels, pixels=False)
        return measuring.quick(measuring.developed(codes, decode), look, real.reference)

    def run(step: int, state: TrainState) -> dict[str, float]:
        found = figures(state.params[PART])
        if state.ema[PART] is not None:
            average = figures(state.ema[PART])
            found |= {f"ema_{name}": value for name, value in average.items()}
        return found

    return run
