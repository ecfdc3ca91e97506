"""What a training run begins with, other than chance: a model's parameters, or another run."""

import dataclasses
import json
import logging
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lpd_jax import checkpoint, distributed, parallel, storage
from lpd_jax.data import codes as code_dataset
from lpd_jax.errors import InputError
from lpd_jax.models.decoder import Decoder
from lpd_jax.models.initial import init_decoder
from lpd_jax.trained import decoder_of, load_tokenizer
from lpd_jax.training.loop import Fork
from lpd_jax.training.step import TrainState
from lpd_jax.weights import resize_pos_embed

_LOG = logging.getLogger(__name__)
_POS_EMBED = (jax.tree_util.DictKey("pos_embed"),)


def share_tokenizer(source: storage.Path, workdir: storage.Path, mesh: jax.sharding.Mesh) -> None:
    """Puts the tokenizer of the run that is forked beside this one: a link, in buckets a copy."""
    source, there = storage.absolute(source) / "tokenizer", workdir / "tokenizer"
    if distributed.from_first(there.exists() or not source.exists()):
        return
    if storage.in_bucket(source) or storage.in_bucket(workdir):
        _, params, about = load_tokenizer(source / "model", mesh)
        checkpoint.save_model(there / "model", about, params)
    elif jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        there.symlink_to(source)


def from_run(path: storage.Path, step: int, steps: int) -> Fork:
    """Loader of the whole state of another run, and of its position in the data.

    Raises:
        InputError: there is no such checkpoint, or it has done all the `steps` already.
    """
    place = path / "decoder/checkpoints"
    if not place.is_dir():
        raise InputError(f"train.fork_from={path}: no decoder was trained there; train one first.")
    with checkpoint.Checkpoints(place, read_only=True) as saved:
        found = saved.steps
    if not found or (step and step not in found):
        raise InputError(
            f"{place} has checkpoints of the steps {', '.join(map(str, found)) or 'none'}; choose "
            "train.fork_step from them, or 0 for the newest."
        )
    if (step or found[-1]) >= steps:
        raise InputError(
            f"the run in {path} has done {step or found[-1]} steps at that checkpoint; train.steps="
            f"{steps} counts from the beginning of that run and must be more."
        )
    section = json.loads((path / "decoder/settings.json").read_text())["train"]

    def load(abstract: TrainState) -> tuple[TrainState, dict[str, int]]:
        parts, wanted = abstract.params, abstract.stored()
        theirs = dataclasses.replace(
            wanted, ema=wanted.params if section.get("ema_decay") else None
        )
        with checkpoint.Checkpoints(place, read_only=True) as saved:
            state, position = saved.restore(theirs, step or found[-1])
        if wanted.ema is None:
            state = state.replace(ema=None)
        elif state.ema is None:
            state = state.replace(ema=jax.tree.map(jnp.copy, state.params))
        _LOG.info("train: forked from step %d of the run in %s", int(state.step), path)
        return state.named(parts), position

    return load


def has_checkpoint(directory: storage.Path) -> bool:
    path = directory / "checkpoints"
    if not path.is_dir():
        return False
    with checkpoint.Checkpoints(path, read_only=True) as checkpoints:
        return checkpoints.latest is not None


def from_model(
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
    source = decoder_of(about["config"])
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
