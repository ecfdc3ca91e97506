"""Numbers of a run: rows in a JSON-lines file, curves for TensorBoard. Process 0 writes."""

import json
import logging
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from tensorboardX import SummaryWriter

from lpd_jax import storage
from lpd_jax.errors import InputError

Row = Mapping[str, float]
CLOCK = ("images_per_second", "data_wait", "mfu")  # metrics that differ from run to run
_LOG = logging.getLogger(__name__)


class Writer:
    """Appends rows to `path/metrics.jsonl` and to TensorBoard event files in `path/tensorboard`.

    In a bucket both are uploaded now and then, and at the end (see `storage.Growing`).

    Args:
        path: directory, made when missing.
        start: first step of this run; rows from there on, which a run that died had written, are
            dropped.
        wandb: project of Weights & Biases that gets the rows too; none when empty.

    Raises:
        InputError: wandb is not installed.
    """

    def __init__(self, path: storage.Where, start: int = 0, wandb: str = ""):
        self._file = self._board = self._wandb = None
        if jax.process_index() == 0:
            if wandb:
                self._wandb = _wandb_run(wandb, storage.path(path))
            rows = [row for row in read_rows(path) if row["step"] < start]
            self._place = storage.Growing(path)
            file = self._place.local / "metrics.jsonl"
            # Replaced whole: a run that dies here keeps its rows.
            storage.write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
            self._file = file.open("a", encoding="utf-8")
            self._board = SummaryWriter(str(self._place.local / "tensorboard"), purge_step=start)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._file:
            self._file.close()
            self._board.close()
            self._place.close()
        if self._wandb:
            self._wandb.finish()

    def write(self, step: int, scalars: Row) -> None:
        """One row."""
        if self._file:
            self._file.write(json.dumps({"step": step, **scalars}) + "\n")
            self._file.flush()
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)
            if self._wandb:
                self._wandb.log(dict(scalars), step=step)
            if self._place.due():
                self.flush()

    def flush(self) -> None:
        """Uploads the rows to a bucket; if that fails, the next time or the end does it."""
        if self._file:
            self._board.flush()
            try:
                self._place.upload()
            except OSError as error:  # no reason to end a run
                _LOG.warning("metrics: %s; the next upload has these rows too", error)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """uint8 [H, W, 3]."""
        if self._board:
            self._board.add_image(name, image, step, dataformats="HWC")


def _wandb_run(project: str, path: storage.Path):
    """The run of this directory, gone on with if there was one."""
    try:
        import wandb
    except ImportError as error:
        raise InputError(
            f"train.wandb={project} needs wandb: pip install -e '.[wandb]', or leave it empty."
        ) from error
    name = "-".join(path.parts[-2:])
    return wandb.init(project=project, id=name.replace("/", "-"), name=name, resume="allow")


def without_clock(rows: Sequence[Row]) -> list[dict[str, float]]:
    """Rows without what depends on the machine: the same in every run of the same settings."""
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]


def read_rows(path: storage.Where) -> list[dict[str, float]]:
    """Rows that a `Writer` left in `path`; a last line cut short by a crash is ignored."""
    file = storage.path(path) / "metrics.jsonl"
    rows = []
    if file.is_file():
        for line in file.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows
