"""What becomes of images that cannot be read: they are skipped, counted, and too many end the run.

In training the next image that can be read takes the place of one that cannot, so that batches stay
whole and the same on any number of processes; `encode` leaves them out (`data.codes`).
"""

import itertools
import json
import logging
import math
from pathlib import Path
from typing import Any

from lpd_jax import storage
from lpd_jax.data.image_files import BadImage
from lpd_jax.errors import InputError

_LOG = logging.getLogger(__name__)
LISTED = "skipped.jsonl"
_SHOWN = 20  # sentences in the log; the file has all


class Skipped:
    """Images that were skipped so far, by all processes that list them in the same file.

    Args:
        total: M, images that there are.
        share: that may be bad, rounded up to a whole image.
        file: a JSON line `{"split", "path", "reason"}` is added to it for each image, whichever
            process comes upon it first. Without one, this process counts its own.
        split: that the images are of; those of others in the file do not count.
    """

    def __init__(self, total: int, share: float, file: Path | None = None, split: str = "train"):
        self._total, self._share, self._split = total, share, split
        self._file, self._names = file, set()

    def note(self, error: BadImage) -> None:
        """Counts an image once.

        Raises:
            InputError: it is one too many.
        """
        if error.name in self._names:
            return
        if self._list(error) and len(self._names) <= _SHOWN:
            _LOG.warning("skipped %s (%s)", error.name, error.reason)
        check_share(len(self._names), self._total, self._share, error, self._file or "the log")

    def _list(self, error: BadImage) -> bool:
        """Adds an image to those that are known, and says whether nobody had it before."""
        if self._file is None:
            self._names.add(error.name)
            return True
        with storage.locked(self._file, wait=True):
            if self._file.exists():
                rows = map(json.loads, self._file.read_text().splitlines())
                self._names |= {row["path"] for row in rows if row["split"] == self._split}
            if error.name in self._names:
                return False
            self._names.add(error.name)
            about = {"split": self._split, "path": error.name, "reason": error.reason}
            with self._file.open("a") as file:
                file.write(json.dumps(about) + "\n")
        return True


def check_share(bad: int, total: int, share: float, last: BadImage, where: Any) -> None:
    """Returns unless more than `share` of `total` images, rounded up, are bad.

    Args:
        bad: how many are.
        total, share: as of `Skipped`.
        last: one of them.
        where: what has the others.
    """
    if bad > math.ceil(share * total):
        raise InputError(
            f"{bad:,} of {total:,} images cannot be read, the last {last.name} ({last.reason}); "
            f"see {where}, mend or remove them, or allow a larger share than "
            f"reading.bad_share={share:g}."
        )


class Readable:
    """A source of images without those that cannot be read: the next one that can is there instead.

    Which one it is depends on the images alone.

    Args:
        source: of images.
        skipped: where the others are counted.
    """

    def __init__(self, source: Any, skipped: Skipped):
        self._source, self._skipped = source, skipped
        self.class_names = source.class_names

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> dict[str, Any]:
        if not 0 <= i < len(self):  # what ends a loop over the images
            raise IndexError(i)
        for place in itertools.chain(range(i, len(self)), range(i)):
            try:
                return self._source[place]
            except BadImage as error:
                self._skipped.note(error)
                last = error
        raise InputError(f"none of the {len(self)} images can be read; {last}")

    def __repr__(self) -> str:
        return repr(self._source)
