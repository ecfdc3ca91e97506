"""From records to the batches of this process, with Grain.

The stream of records is shuffled globally and anew in each epoch, transformed, and only then dealt
out to the processes. So global batch `b` holds records `[b * B, (b + 1) * B)` of one stream, in
this order, however many processes there are, each epoch holds every record once, and the position
of an iterator is a single number, the same in every process.

B global batch size, S side in pixels, V views of an image, N tokens.
"""

from collections.abc import Callable, Sequence
from typing import Any

import grain
import jax
import numpy as np
from PIL import Image

from lpd_jax.data import crop, reading
from lpd_jax.errors import InputError
from lpd_jax.pixels import to_unit as to_unit

Record = dict[str, Any]
RandomTransform = Callable[[Record, np.random.Generator], Record]


def batches(
    source: grain.sources.RandomAccessDataSource,
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    num_epochs: int | None = None,
    transform: RandomTransform | None = None,
    rows: Sequence[int] | np.ndarray | None = None,
    num_threads: int = 4,
    num_processes: int = 0,
) -> "Batches":
    """The rows of the global batches that this process needs.

    Args:
        source: records, as in `lpd_jax.data.sources`.
        batch_size: B, over all processes.
        seed: of the order and of `transform`.
        shuffle: False keeps the source's order.
        num_epochs: None repeats for ever. The last, incomplete batch is dropped.
        transform: `(record, numpy generator) -> record`; its draws depend on the seed and the
            position in the stream alone.
        rows: places in [0, B) of a global batch, those of `parallel.process_rows`; all by default,
            for one process.
        num_threads: readers; each prepares a batch ahead of its use. 0 reads when asked.
        num_processes: readers instead of threads, if there are any. How many there are of either
            decides nothing, and may change where an iterator goes on.

    Returns:
        Batches, every array of a record stacked on a new first axis, one for each of `rows`.
        `iter()` of it has `get_state` (JSON data) and `set_state`.

    Raises:
        InputError: the batch exceeds the dataset.
    """
    if not 1 <= batch_size <= len(source):
        raise InputError(
            f"A batch of {batch_size} cannot be taken from a dataset of {len(source)} records; "
            "change batch_size or add data."
        )
    rows = range(batch_size) if rows is None else rows
    stream = grain.MapDataset.source(source).seed(seed)
    if shuffle:
        stream = stream.shuffle()
    stream = stream.repeat(num_epochs)
    if transform is not None:
        stream = stream.random_map(transform)

    def read(batch: int) -> Record:
        records = [stream[batch * batch_size + int(row)] for row in rows]
        return jax.tree.map(lambda *values: np.stack(values), *records)

    # Reading by batches makes a reader's unit of work a batch: less overhead per record.
    total = len(stream) // batch_size
    workers = reading.Workers(num_processes, num_threads)
    return Batches(
        lambda first: reading.ahead(grain.MapDataset.range(first, total).map(read), workers, 2)
    )


class Batches:
    """What `batches` returns. Args: `begin`, position -> the batches from there on."""

    def __init__(self, begin: Callable[[int], grain.IterDataset]):
        self._begin = begin

    def __iter__(self) -> reading.Positioned:
        return reading.Positioned(self._begin)


def choose_view(record: Record, rng: np.random.Generator) -> Record:
    """Random transform: keeps one of the V code views. `codes` integers [V, N] -> int32 [N]."""
    codes = record["codes"]
    return record | {"codes": codes[rng.integers(len(codes))].astype(np.int32)}


def random_crop(size: int, least: float) -> RandomTransform:
    """Cuts a square out of the image, as `crop.random_crop`: [H, W, 3] -> [size, size, 3] uint8."""

    def cut(record: Record, rng: np.random.Generator) -> Record:
        square = crop.random_crop(Image.fromarray(record["image"]), size, least, rng)
        return record | {"image": np.asarray(square)}

    return cut


def in_turn(*transforms: RandomTransform) -> RandomTransform:
    """One after the other, with draws of the same generator."""

    def all_of_them(record: Record, rng: np.random.Generator) -> Record:
        for transform in transforms:
            record = transform(record, rng)
        return record

    return all_of_them


def flip_or_not(record: Record, rng: np.random.Generator) -> Record:
    """Random transform: mirrors the image with probability one half. `image` [S, S, 3]."""
    return record | {"image": record["image"][:, ::-1]} if rng.random() < 0.5 else record
