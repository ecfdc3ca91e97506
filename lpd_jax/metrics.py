"""Numbers of a run: rows in a JSON-lines file, curves for TensorBoard. Process 0 writes."""

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from tensorboardX import SummaryWriter

Row = Mapping[str, float]


class Writer:
    """Appends rows to `path/metrics.jsonl` and to TensorBoard event files in `path/tensorboard`.

    Args:
        path: directory, made when missing.
        start: first step of this run; rows from there on, which a run that died had written, are
            dropped.
    """

    def __init__(self, path: Path, start: int = 0):
        self._file = self._board = None
        if jax.process_index() == 0:
            path = Path(path)
            path.mkdir(parents=True, exist_ok=True)
            rows = [row for row in read_rows(path) if row["step"] < start]
            # Replaced whole: a run that dies here keeps its rows.
            partial = path / ".metrics.jsonl"
            partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
            self._file = partial.rename(path / "metrics.jsonl").open("a")
            self._board = SummaryWriter(str(path / "tensorboard"), purge_step=start)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._file:
            self._file.close()
            self._board.close()

    def write(self, step: int, scalars: Row) -> None:
        """One row."""
        if self._file:
            self._file.write(json.dumps({"step": step, **scalars}) + "\n")
            self._file.flush()
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """uint8 [H, W, 3]."""
        if self._board:
            self._board.add_image(name, image, step, dataformats="HWC")


def read_rows(path: Path) -> list[dict[str, float]]:
    """Rows that a `Writer` left in `path`; a last line cut short by a crash is ignored."""
    file = Path(path) / "metrics.jsonl"
    rows = []
    if file.is_file():
        for line in file.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows
