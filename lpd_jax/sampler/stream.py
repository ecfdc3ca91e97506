"""Any number of images through a program of one batch shape, in a stream of batches.

The stream holds one batch at a time. Whoever reads it gets either all images of a batch in every
process, or in each process those that its own devices hold.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from lpd_jax import distributed, parallel
from lpd_jax.generation.program import tokenizer_parts
from lpd_jax.generation.results import Batch, Samples

Take = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class Batches:
    """How batches lie on the devices.

    Attributes:
        mesh, rules: devices, and how parameters lie on them.
        image_size: (H, W) in pixels.
        batch_size: images per call of the program; None for all at once.
        progress: name of a bar; none when empty.
    """

    mesh: jax.sharding.Mesh
    rules: parallel.Rules
    image_size: tuple[int, int]
    batch_size: int | None = None
    progress: str = ""

    def run(
        self,
        rows: np.ndarray,
        program: Callable[[Take, int], Any],
        collect: Callable[[np.ndarray, Any], Any],
    ) -> Iterator[Any]:
        """Yields `collect(rows, results)` of each batch.

        Args:
            rows: int [R], the rows of the caller's arrays to go through.
            program: `program(take, parts)`, where `take` cuts the rows of a batch out of an array
                and spreads them over the devices (what is no NumPy array it returns as it is) and
                `parts` is of `tokenizer_parts`. Returns a tree of arrays, one row per image.
            collect: gets the rows of a batch and what the program returned for them. The last
                batch is padded: its results have more rows, at the end.
        """
        size = self._size(len(rows))
        starts = range(0, len(rows), size)
        for start in tqdm(starts, self.progress, unit="batch", disable=not self.progress):
            # The last batch wraps around, so that every batch has one shape.
            take = self._taker(rows[np.arange(start, start + size) % len(rows)])
            results = [self.on_devices(program, take, self._parts(size))]
            # Without a name here, which would keep them on the devices beside the next batch's.
            yield collect(rows[start : start + size], results.pop())

    def everywhere(self, rows: np.ndarray, program: Callable[[Take, int], Any]) -> Any:
        """The results for all rows, as NumPy arrays in every process."""

        def collect(rows: np.ndarray, results: Any) -> Any:
            return jax.tree.map(lambda x: x[: len(rows)], distributed.to_host(results))

        batches = list(self.run(rows, program, collect))
        return jax.tree.map(lambda *x: np.concatenate(x), *batches)

    def here(self, rows: np.ndarray, program: Callable[[Take, int], Samples]) -> Iterator[Batch]:
        """Each batch's images on the devices of this process; nothing is sent between processes."""

        def collect(rows: np.ndarray, results: Samples) -> Batch:
            # Laid out as the rows went in; what lies so already is not moved.
            images, codes, orders = results.images, results.codes, results.orders
            codes, orders = jax.device_put((codes, orders), self._place)
            held, codes = _held(codes)
            inside, orders = held < len(rows), _held(orders)[1]
            if images.size:
                images = _held(jax.device_put(images, self._place))[1]
            else:  # of no pixels; jax cuts no array of size 0 in parts
                images = np.empty((len(held), *images.shape[1:]), np.uint8)
            return Batch(rows[held[inside]], *(x[inside] for x in (images, codes, orders)))

        return self.run(rows, program, collect)

    def whole(self, count: int) -> tuple[Take, int]:
        """`take` and `parts`, see `run`, of `count` rows as one batch."""
        size = self._size(count)
        return self._taker(np.arange(size) % count), self._parts(size)

    def on_devices(self, function: Callable[..., Any], *args: Any) -> Any:
        """`function(*args)` with the mesh in force, which elsewhere is the caller's own."""
        with parallel.use(self.mesh, self.rules):
            return function(*args)

    def _size(self, count: int) -> int:
        """Rows of a batch: as many for every device."""
        ways = parallel.batch_ways(self.mesh)
        return ways * math.ceil(min(self.batch_size or count, count) / ways)

    def _parts(self, size: int) -> int:
        return tokenizer_parts(size, parallel.batch_ways(self.mesh), self.image_size)

    def _taker(self, taken: np.ndarray) -> Take:
        place = self._place
        return lambda x: jax.device_put(x[taken], place) if isinstance(x, np.ndarray) else x

    @property
    def _place(self) -> jax.sharding.NamedSharding:
        return parallel.batch_sharding(self.mesh)


def _held(x: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of a batch this process holds, and those rows; every row is held by one process.

    Of copies, which devices along a tensor axis have, the first counts.
    """
    shards = [shard for shard in x.addressable_shards if shard.replica_id == 0]
    shards.sort(key=lambda shard: shard.index[0].start or 0)
    rows = [np.arange(len(x))[shard.index[0]] for shard in shards]
    values = [np.asarray(shard.data) for shard in shards]
    nothing = np.empty((0, *x.shape[1:]), x.dtype)
    return np.concatenate([np.empty(0, int), *rows]), np.concatenate([nothing, *values])
