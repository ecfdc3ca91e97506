"""From records to the batches of this process, with Grain.

The stream of records is shuffled globally and anew in each epoch, transformed, and only then dealt
out to the processes. So global batch `b` holds records `[b * B, (b + 1) * B)` of one stream however
many processes there are, each epoch holds every record once, and the position of an iterator is a
single number, which Orbax saves beside the model.

B global batch size, S side in pixels, V views of an image, N tokens.
"""

from collections.abc import Callable
from typing import Any

import grain
import jax
import numpy as np

from lpd_jax.errors import InputError

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
    process_index: int | None = None,
    process_count: int | None = None,
    num_threads: int = 4,
) -> grain.IterDataset:
    """This process's share of the global batches.

    Args:
        source: records, as in `lpd_jax.data.sources`.
        batch_size: B, over all processes.
        seed: of the order and of `transform`.
        shuffle: False keeps the source's order.
        num_epochs: None repeats for ever. The last, incomplete batch is dropped.
        transform: `(record, numpy generator) -> record`; its draws depend on the seed and the
            position in the stream alone.
        process_index, process_count: jax's by default.
        num_threads: readers; each prepares a batch ahead of its use. 0 reads when asked.

    Returns:
        Dataset of batches, every array of a record stacked on a new first axis of length
        `B / process_count`. `iter()` of it has `get_state` and `set_state` and can be handed to
        Orbax as it is.

    Raises:
        InputError: the batch does not divide among the processes or exceeds the dataset.
    """
    index = jax.process_index() if process_index is None else process_index
    count = jax.process_count() if process_count is None else process_count
    if batch_size < 1 or batch_size % count:
        raise InputError(
            f"A batch of {batch_size} cannot be shared by {count} processes; make it a positive "
            f"multiple of {count}."
        )
    if len(source) < batch_size:
        raise InputError(
            f"A batch of {batch_size} is larger than the dataset ({len(source)} records); make "
            "the batch smaller or add data."
        )
    stream = grain.MapDataset.source(source).seed(seed)
    if shuffle:
        stream = stream.shuffle()
    stream = stream.repeat(num_epochs)
    if transform is not None:
        stream = stream.random_map(transform)
    # Batching first makes a thread's unit of work a batch: five times less overhead per record.
    share = stream[index::count].batch(batch_size // count, drop_remainder=True)
    return share.to_iter_dataset(
        grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    )


def choose_view(record: Record, rng: np.random.Generator) -> Record:
    """Random transform: keeps one of the V code views. `codes` int32 [V, N] -> [N]."""
    codes = record["codes"]
    return record | {"codes": codes[rng.integers(len(codes))]}


def flip_or_not(record: Record, rng: np.random.Generator) -> Record:
    """Random transform: mirrors the image with probability one half. `image` [S, S, 3]."""
    return record | {"image": record["image"][:, ::-1]} if rng.random() < 0.5 else record


def to_unit(image: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
    """uint8 [..., 3] in [0, 255] -> float32 in [-1, 1], what the networks see."""
    return image.astype("float32") / 127.5 - 1
