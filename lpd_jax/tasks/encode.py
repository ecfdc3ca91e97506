"""Task: turns images into codes, once, so that the decoder trains without the tokenizer."""

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

import grain
import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from lpd_jax import checkpoint, distributed, parallel, storage
from lpd_jax.data import codes as code_dataset
from lpd_jax.data import pipeline
from lpd_jax.errors import InputError
from lpd_jax.models.tokenizer import Tokenizer, TokenizerConfig
from lpd_jax.tasks import build
from lpd_jax.tasks.workdir import claim, done, timed, writing
from lpd_jax.trained import load_tokenizer

_LOG = logging.getLogger(__name__)


def run(config: ConfigDict, workdir: storage.Where) -> storage.Path:
    """Writes (or completes) the code dataset in `workdir/codes`; returns its path.

    The tokenizer is that of `config.checkpoint`, when that is given, and is copied into the
    workdir, so that what is trained there has it at hand.

    Raises:
        InputError: there is no tokenizer, the codes there are others, or they cannot be written.
    """
    workdir = storage.path(workdir)
    codes, place = workdir / "codes", storage.path(config.checkpoint or workdir) / "tokenizer"
    about = distributed.decided(lambda: checkpoint.read_model_json(place / "model", "tokenizer"))
    sources = {split: build.images(config.data, split) for split in ("train", "heldout")}
    settled = TokenizerConfig(**about["config"])
    spec = code_dataset.CodesSpec(
        tokenizer={"fingerprint": about["fingerprint"], "config": about["config"]},
        grid=build.grid(config, settled.stride),
        codebook_size=settled.codebook_size,
        views=2 if config.data.flip else 1,
        class_names=sources["train"].class_names,
        split_sizes={split: len(source) for split, source in sources.items()},
        shard_size=distributed.decided(lambda: _shard_size(codes, config.encode.shard_size)),
    )
    if config.checkpoint:
        _adopt(config, place, workdir / "tokenizer", about)
    settings = {"data": config.data, "tokenizer": about["fingerprint"]}
    claim(codes, settings)
    missing, finished = distributed.decided(lambda: _state(codes, spec))
    if finished:
        return codes
    claim(codes, settings, config)
    with timed(workdir, "encode"), writing(codes):
        # The shards are dealt to the processes by number, whatever is missing.
        mine = spec.shards()[jax.process_index() :: jax.process_count()]
        _write(config, place, codes, spec, sources, [s for s in mine if s.filename in missing])
        distributed.barrier("shards")
        if jax.process_index() == 0:
            code_dataset.finalize(codes, spec)
    _LOG.info("encode: %d images in %s", sum(spec.split_sizes.values()), codes)
    return codes


def _shard_size(codes: storage.Path, asked: int) -> int:
    """That of the dataset which is there already: it decides no code."""
    file = codes / code_dataset.SPEC_FILE
    return json.loads(file.read_text())["shard_size"] if file.is_file() else asked


def _state(codes: storage.Path, spec: code_dataset.CodesSpec) -> tuple[list[str], bool]:
    """Names of the shards that are still to be written, and whether nothing at all is left to do.

    A run can have ended between the last shard and the metadata.
    """
    missing = [shard.filename for shard in code_dataset.missing_shards(codes, spec)]
    return missing, not missing and code_dataset.is_finished(codes, spec)


def _adopt(
    config: ConfigDict, place: storage.Path, own: storage.Path, about: dict[str, Any]
) -> None:
    """Copies the tokenizer at `place` into the workdir, unless it is there.

    Raises:
        InputError: another one is there.
    """
    if done(own / "model/model.json"):
        found = checkpoint.read_model_json(own / "model", "tokenizer")["fingerprint"]
        if found != about["fingerprint"]:
            raise InputError(
                f"{own} holds another tokenizer than {place}; give another --workdir, or leave out "
                "--checkpoint."
            )
        return
    _, params, _ = load_tokenizer(place / "model", build.mesh(config))
    with writing(own):
        checkpoint.save_model(own / "model", about, params)
        if jax.process_index() == 0 and (place / "figures.json").is_file():
            storage.write_text(own / "figures.json", (place / "figures.json").read_text())
    _LOG.info("encode: the tokenizer of %s is now in %s too", place, own)


def _write(
    config: ConfigDict,
    tokenizer: storage.Path,
    path: storage.Path,
    spec: code_dataset.CodesSpec,
    sources: Mapping[str, Any],
    shards: list[code_dataset.Shard],
) -> None:
    """Writes these shards."""
    network, params, _ = load_tokenizer(tokenizer / "model", build.mesh(config))
    encode, ways = _encoder(network, params, spec.views)
    size = ways * math.ceil(config.encode.batch_size / ways)
    total = sum(shard.stop - shard.start for shard in shards)
    hidden = jax.process_index() != 0
    with tqdm(total=total, desc="encode", unit="image", dynamic_ncols=True, disable=hidden) as bar:
        for shard in shards:
            records = grain.MapDataset.source(sources[shard.split])[shard.start : shard.stop]
            read = grain.ReadOptions(num_threads=16, prefetch_buffer_size=2 * size)
            codes, labels = [], []
            for batch in records.to_iter_dataset(read).batch(size, drop_remainder=False):
                count = len(batch["label"])
                # The last batch is filled up, so that one shape is compiled.
                filled = np.resize(batch["image"], (size, *batch["image"].shape[1:]))
                codes.append(encode(filled)[:count])
                labels.append(batch["label"])
                bar.update(count)
            code_dataset.write_shard(
                path, spec, shard, np.concatenate(codes), np.concatenate(labels)
            )


def _encoder(network: Tokenizer, params, views: int):
    """uint8 [B, S, S, 3] -> int32 [B, V, N], and the number of devices that share B.

    On the devices of this process alone: the processes work at different shards.
    """
    mesh = parallel.make_mesh(parallel.MeshConfig(slices=1), jax.local_devices())
    local = jax.device_put(jax.tree.map(np.asarray, params), parallel.replicated(mesh))

    @jax.jit
    def encode(params, images):
        images = pipeline.to_unit(images)
        flipped = [images, images[:, :, ::-1]][:views]
        codes = [network.apply({"params": params}, view, method="encode") for view in flipped]
        return jax.numpy.stack(codes, axis=1)

    place = parallel.batch_sharding(mesh)
    return lambda images: np.asarray(encode(local, jax.device_put(images, place))), mesh.size
