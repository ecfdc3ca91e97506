"""Task: turns images into codes, once, so that the decoder trains without the tokenizer.

Or brings codes that others have cached into the same form (`data.source=codes`).
"""

import contextlib
import functools
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from lpd_jax import checkpoint, distributed, parallel, storage
from lpd_jax.data import codes as code_dataset
from lpd_jax.data import manifest, pipeline, reading
from lpd_jax.data.folder import ClassFolder
from lpd_jax.data.image_files import BadImage
from lpd_jax.data.skipping import check_share
from lpd_jax.data.units import Units
from lpd_jax.errors import InputError
from lpd_jax.models.tokenizer import Tokenizer, TokenizerConfig
from lpd_jax.tasks import build
from lpd_jax.tasks.workdir import claim, done, timed, writing
from lpd_jax.trained import load_tokenizer

_LOG = logging.getLogger(__name__)
_SPLITS = ("train", "heldout")
# How much larger than its crops an image is, which are its corners and its middle (LlamaGen's
# `extract_codes_c2i.py`).
_TEN_CROP = 1.1


def run(config: ConfigDict, workdir: storage.Where) -> storage.Path:
    """Writes (or completes) the code dataset in `workdir/codes`; returns its path.

    The tokenizer is that of `config.checkpoint`, when that is given, and is copied into the
    workdir, so that what is trained there has it at hand. Images that cannot be read are left out
    and listed in `codes/skipped.jsonl`.

    Raises:
        InputError: there is no tokenizer, the codes there are others, the images are not those
            that were begun with, too many cannot be read, or the codes cannot be written.
    """
    workdir = storage.path(workdir)
    codes, place = workdir / "codes", storage.path(config.checkpoint or workdir) / "tokenizer"
    about = distributed.decided(lambda: checkpoint.read_model_json(place / "model", "tokenizer"))
    settled = TokenizerConfig(**about["config"])
    grid, views = build.grid(config, settled.stride), _views(config)
    if config.checkpoint:
        _adopt(config, place, workdir / "tokenizer", about)
    settings = {"data": config.data, "tokenizer": about["fingerprint"]}
    settings["encode"] = {"ten_crop": config.encode.ten_crop}
    listed = _Listed(config, grid, settled.codebook_size)
    claim(codes, settings)
    found = listed.settle(codes)
    spec = code_dataset.CodesSpec(
        tokenizer={"fingerprint": about["fingerprint"], "config": about["config"]},
        grid=grid,
        codebook_size=settled.codebook_size,
        views=views,
        class_names=found.class_names,
        split_sizes=found.images,
        shard_size=distributed.decided(lambda: _shard_size(codes, config.encode.shard_size)),
        crop="ten" if config.encode.ten_crop else "center",
        source={split: files.sha256 for split, files in found.listings.items()},
    )
    missing, finished = distributed.decided(lambda: _state(codes, spec))
    if finished:
        return codes
    claim(codes, settings, config)
    with timed(workdir, "encode"), writing(codes):
        if missing:
            _write(config, place, codes, spec, listed.sources(found))
        distributed.barrier("shards")
        if jax.process_index() == 0:
            # Another job may be at the end of the same work.
            with storage.locked(codes / "codes-info", wait=True):
                if not code_dataset.is_finished(codes, spec):
                    code_dataset.finalize(codes, spec)
    lacking = sum(map(len, code_dataset.skipped(codes, spec.shards()).values()))
    _LOG.info(
        "encode: %d images in %s%s",
        sum(spec.split_sizes.values()) - lacking,
        codes,
        f"; {lacking} that cannot be read are listed in {code_dataset.SKIPPED}" * bool(lacking),
    )
    return codes


def _views(config: ConfigDict) -> int:
    if config.encode.ten_crop and not config.data.flip:
        raise InputError(
            "encode.ten_crop takes five crops and their mirror images, and data.flip=False asks "
            "for none; set one of them otherwise."
        )
    return 10 if config.encode.ten_crop else 2 if config.data.flip else 1


