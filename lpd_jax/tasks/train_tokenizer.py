"""Task: trains the VQ tokenizer on images, and shows what it makes of held-out ones."""

import contextlib
import dataclasses
import functools
import logging
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lpd_jax import checkpoint, distributed, parallel, storage
from lpd_jax.data import pipeline, skipping
from lpd_jax.evaluation import vgg
from lpd_jax.evaluation.heldout_images import SHOWN, Features, HeldoutImages
from lpd_jax.metrics import read_rows
from lpd_jax.models.tokenizer import Tokenizer
from lpd_jax.pixels import to_unit
from lpd_jax.tasks import build, measuring, start, tokenizer_parts
from lpd_jax.tasks.workdir import alone, claim, plain, timed, write_json
from lpd_jax.trained import load_tokenizer
from lpd_jax.training.adversarial import DISCRIMINATOR, TOKENIZER
from lpd_jax.training.loop import Evaluator
from lpd_jax.training.loop import train as run_training
from lpd_jax.training.reconstruction import PERCEPTUAL
from lpd_jax.training.step import TrainState
from lpd_jax.viz import images as pictures
from lpd_jax.viz import plots

_LOG = logging.getLogger(__name__)
# Figures that compare all reconstructions with all images, as they are called in the log.
DISTANCES = {"rfid": "rFID", "frechet_vgg16": "Fréchet distance on VGG16"}
_CURVES = ("mse", "commitment", "entropy", "codes_in_batch")
# Drawn too where there are rows of them.
_MORE_CURVES = (
    *("lpips", "adversarial_weight", "discriminator/loss", "psnr_db", "dead_codes"),
    *DISTANCES,
)


def run(config: ConfigDict, workdir: storage.Where) -> dict[str, float]:
    """Trains (or goes on training) in `workdir/tokenizer`; returns its figures."""
    workdir = storage.path(workdir)
    build.loop(config.train_tokenizer)
    plan = tokenizer_parts.plan(config)
    chosen = config.tokenizer_loss.lpips
    weights = vgg.load(chosen) if chosen else None
    with alone(workdir / "tokenizer"):
        directory = claim(
            workdir / "tokenizer",
            {
                "seed": config.seed,
                "data": config.data,
                "tokenizer": config.tokenizer,
                **tokenizer_parts.settings(config, weights.sha256 if weights else ""),
            },
            config,
        )
        network = build.tokenizer(config)
        finished = distributed.from_first((directory / "model/model.json").is_file())
        train, heldout = _images(config, directory, anew=not finished)
        build.grid(config)
        if not finished:
            name = weights.name if weights else ""
            _LOG.info("train_tokenizer: %s", tokenizer_parts.describe(plan, config, name))
            with timed(workdir, "train_tokenizer"):
                state = _train(config, plan, directory, network, train, heldout, weights)
                _save(config, plan, directory, network, state)
                del state
        with timed(workdir, "train_tokenizer"):
            return _report(config, directory, heldout, weights)


def _images(config: ConfigDict, directory: storage.Path, anew: bool = True) -> tuple[Any, Any]:
    """Of both splits; those to train on are whole where they are cropped at random.

    Those that cannot be read are listed in the directory, where that is on a disk: `anew`, because
    one that was may have been mended, and is found again if not.
    """
    listed = None if storage.in_bucket(directory) else directory / skipping.LISTED
    if listed and anew:
        distributed.decided(lambda: listed.unlink(missing_ok=True))
    whole = bool(config.train_tokenizer.random_crop)
    train = build.images(config.data, "train", config.reading, listed, whole)
    return train, build.images(config.data, "heldout", config.reading, listed)


def _augment(config: ConfigDict) -> pipeline.RandomTransform | None:
    """What becomes of an image before it is trained on."""
    chosen = []
    if least := config.train_tokenizer.random_crop:
        chosen.append(pipeline.random_crop(config.data.size, least))
    if config.data.flip:
        chosen.append(pipeline.flip_or_not)
    return pipeline.in_turn(*chosen) if chosen else None


def _train(
    config: ConfigDict,
    plan: tokenizer_parts.Plan,
    directory: storage.Path,
    network: Tokenizer,
    source: Any,
    heldout: Any,
    weights: vgg.VggWeights | None,
) -> TrainState:
    """The state after training."""
    section, mesh, workers = config.train_tokenizer, build.mesh(config), build.workers(config)
    batches = pipeline.batches(
        source,
        batch_size=section.batch_size,
        seed=config.seed,
        rows=parallel.process_rows(mesh, section.batch_size),
        transform=_augment(config),
        num_threads=workers.threads,
        num_processes=workers.processes,
    )
    perceptual = constants = None
    if weights is not None:
        perceptual = functools.partial(vgg.lpips, dtype=config.tokenizer_loss.lpips_dtype)
        constants = {PERCEPTUAL: weights.variables}
    begun = distributed.from_first(start.has_checkpoint(directory))
    with contextlib.closing(iter(batches)) as stream:
        return run_training(
            "train_tokenizer",
            directory,
            tokenizer_parts.parts(plan, network, config, mesh, perceptual, begun),
            stream,
            fields=("image",),
            loop=build.loop(section),
            seed=config.seed,
            mesh=mesh,
            rules=build.rules(config),
            evaluators=_evaluators(config, directory, network, heldout, weights),
            constants=constants,
        )


