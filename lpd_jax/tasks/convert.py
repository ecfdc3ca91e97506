"""Task: weights of the official PyTorch implementation into model directories, and back.

    python -m lpd_jax convert --config=configs/lpd_256.py:L --workdir=weights/lpd_l_256 \\
        --config.convert.tokenizer=vq_ds16_c2i.pt --config.convert.decoder=lpd_l_256.pth
    python -m lpd_jax sample --config=configs/lpd_256.py:L --workdir=runs/l \\
        --checkpoint=weights/lpd_l_256
    python -m lpd_jax convert --config=configs/lpd_256.py:L --workdir=runs/l \\
        --config.convert.export_decoder=mine.safetensors

The sizes come from the shapes in the file. What no shape tells is the config's if the file is a
network of its sizes: heads, groups of the norms, and the grid (with another `data.size` the
position embedding is resized). A file of other sizes is taken as its shapes say, with a warning:
heads are then width / 64 unless `convert.heads` says otherwise, groups of the norms 32.
"""

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from lpd_jax import checkpoint, storage, weights
from lpd_jax.errors import InputError
from lpd_jax.models.decoder import DecoderConfig
from lpd_jax.models.tokenizer import TokenizerConfig
from lpd_jax.tasks import build
from lpd_jax.tasks.workdir import SETTINGS, claim, done, plain, read_json, timed, writing
from lpd_jax.trained import load_decoder, load_tokenizer

_LOG = logging.getLogger(__name__)

_DECODER_SIZES = ("width", "depth", "heads", "mlp_ratio")
_TOKENIZER_SIZES = (
    *("ch", "ch_mult", "num_res_blocks", "z_channels"),
    *("codebook_size", "codebook_dim", "in_channels", "norm_groups"),
)


def run(config: ConfigDict, workdir: storage.Where) -> None:
    """Converts every file that `config.convert` names.

    `tokenizer` and `decoder` are read into `workdir`; `export_tokenizer` and `export_decoder` are
    written from the models in `config.checkpoint` or, without one, in `workdir`, each with a model
    card beside it (.md).

    Raises:
        InputError: no file is named, one cannot be used, or something else is in its place.
    """
    section, workdir = config.convert, storage.path(workdir)
    if not any(value for name, value in section.items() if name not in ("heads", "licence")):
        raise InputError(
            "there is nothing to convert: name official files with --config.convert.tokenizer and "
            "--config.convert.decoder, or files to write with --config.convert.export_tokenizer "
            "and --config.convert.export_decoder."
        )
    for path in filter(None, (section.export_tokenizer, section.export_decoder)):
        for file in (storage.path(path), storage.path(path).with_suffix(".md")):
            if file.exists():
                raise InputError(f"{file} exists and is not overwritten; give another name.")
    if section.tokenizer:
        with _official(section.tokenizer) as file:
            import_tokenizer(config, file, workdir)
    if section.decoder:
        with _official(section.decoder) as file:
            import_decoder(config, file, workdir)
    source, mesh = storage.path(config.checkpoint or workdir), build.sample_mesh(config)
    if section.export_tokenizer:
        _, params, about = load_tokenizer(source / "tokenizer/model", mesh)
        official = weights.tokenizer_to_official(params)
        _export(section.export_tokenizer, official, about, source, section.licence)
    if section.export_decoder:
        _, params, about = load_decoder(source / "decoder/model", mesh, build.rules(config))
        official = weights.decoder_to_official(params)
        _export(section.export_decoder, official, about, source, section.licence)


def import_tokenizer(config: ConfigDict, path: pathlib.Path, workdir: storage.Path) -> None:
    """Official tokenizer -> `workdir/tokenizer/model`."""
    official = _read(path, "tokenizer")
    stated = TokenizerConfig(**config.tokenizer)
    # Norm groups leave no trace in the shapes: the config's are meant if this is its network.
    same = official["encoder.conv_in.weight"].shape[:1] == (stated.ch,)
    groups = stated.norm_groups if same else TokenizerConfig.norm_groups
    stated = _settle(path, "tokenizer", weights.tokenizer_config(official, groups), stated)
    about = {"kind": "tokenizer", "config": plain(stated)}

    def convert():
        _, params = weights.tokenizer_from_official(official, norm_groups=groups)
        return about | {"fingerprint": checkpoint.fingerprint(about, params)}, params

    _import(config, path, workdir, about, convert)