class _Listed:
    """The images of the config, and what of them is noted beside the codes."""

    def __init__(self, config: ConfigDict, grid: tuple[int, int], codebook_size: int):
        self._data, codes = config.data.copy_and_resolve_references(), {}
        if config.data.source == "codes":
            if config.encode.ten_crop:
                raise InputError("encode.ten_crop crops images, and data.source=codes has none.")
            codes = {"num_tokens": math.prod(grid), "codebook_size": codebook_size}
        elif config.encode.ten_crop:
            self._data.size = round(_TEN_CROP * config.data.size)
        # Listing a source takes long, and it is needed to note it and to read it.
        self._source = functools.cache(lambda split: build.source(self._data, split, **codes))

    def settle(self, codes: storage.Path) -> manifest.Manifest:
        """What the codes are of: as was noted when they were begun, or is now, by process 0.

        Raises:
            InputError: the images are not those any more; those that cannot be read may have gone.
        """

        def note(then: manifest.Manifest | None) -> dict[str, Any] | None:
            now = manifest.of({split: self._source(split) for split in _SPLITS})
            if then is None:
                if not (codes / code_dataset.SPEC_FILE).exists():
                    with writing(codes):
                        manifest.write(codes, now)
                    return None
                # Begun before there were manifests.
                return {"class_names": now.class_names, "images": now.images}
            if changed := manifest.changes(then, now, _bad_names(codes)):
                raise InputError(
                    f"the images in {self._data.path} are not those that {codes} was begun with: "
                    f"{changed}; put them back, or encode into a new --workdir."
                )
            return None

        def alone() -> dict[str, Any] | None:
            if (then := manifest.read(codes)) is not None:
                return note(then)  # and nothing is written
            with storage.locked(codes / "codes-begin", wait=True):  # of jobs that begin together
                return note(manifest.read(codes))

        old = distributed.decided(alone)
        if old is not None:
            return manifest.Manifest(tuple(old["class_names"]), old["images"], {})
        return manifest.read(codes)

    def sources(self, noted: manifest.Manifest) -> list[Any]:
        """One for each split, of the files that are noted."""
        found = []
        for split in _SPLITS:
            source = self._source(split)
            if isinstance(source, ClassFolder) and split in noted.listings:
                names = noted.listings[split].names
                source = type(source).listed(source, names, noted.class_names)
            found.append(source)
        return found


def _bad_names(codes: storage.Path) -> set[str]:
    """Files that were found to be bad, by their names in the manifest."""
    lists = codes / code_dataset.SKIPPED
    rows = lists.read_text().splitlines() if lists.is_file() else []
    spec = codes / code_dataset.SPEC_FILE
    if spec.is_file():
        shards = code_dataset.CodesSpec(**json.loads(spec.read_text())).shards()
        found = code_dataset.skipped(codes, shards).values()
        return {row["name"] for rows in found for row in rows} | {
            json.loads(row)["name"] for row in rows
        }
    return set()


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
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:  # of jobs that begin together, one copies it
            stack.enter_context(storage.locked(own, wait=True))
        if done(own / "model/model.json"):
            found = checkpoint.read_model_json(own / "model", "tokenizer")["fingerprint"]
            if found != about["fingerprint"]:
                raise InputError(
                    f"{own} holds another tokenizer than {place}; give another --workdir, or leave "
                    "out --checkpoint."
                )
            return
        _, params, _ = load_tokenizer(place / "model", build.mesh(config))
        with writing(own):
            checkpoint.save_model(own / "model", about, params)
            if jax.process_index() == 0 and (place / "figures.json").is_file():
                storage.write_text(own / "figures.json", (place / "figures.json").read_text())
        _LOG.info("encode: the tokenizer of %s is now in %s too", place, own)


class _Progress:
    """Images a second, how long it will take, and what the time goes into."""

    def __init__(self, total: int):
        hidden = jax.process_index() != 0
        self._bar = tqdm(
            total=total, desc="encode", unit="image", dynamic_ncols=True, disable=hidden
        )
        self._begin, self.spent = time.perf_counter(), {"decode": 0.0, "device": 0.0}
        self.enlarged = 0

    def timed(self, what: str, call: Callable[[], Any]) -> Any:
        """What the call returns; its time counts as `what`."""
        start = time.perf_counter()
        try:
            return call()
        finally:
            self.spent[what] += time.perf_counter() - start

    def update(self, count: int) -> None:
        self._bar.set_postfix_str(self.shares(), refresh=False)
        self._bar.update(count)

    def shares(self) -> str:
        """Of the time: waiting for images, and the device at work."""
        whole = time.perf_counter() - self._begin
        return ", ".join(f"{name} {100 * t / whole:.0f} %" for name, t in self.spent.items())

    def close(self) -> None:
        self._bar.close()


def _write(
    config: ConfigDict,
    tokenizer: storage.Path,
    path: storage.Path,
    spec: code_dataset.CodesSpec,
    sources: Sequence[Any],
) -> None:
    """Writes the files that are missing, together with the other processes."""
    encode, ways = _stored, 1
    if config.data.source != "codes":
        network, params, _ = load_tokenizer(tokenizer / "model", build.mesh(config))
        encode, ways = _encoder(network, params, spec.views, config.data.size)
    size = ways * math.ceil(config.encode.batch_size / ways)
    missing = code_dataset.missing_shards(path, spec)
    total = sum(unit.stop - unit.start for unit in missing) // jax.process_count()
    units = Units(path, spec, jax.process_index(), jax.process_count())
    with contextlib.closing(_Progress(total)) as progress:
        for taken in units:
            wanted = [(_SPLITS.index(u.split), i) for u in taken for i in range(u.start, u.stop)]
            groups = reading.in_order(sources, np.array(wanted), build.workers(config))
            with contextlib.closing(_rows(groups, encode, size, progress)) as rows:
                for unit in taken:
                    found = list(itertools.islice(rows, unit.stop - unit.start))
                    _write_unit(config, path, spec, unit, found)
                    units.written(unit)
    _LOG.info("encode: of the time %s", progress.shares())
    if progress.enlarged:
        _LOG.warning(
            "encode: %d images of this process are smaller than %d pixels and were enlarged",
            progress.enlarged,
            config.data.size,
        )


