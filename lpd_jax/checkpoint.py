"""Checkpoints of a training run, and finished models, with Orbax.

A *model directory* is what sampling needs and nothing else: `model.json` (kind and shape of the
network, and what it was trained on) beside `params/` and, when training kept an average of them,
`ema/`. Training writes one at its end, conversion of PyTorch weights writes the same. Directories
may be in a bucket, see `lpd_jax.storage`.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from lpd_jax import distributed, storage
from lpd_jax.errors import InputError

_LOG = logging.getLogger(__name__)
_KEEP = ocp.training.preservation_policies


class Checkpoints:
    """Checkpoints of one run, written asynchronously and atomically, by all processes together.

    A step directory holds the state, the position in the data, and the settings of the run as its
    metadata. Any number of processes can restore it, onto any mesh.

    Args:
        path: directory that all processes see, made when missing.
        keep: how many of the newest stay.
        keep_every: steps that stay for good, or None.
        about: settings of the run, for people; dataclasses become JSON objects.
        read_only: leaves alone what a run that may be going on is writing there.
    """

    def __init__(
        self,
        path: storage.Where,
        keep: int = 2,
        keep_every: int | None = None,
        about: dict[str, Any] | None = None,
        read_only: bool = False,
    ):
        self.path = storage.absolute(path)
        policies = [_KEEP.LatestN(keep)]
        if keep_every:
            policies.append(_KEEP.EveryNSteps(keep_every))
        self._about = json.loads(json.dumps(about, default=dataclasses.asdict))
        self._checkpointer = ocp.training.Checkpointer(
            self.path,
            context=_context(),
            preservation_policy=_KEEP.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=not read_only,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._checkpointer.close()

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint, None if there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: Any, position: dict[str, int]) -> None:
        """Starts writing; returns when `state` may be donated.

        Args:
            step: number of steps done.
            state: tree of arrays.
            position: of the data iterator, its `get_state()`; the same in all processes.
        """
        self._checkpointer.save_checkpointables_async(
            step, {"state": state, "position": position}, force=True, custom_metadata=self._about
        )

    def wait(self) -> None:
        """Returns when everything started is on disk."""
        self._checkpointer.wait()

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints, ascending."""
        return sorted(found.step for found in self._checkpointer.checkpoints)

    def restore(self, abstract_state: Any, step: int | None = None) -> tuple[Any, dict[str, int]]:
        """State (as `abstract_state`, with its shardings) and position of a step, or the newest.

        Raises:
            InputError: the checkpoint is damaged or of another model.
        """
        step = self.latest if step is None else step
        with _reading(
            f"the checkpoint of step {step} in {self.path} cannot be read: it is truncated or of "
            "another model. Delete that step's directory to go on from the one before, or the "
            "whole directory to start anew."
        ):
            restored = self._checkpointer.load_checkpointables(
                step, {"state": abstract_state, "position": None}
            )
        return restored["state"], restored["position"]


def _context(concurrent_bytes: int | None = None) -> ocp.Context:
    # Contexts do not nest, the inner one counts alone: all that is set is set here.
    context = ocp.Context()
    # Float32 parameters shrink by 8 % only, and take two to three times as long to read and write.
    context.array.saving.use_compression = False
    if concurrent_bytes is not None:
        context.memory.write_concurrent_bytes = concurrent_bytes
    return context