def import_decoder(config: ConfigDict, path: pathlib.Path, workdir: storage.Path) -> None:
    """Official decoder -> `workdir/decoder/model`; the tokenizer must be in `workdir`."""
    official = _read(path, "decoder")
    tokenizer = checkpoint.read_model_json(workdir / "tokenizer/model", "tokenizer")
    same = official["token_emb.weight"].shape[1:] == (config.decoder.width,)
    heads = config.convert.heads or (config.decoder.heads if same else None)
    found = weights.decoder_config(official, heads)
    if found.vocab_size != tokenizer["config"]["codebook_size"]:
        raise InputError(
            f"{path} knows {found.vocab_size} codes and the tokenizer in {workdir} "
            f"{tokenizer['config']['codebook_size']}; convert the tokenizer that it belongs to."
        )
    stated = DecoderConfig(
        grid=build.grid(config, TokenizerConfig(**tokenizer["config"]).stride),
        vocab_size=found.vocab_size,
        num_classes=found.num_classes,
        **config.decoder,
    )
    stated = _settle(path, "decoder", found, stated)
    about = {
        "kind": "decoder",
        "config": plain(stated),
        "class_names": [str(label) for label in range(found.num_classes)],
        "label_drop": config.train.label_drop,
        "tokenizer": tokenizer["fingerprint"],
    }

    def convert():
        if stated.grid != found.grid:
            _LOG.warning(
                "convert: position embedding resized from %s to %s, as data.size=%d asks",
                *("x".join(map(str, grid)) for grid in (found.grid, stated.grid)),
                config.data.size,
            )
        _, params = weights.decoder_from_official(official, heads=stated.heads, grid=stated.grid)
        more = {"fingerprint": checkpoint.fingerprint(about, params)}
        return about | more | {"sampling": plain(build.sampling_defaults(config))}, params

    _import(config, path, workdir, about, convert)


@contextlib.contextmanager
def _official(where: str) -> Iterator[pathlib.Path]:
    """The weight file, or while the block runs a copy of one in a bucket."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(storage.local(where))
        except FileNotFoundError as error:
            raise InputError(f"there is no weight file {where}; check the path.") from error
        yield file


def _read(path: pathlib.Path, kind: str) -> Mapping[str, np.ndarray]:
    _LOG.info("convert: reading %s", path)
    official = weights.read(path)
    if (found := weights.kind(official)) != kind:
        raise InputError(f"{path} holds a {found}; name it with --config.convert.{found}.")
    return official


def _settle(path: pathlib.Path, section: str, found: Any, stated: Any) -> Any:
    """The config to convert to: the stated one if its sizes are those found, else what was found.

    What no file says (dtype, dropout, ...) is the stated config's in either case.
    """
    sizes = _DECODER_SIZES if section == "decoder" else _TOKENIZER_SIZES
    other = [name for name in sizes if getattr(found, name) != getattr(stated, name)]
    if not other:
        return stated
    _LOG.warning(
        "convert: %s is no %s of the config's %s; taken as %s, as its shapes say",
        path,
        section,
        *(
            ", ".join(f"{name}={getattr(config, name)}" for name in other)
            for config in (stated, found)
        ),
    )
    shapes = ("grid", "vocab_size", "num_classes", *sizes)
    return dataclasses.replace(
        stated, **{name: getattr(found, name) for name in shapes if hasattr(found, name)}
    )


def _import(
    config: ConfigDict,
    path: pathlib.Path,
    workdir: storage.Path,
    about: dict[str, Any],
    convert: Callable[[], tuple[dict[str, Any], Any]],
) -> None:
    """Writes the model directory of what `convert` returns, unless it is there already."""
    directory = workdir / about["kind"]
    sha256 = storage.sha256(path)
    settings = {"converted": {"sha256": sha256}, **about}
    kind = DecoderConfig if about["kind"] == "decoder" else TokenizerConfig
    defaults = {"config": plain(kind())}  # of fields that came after a conversion
    if done(directory / SETTINGS):
        claim(directory, settings, defaults=defaults)
    if done(directory / "model/model.json"):
        _LOG.info("convert: already in %s", directory)
        return
    with timed(workdir, "convert"):
        about, params = convert()
        about["converted"] = {"file": path.name, "sha256": sha256}
        leaves, tree = jax.tree.flatten(params)
        del params
        for i, leaf in enumerate(leaves):
            # One by one, each in place of the last: Orbax would copy NumPy arrays, all at once.
            leaves[i] = jax.device_put(leaf).block_until_ready()
        # Claimed only now: a file that cannot be converted leaves nothing behind.
        claim(directory, settings, config, defaults=defaults)
        # The least that works: the writer holds one whole array beyond the weights, not all.
        limit = 1 + max(leaf.nbytes for leaf in leaves)
        with writing(directory):
            checkpoint.save_model(directory / "model", about, tree.unflatten(leaves), limit)
    _LOG.info("convert: %s is now %s", path, directory / "model")


def _export(
    path: str,
    official: dict[str, np.ndarray],
    about: Mapping[str, Any],
    source: storage.Path,
    licence: str,
) -> None:
    """Writes the weights and, beside them, a card with what the workdir knows of the model."""
    weights.write(path, official)
    directory, file = source / about["kind"], storage.path(path)
    training, figures = (
        read_json(directory / name, "") if (directory / name).is_file() else None
        for name in (SETTINGS, "figures.json")
    )
    card = weights.model_card(file.name, about, training, figures, licence)
    storage.write_text(file.with_suffix(".md"), card)
    size = sum(array.size for array in official.values())
    _LOG.info("convert: %d arrays, %.1fM numbers in %s", len(official), size / 1e6, path)
