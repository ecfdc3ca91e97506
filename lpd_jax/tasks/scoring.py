"""Codes and a trained decoder, made ready to score schedules; shared by the tasks that do."""

import dataclasses
import json
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lpd_jax import distributed, parallel, storage
from lpd_jax.data import codes as code_dataset
from lpd_jax.errors import InputError
from lpd_jax.evaluation.likelihood import Bits, scorer
from lpd_jax.generation.groups import step_of
from lpd_jax.models.decoder import Decoder
from lpd_jax.sampler import Sampler
from lpd_jax.tasks import build
from lpd_jax.tasks.workdir import SETTINGS
from lpd_jax.trained import load_decoder

LIKELIHOOD = "likelihood.json"  # what the task likelihood writes last


def check_codes(workdir: storage.Path, about: dict[str, Any]) -> None:
    """Returns if the codes of a workdir are of the tokenizer that a decoder belongs to.

    Raises:
        InputError: there are none, or they are another's.
    """
    codes = workdir / "codes"
    if code_dataset.read_spec(codes).tokenizer["fingerprint"] != about["tokenizer"]:
        raise InputError(
            f"the codes in {codes} are another tokenizer's than the model was trained with; encode "
            "with --checkpoint into a workdir of its own."
        )


def newest(workdir: storage.Path, identity: str) -> storage.Path | None:
    """Directory of the newest likelihood.json about held-out codes under a model, if any.

    As process 0 sees it; all processes call it. `identity` is that of `build.about`.
    """

    def find() -> str | None:
        files = (workdir / "likelihood").glob(f"*/{LIKELIHOOD}")
        for file in sorted(files, key=storage.modified, reverse=True):
            settings = json.loads((file.parent / SETTINGS).read_text())
            if settings["model"] == identity and settings["likelihood"]["split"] == "heldout":
                return str(file.parent)
        return None

    found = distributed.decided(find)
    return None if found is None else storage.path(found)


def prepare(
    config: ConfigDict, workdir: storage.Path, split: str, images: int
) -> tuple[Bits, int, tuple[int, int]]:
    """What scores `images` images of a split (0: all), how many they are, and the grid.

    Fewer than all are evenly spread over it, since folders lie in the order of their classes. Of
    each image the first view counts, which is not flipped.
    """
    mesh, rules = build.mesh(config), build.rules(config)
    place = storage.path(config.checkpoint or workdir) / "decoder/model"
    network, params, _ = load_decoder(place, mesh, rules, config.sample.params)
    dtype = config.sample.dtype or network.config.dtype
    network = Decoder(dataclasses.replace(network.config, dtype=dtype, dropout=0.0))
    found = code_dataset.first_views(workdir / "codes", split)
    count = min(images or len(found["label"]), len(found["label"]))
    rows = np.arange(count) * len(found["label"]) // count
    chosen = {name: array[rows] for name, array in found.items()}
    how = {"batch_size": config.sample.batch_size, "chunk": config.train.loss_chunk}
    return scorer(network, params, chosen, mesh=mesh, **how), count, network.config.grid


def heldout_codes(
    config: ConfigDict, workdir: storage.Path, tokenizer: str
) -> dict[str, np.ndarray] | None:
    """Held-out codes int32 [M, N] and `label` [M] of the tokenizer with this fingerprint.

    Those of the workdir or else of `config.checkpoint`; None where neither has them. The first view
    of each image counts, which is not flipped.
    """

    def find() -> str | None:
        for place in (workdir, storage.path(config.checkpoint or workdir)):
            codes = place / "codes"
            if not (codes / code_dataset.SPEC_FILE).is_file():
                continue
            if code_dataset.read_spec(codes).tokenizer["fingerprint"] == tokenizer:
                return str(codes)
        return None

    if (found := distributed.decided(find)) is None:
        return None
    return code_dataset.first_views(storage.path(found), "heldout")


def nll_bits(
    sampler: Sampler,
    codes: dict[str, np.ndarray],
    orders: np.ndarray,
    group_sizes: tuple[int, ...],
    batch_size: int,
) -> float:
    """Mean bits per token of images under the orders int32 [M, N] and groups; without guidance."""
    with parallel.use(sampler.mesh, sampler.rules):
        bits = scorer(
            sampler.decoder,
            sampler.decoder_params,
            codes,
            batch_size=batch_size,
            mesh=sampler.mesh,
        )
        found = bits(orders, step_of(group_sizes)).mean()
    return float(found)