def abstract_of(tree: Any) -> Any:
    """Shapes, dtypes and shardings of a tree of arrays: what a restore asks for."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def save_model(
    path: storage.Where,
    about: dict[str, Any],
    params: Any,
    concurrent_bytes: int | None = None,
    ema: Any = None,
) -> None:
    """Writes a model directory, whole or not at all; an older one is replaced at the end.

    Every process calls it, each with its part of `params` and of their average `ema`, if any. A
    bucket cannot rename directories: there an older model goes first, and `model.json`, written
    last, says that the new one is whole. The writer holds `concurrent_bytes` beyond the parameters
    at most; by default it has no limit.
    """
    path = storage.absolute(path)
    bucket = storage.in_bucket(path)
    partial = path if bucket else path.with_name(path.name + ".partial")
    with distributed.first_process_first("save_model"):
        if jax.process_index() == 0:
            if bucket:
                (path / "model.json").unlink(missing_ok=True)
            else:
                shutil.rmtree(partial, ignore_errors=True)
    with _context(concurrent_bytes):
        ocp.save(partial / "params", params, overwrite=bucket)
        if ema is not None:
            ocp.save(partial / "ema", ema, overwrite=bucket)
            about = about | {"ema": True}
    with distributed.first_process_first("save_model.json"):
        if jax.process_index() == 0:
            storage.write_text(partial / "model.json", json.dumps(about, indent=2) + "\n")
            if not bucket:
                _replace(path, partial)


def _replace(path: pathlib.Path, partial: pathlib.Path) -> None:
    if path.exists():
        old = path.with_name(path.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
        partial.rename(path)
        shutil.rmtree(old)
    else:
        partial.rename(path)


def read_model_json(path: storage.Where, kind: str) -> dict[str, Any]:
    """`model.json` of a model directory that must hold a model of this kind.

    Raises:
        InputError: there is none, or it is of another kind, or it is damaged.
    """
    file = storage.path(path) / "model.json"
    if not file.is_file():
        raise InputError(
            f"there is no {kind} at {path} (no model.json); train or convert one first, or give "
            "the directory of one."
        )
    try:
        about = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file} is damaged ({error}); write the {kind} again.") from error
    if about.get("kind") != kind:
        raise InputError(f"{path} holds a {about.get('kind')}, not a {kind}.")
    return about


def which_params(path: storage.Where, about: dict[str, Any], which: str = "") -> str:
    """ "ema" or "raw": what `which` means for a model directory; "" is the average if there is one.

    Raises:
        InputError: another word, or there is no average.
    """
    kept = bool(about.get("ema"))
    if which not in ("", "ema", "raw"):
        raise InputError(f"sample.params={which!r} must be 'ema', 'raw' or empty.")
    if which == "ema" and not kept:
        raise InputError(
            f"{path} keeps no average of its parameters (train.ema_decay was 0, or it was written "
            "before both were kept); leave sample.params empty."
        )
    return which or ("ema" if kept else "raw")


def load_params(path: storage.Where, abstract: Any, shardings: Any, which: str = "raw") -> Any:
    """Parameters of a model directory.

    Args:
        path: model directory.
        abstract: (boxed) abstract parameters, from `jax.eval_shape`.
        shardings: tree of their shardings.
        which: "raw", or "ema" for their average.

    Raises:
        InputError: the parameters are damaged, incomplete or of another shape.
    """
    path = storage.absolute(path)
    abstract = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        nn.unbox(abstract),
        shardings,
    )
    with _reading(
        f"the parameters in {path} cannot be read: they are truncated or belong to another model. "
        "Write them again."
    ):
        return ocp.load(path / ("ema" if which == "ema" else "params"), abstract)


@contextlib.contextmanager
def _reading(damaged: str) -> Iterator[None]:
    """Turns whatever Orbax and TensorStore say of damage, through many types, into one sentence.

    At the first error Orbax closes its event loop; each read that is still under way then shows a
    stack through `sys.excepthook`, now or later, which therefore stays replaced.
    """
    before = sys.excepthook

    def hook(kind, error, trace):
        if not (kind is RuntimeError and "Event loop is closed" in str(error)):
            before(kind, error, trace)

    sys.excepthook = hook
    try:
        yield
    except Exception as error:
        _LOG.debug("%s", error)
        raise InputError(damaged) from error
    sys.excepthook = before


def fingerprint(about: dict[str, Any], params: Any) -> str:
    """16 hex digits that change with any parameter or setting of a model.

    Every process calls it with its part of the parameters; one array at a time is whole in each.
    """
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(_whole(leaf)).tobytes())
    return digest.hexdigest()[:16]


def _whole(leaf: Any) -> Any:
    spread = isinstance(leaf, jax.Array) and not leaf.is_fully_replicated
    return distributed.to_host(leaf) if spread and not leaf.is_fully_addressable else leaf
