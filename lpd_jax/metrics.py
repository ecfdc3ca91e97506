"""Numbers of a run: rows in a JSON-lines file, curves for TensorBoard. Process 0 writes."""

import json
import logging
from collections.abc import Mapping

import jax
import numpy as np
from tensorboardX import SummaryWriter

from lpd_jax import storage

Row = Mapping[str, float]
_LOG = logging.getLogger(__name__)


class Writer:
    """Appends rows to `path/metrics.jsonl` and to TensorBoard event files in `path/tensorboard`.

    In a bucket both are uploaded now and then, and at the end (see `storage.Growing`).

    Args:
        path: directory, made when missing.
        start: first step of this run; rows from there on, which a run that died had written, are
            dropped.
    """

    def __init__(self, path: storage.Where, start: int = 0):
        self._file = self._board = None
        if jax.process_index() == 0:
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

    def write(self, step: int, scalars: Row) -> None:
        """One row."""
        if self._file:
            self._file.write(json.dumps({"step": step, **scalars}) + "\n")
            self._file.flush()
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)
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
