"""Codes and a trained decoder, made ready to score schedules; shared by the tasks that do."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from lpd_jax import storage
from lpd_jax.data import codes as code_dataset
from lpd_jax.errors import InputError
from lpd_jax.evaluation.likelihood import Bits, scorer
from lpd_jax.models.decoder import Decoder
from lpd_jax.tasks import build
from lpd_jax.trained import load_decoder


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


def prepare(
    config: ConfigDict, workdir: storage.Path, split: str, images: int
) -> tuple[Bits, int, tuple[int, int]]:
    """What scores the first `images` images of a split (0: all), how many they are, and the grid.

    Of each image the first view counts, which is not flipped.
    """
    mesh, rules = build.mesh(config), build.rules(config)
    place = storage.path(config.checkpoint or workdir) / "decoder/model"
    network, params, _ = load_decoder(place, mesh, rules, config.sample.params)
    dtype = config.sample.dtype or network.config.dtype
    network = Decoder(dataclasses.replace(network.config, dtype=dtype, dropout=0.0))
    arrays = code_dataset.load_codes(workdir / "codes", split)
    count = min(images or len(arrays["label"]), len(arrays["label"]))
    chosen = {"codes": arrays["codes"][:count, 0], "label": arrays["label"][:count]}
    how = {"batch_size": config.sample.batch_size, "chunk": config.train.loss_chunk}
    return scorer(network, params, chosen, mesh=mesh, **how), count, network.config.grid