def _trained(state: TrainState) -> Any:
    """Parameters of the tokenizer that training is for: their average where there is one."""
    average = state.ema[TOKENIZER]
    return tokenizer_parts.of_network(state.params[TOKENIZER] if average is None else average)


def _save(
    config: ConfigDict,
    plan: tokenizer_parts.Plan,
    directory: storage.Path,
    network: Tokenizer,
    state: TrainState,
) -> None:
    """Writes the model directory, and before it that of the discriminator."""
    if plan.adversary:
        judge = {
            "kind": "discriminator",
            "config": dataclasses.asdict(plan.adversary.network.config),
        }
        params = tokenizer_parts.of_network(state.params[DISCRIMINATOR])
        checkpoint.save_model(directory / "discriminator", plain(judge), params)
    params = _trained(state)
    about = plain({"kind": "tokenizer", "config": network.config, "data": config.data})
    about["fingerprint"] = checkpoint.fingerprint(about, params)
    if plan.keeps_codes:
        _, before = tokenizer_parts.source_of(config.train_tokenizer.init_from)
        about["codes"] = before.get("codes") or before["fingerprint"]
    checkpoint.save_model(directory / "model", about, params)


def _evaluators(
    config: ConfigDict,
    directory: storage.Path,
    network: Tokenizer,
    heldout: Any,
    weights: vgg.VggWeights | None,
) -> list[Evaluator]:
    """What the section asks for: figures of held-out images, a sheet of them."""
    section, found = config.train_tokenizer, []
    look = functools.partial(
        HeldoutImages,
        network,
        heldout,
        batch_size=config.encode.batch_size,
        mesh=build.mesh(config),
    )
    if section.eval_every:
        images = look(most=section.eval_images, perceptual=weights)

        def figures(step: int, state: TrainState) -> dict[str, float]:
            kept = images(_trained(state))
            return {f"heldout_{name}": value for name, value in kept.figures.items()}

        found.append(Evaluator("heldout", section.eval_every, figures))
    if section.fid_every:
        compared = look(most=section.fid_images, frechet=_frechet(config, weights))

        def distances(step: int, state: TrainState) -> dict[str, float]:
            kept = compared(_trained(state)).figures
            return {f"heldout_{name}": kept[name] for name in DISTANCES if name in kept}

        found.append(Evaluator("fid", section.fid_every, distances))
    if section.sheet_every:
        shown = look(most=SHOWN)

        def sheet(step: int, state: TrainState) -> dict[str, np.ndarray]:
            page = _sheet(shown(_trained(state)).pairs)
            if jax.process_index() == 0:
                pictures.save_png(page, directory / f"sheets/{step:07d}.png")
            return {"reconstructions": np.asarray(page.convert("RGB"))}

        found.append(Evaluator("sheet", section.sheet_every, sheet))
    return found


def _frechet(config: ConfigDict, weights: vgg.VggWeights | None) -> dict[str, Features]:
    """Distances that there are weights for; rFID is one of Inception's features alone."""
    found = {}
    if config.evaluate.inception:
        inception = measuring.network(config.evaluate.inception)
        found["rfid"] = Features(lambda p, x: inception.apply(p, x).pool3, inception.params)
    if weights is not None:
        found["frechet_vgg16"] = Features(
            lambda p, x: vgg.features(p, to_unit(x)), weights.variables
        )
    return found


def _sheet(pairs: np.ndarray) -> Any:
    """Images beside their reconstructions, uint8 [M, 2, H, W, 3], as a picture."""
    tiles = pairs.reshape(-1, *pairs.shape[2:])
    scale = max(1, 64 // pairs.shape[2])
    return pictures.grid(tiles, 16, scale, ["real", "coded"] * len(pairs))


def _report(
    config: ConfigDict, directory: storage.Path, heldout: Any, weights: vgg.VggWeights | None
) -> dict[str, float]:
    """Figures of all held-out images, with pictures."""
    mesh = build.mesh(config)
    network, params, _ = load_tokenizer(directory / "model", mesh)
    images = HeldoutImages(
        network,
        heldout,
        batch_size=config.encode.batch_size,
        mesh=mesh,
        perceptual=weights,
        frechet=_frechet(config, weights),
    )
    with parallel.use(mesh, build.rules(config)):
        kept = images(params)
    if jax.process_index() == 0:
        write_json(directory / "figures.json", kept.figures)
        pictures.save_png(_sheet(kept.pairs), directory / "reconstructions.png")
        rows = [_plain(row) for row in read_rows(directory)]
        there = {name.removeprefix("heldout_") for row in rows for name in row}
        figure = plots.curves(rows, [*_CURVES, *(name for name in _MORE_CURVES if name in there)])
        plots.save(figure, directory / "curves.png")
        plots.save(plots.code_histogram(kept.counts), directory / "codebook.png")
    shown = {"ssim": "SSIM", "lpips": "LPIPS", **DISTANCES}
    more = "".join(
        f", {name} {kept.figures[key]:.4g}" for key, name in shown.items() if key in kept.figures
    )
    _LOG.info(
        "train_tokenizer: held-out PSNR %.2f dB%s, %.1f %% of the codes used",
        kept.figures["psnr_db"],
        more,
        100 * kept.figures["codebook_usage"],
    )
    return kept.figures


def _plain(row: dict[str, float]) -> dict[str, float]:
    """A row in which the tokenizer's metrics have no prefix, whether or not it was alone."""
    return {name.removeprefix(f"{TOKENIZER}/"): value for name, value in row.items()}
