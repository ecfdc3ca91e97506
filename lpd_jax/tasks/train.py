"""Task: trains the decoder on codes, with the paper's scheme (section 3.1)."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lpd_jax import checkpoint, parallel, storage
from lpd_jax.data import codes as code_dataset
from lpd_jax.data import pipeline
from lpd_jax.data.sources import Arrays
from lpd_jax.errors import InputError
from lpd_jax.metrics import read_rows
from lpd_jax.models.attention import check_kernel
from lpd_jax.models.decoder import Decoder, DecoderConfig
from lpd_jax.tasks import build
from lpd_jax.tasks.workdir import claim, plain, timed, write_json
from lpd_jax.trained import init_decoder, load_decoder
from lpd_jax.training.objectives import decoder_loss
from lpd_jax.training.run import train as run_training
from lpd_jax.training.state import TrainState
from lpd_jax.viz import plots
from lpd_jax.weights import resize_pos_embed

_LOG = logging.getLogger(__name__)
# How a step is computed, not what: a run may go on with other devices, and so with other ones.
_HOW = ("accumulate", "loss_chunk", "remat", "attention", "attention_split")
_POS_EMBED = (jax.tree_util.DictKey("pos_embed"),)


def run(
    config: ConfigDict, workdir: storage.Where, codes: storage.Where | None = None
) -> dict[str, float]:
    """Trains (or goes on training) in `workdir/decoder`; returns its figures.

    The codes are those in `workdir/codes`, unless `codes` names another directory.
    """
    workdir = storage.path(workdir)
    codes = storage.path(codes or workdir / "codes")
    if not 0 <= config.train.label_drop < 1:
        raise InputError(f"train.label_drop={config.train.label_drop} must be in [0, 1).")
    spec = code_dataset.read_spec(codes)
    platform = build.mesh(config).devices.flat[0].platform
    check_kernel(config.decoder.attention, config.decoder.dtype, platform)
    directory = claim(
        workdir / "decoder",
        {
            "seed": config.seed,
            "decoder": _without(config.decoder, _HOW),
            "train": _without(build.lasting(config.train), _HOW),
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
            state = _train(config, directory, network, codes, spec)
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
        return _report(config, directory, codes)


def _train(
    config: ConfigDict,
    directory: storage.Path,
    network: Decoder,
    codes: storage.Path,
    spec: code_dataset.CodesSpec,
) -> TrainState:
    section, mesh = config.train, build.mesh(config)
    ways = parallel.batch_ways(mesh)
    if section.batch_size % (ways * section.accumulate):
        raise InputError(
            f"train.batch_size={section.batch_size} does not divide into train.accumulate="
            f"{section.accumulate} parts of which each divides among {ways} devices (mesh data x "
            f"fsdp); make it a multiple of {ways * section.accumulate}."
        )
    initial = None
    if section.init_from and not _has_checkpoint(directory):
        initial = _from_model(storage.path(section.init_from), network, spec)
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
        decoder_loss(network, steps_of, section.label_drop, section.loss_chunk),
        iter(batches),
        fields=("codes", "label"),
        optimizer=build.optimizer(section),
        loop=build.loop(section),
        seed=config.seed,
        mesh=mesh,
        rules=build.rules(config),
        ema_decay=section.ema_decay,
        initial=initial,
    )


def _has_checkpoint(directory: storage.Path) -> bool:
    path = directory / "checkpoints"
    if not path.is_dir():
        return False
    with checkpoint.Checkpoints(path) as checkpoints:
        return checkpoints.latest is not None


def _from_model(
    path: storage.Path, network: Decoder, spec: code_dataset.CodesSpec
) -> Callable[[Any], Any]:
    """Loader of the parameters to begin with: those at `path`, for the grid of `network`.

    Args:
        path: a workdir in which a decoder was trained or converted, or the directory of one.
        network: what is to be trained.
        spec: of the codes to train on.

    Returns:
        Abstract parameters with shardings -> parameters.

    Raises:
        InputError: there is no decoder, or it differs in more than the grid.
    """
    places = (path / "decoder/model", path / "model", path)
    path = next((p for p in places if (p / "model.json").is_file()), places[0])
    about = checkpoint.read_model_json(path, "decoder")
    source = Decoder(DecoderConfig(**about["config"]))
    theirs, ours = (
        nn.unbox(jax.eval_shape(lambda n=n: init_decoder(n, jax.random.key(0))))
        for n in (source, network)
    )
    found, wanted = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (theirs, ours))
    different = [
        f"{jax.tree_util.keystr(name, simple=True, separator='/')} is "
        f"{found[name].shape}, not {leaf.shape}"
        for name, leaf in wanted.items()
        if found[name].shape != leaf.shape and name != _POS_EMBED
    ]
    if different:
        raise InputError(
            f"the decoder in {path} cannot initialise this one: {'; '.join(different)}. Only the "
            "grid may differ; change the decoder section, or train.init_from."
        )
    if about.get("tokenizer") != spec.tokenizer["fingerprint"]:
        _LOG.warning("train: the decoder in %s was trained on codes of another tokenizer", path)

    def load(abstract):
        shardings = jax.tree.map(lambda x: x.sharding, abstract)
        whole = parallel.replicated(shardings["pos_embed"].mesh)
        params = checkpoint.load_params(path, theirs, shardings | {"pos_embed": whole})
        if source.config.grid != network.config.grid:
            resized = resize_pos_embed(params["pos_embed"], source.config.grid, network.config.grid)
            params["pos_embed"] = resized
        placed = jax.device_put(params["pos_embed"], shardings["pos_embed"])
        _LOG.info("train: starting from the parameters in %s", path)
        return params | {"pos_embed": placed}

    return load


def _without(section: ConfigDict | dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """A section without these fields, and without a start that it does not name."""
    start = () if section.get("init_from") else ("init_from",)
    return {name: value for name, value in section.items() if name not in (*names, *start)}


def _report(config: ConfigDict, directory: storage.Path, codes: storage.Path) -> dict[str, float]:
    """Held-out loss per code for each schedule that training draws from, and the curves."""
    mesh, rules = build.mesh(config), build.rules(config)
    network, params, _ = load_decoder(directory / "model", mesh, rules)
    network = Decoder(dataclasses.replace(network.config, dropout=0.0))
    arrays = code_dataset.load_codes(codes, "heldout")
    size = min(config.train.batch_size, len(arrays["label"]))
    steps_of = build.steps_of(config.train, network.config.num_tokens)
    key = jax.random.key(config.seed)

    @jax.jit
    def loss(params, batch, step_of):
        score = decoder_loss(network, step_of[None], 0.0, config.train.loss_chunk)
        return score(params, batch, key)[0]

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
        figure = plots.curves(rows, ["loss", "accuracy", "grad_norm", "learning_rate"])
        plots.save(figure, directory / "curves.png")
    _LOG.info("train: %s", figures)
    return figures
