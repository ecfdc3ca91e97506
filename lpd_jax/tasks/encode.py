"""Task: turns images into codes, once, so that the decoder trains without the tokenizer."""

import logging
import math

import grain
import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from lpd_jax import distributed, parallel, storage
from lpd_jax.data import codes as code_dataset
from lpd_jax.data import pipeline
from lpd_jax.models.tokenizer import Tokenizer
from lpd_jax.tasks import build
from lpd_jax.tasks.workdir import claim, timed
from lpd_jax.trained import load_tokenizer

_LOG = logging.getLogger(__name__)


def run(config: ConfigDict, workdir: storage.Where) -> storage.Path:
    """Writes (or completes) the code dataset in `workdir/codes`; returns its path."""
    workdir = storage.path(workdir)
    network, params, about = load_tokenizer(workdir / "tokenizer/model", build.mesh(config))
    sources = {split: build.images(config.data, split) for split in ("train", "heldout")}
    identity = {"fingerprint": about["fingerprint"], "config": about["config"]}
    spec = code_dataset.CodesSpec(
        tokenizer=identity,
        grid=build.grid(config, network.config.stride),
        codebook_size=network.config.codebook_size,
        views=2 if config.data.flip else 1,
        class_names=sources["train"].class_names,
        split_sizes={split: len(source) for split, source in sources.items()},
        shard_size=config.encode.shard_size,
    )
    claim(workdir / "codes", {"data": config.data, "tokenizer": about["fingerprint"]})
    with distributed.first_process_first("missing_shards"):
        missing = code_dataset.missing_shards(workdir / "codes", spec)
    if missing:
        with timed(workdir, "encode"):
            # The shards are dealt to the processes by number, whatever is missing.
            mine = spec.shards()[jax.process_index() :: jax.process_count()]
            mine = [shard for shard in missing if shard in mine]
            _write(config, workdir / "codes", network, params, spec, sources, mine)
            distributed.barrier("shards")
            if jax.process_index() == 0:
                code_dataset.finalize(workdir / "codes", spec)
        _LOG.info("encode: %d images in %s", sum(spec.split_sizes.values()), workdir / "codes")
    return workdir / "codes"


def _write(config, path: storage.Path, network: Tokenizer, params, spec, sources, shards) -> None:
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