def _rows(groups, encode, size: int, progress: _Progress):
    """Of each record in turn: its codes [V, N] and label, or why it has none."""
    waiting, pending = [], 0

    def flush():
        """What is encoded of the groups that wait, in their order."""
        good = [group.records for group in waiting if group.records]
        codes = labels = ()
        if good:
            records = {name: np.concatenate([r[name] for r in good]) for name in good[0]}
            labels = records["label"]
            starts = range(0, len(labels), size)  # several only if a group is more than a batch
            parts = [{name: x[i : i + size] for name, x in records.items()} for i in starts]
            codes = progress.timed(
                "device", lambda: np.concatenate([encode(part, size) for part in parts])
            )
            progress.enlarged += int(records.get("enlarged", np.zeros(1)).sum())
        progress.update(pending)
        results = iter(zip(codes, labels, strict=True))
        for group in waiting:
            bad = {place: (name, reason) for place, name, reason in group.bad}
            for place in sorted([*group.places.tolist(), *bad]):
                yield BadImage(*bad[place]) if place in bad else next(results)

    with contextlib.closing(groups):
        while group := progress.timed("decode", lambda: next(groups, None)):
            if pending + len(group.places) > size:
                yield from flush()
                waiting, pending = [], 0
            waiting.append(group)
            pending += len(group.places)
        yield from flush()


def _write_unit(config, path: storage.Path, spec, unit: code_dataset.Shard, found: list) -> None:
    """Writes a file of codes, unless too many images are bad by now."""
    good = [i for i, row in enumerate(found) if not isinstance(row, BadImage)]
    listing = manifest.read(path) if len(good) < len(found) else None
    skipped = []
    for i, row in enumerate(found):
        if isinstance(row, BadImage):
            name = _file_of(listing, unit.split, unit.start + i)
            about = {"split": unit.split, "index": unit.start + i, "name": name}
            skipped.append(about | {"path": row.name, "reason": row.reason})
            _LOG.warning("encode: skipped %s (%s)", row.name, row.reason)
    if skipped:
        # In place of what a process left of this file that died over it, or that was deleted since.
        lacking = code_dataset.skipped(path, spec.shards()) | {unit.filename: skipped}
        rows = code_dataset.list_skipped(path, spec, lacking)
        last = BadImage(skipped[-1]["path"], skipped[-1]["reason"])
        total = sum(spec.split_sizes.values())
        share, where = config.reading.bad_share, path / code_dataset.SKIPPED
        check_share(len(rows), total, share, last, where)
    index = unit.start + np.array(good, int)
    codes = np.array([found[i][0] for i in good]).reshape(len(good), *spec.shape)
    labels = [found[i][1] for i in good]
    code_dataset.write_shard(path, spec, unit, codes, labels, index, skipped)


def _file_of(noted: manifest.Manifest | None, split: str, index: int) -> str:
    """The file of a record, where each has one of its own."""
    names = noted.listings[split].names if noted else ()
    return names[index] if noted and len(names) == noted.images[split] else ""


def _stored(records: Mapping[str, np.ndarray], size: int) -> np.ndarray:
    """Codes that are there already."""
    return records["codes"]


def _encoder(network: Tokenizer, params, views: int, side: int):
    """Records with `image` uint8 [b <= B, S, S, 3], B -> int32 [b, V, N]; devices that share B.

    On the devices of this process alone: the processes work at different files. With ten views S is
    more than `side`, and they are the middle, the four corners, and their mirror images.
    """
    mesh = parallel.make_mesh(parallel.MeshConfig(slices=1), jax.local_devices())
    local = jax.device_put(jax.tree.map(np.asarray, params), parallel.replicated(mesh))

    @jax.jit
    def encode(params, images):
        crops, far = [pipeline.to_unit(images)], images.shape[1] - side
        if views == 10:
            places = ((far // 2, far // 2), (0, 0), (0, far), (far, 0), (far, far))
            crops = [crops[0][:, y : y + side, x : x + side] for y, x in places]
        both = [*crops, *(crop[:, :, ::-1] for crop in crops)][:views]
        codes = [network.apply({"params": params}, view, method="encode") for view in both]
        return jax.numpy.stack(codes, axis=1)

    place = parallel.batch_sharding(mesh)

    def run(records: Mapping[str, np.ndarray], size: int) -> np.ndarray:
        images = records["image"]
        # A batch is filled up, so that one shape is compiled.
        filled = np.resize(images, (size, *images.shape[1:]))
        return np.asarray(encode(local, jax.device_put(filled, place)))[: len(images)]

    return run, mesh.size
