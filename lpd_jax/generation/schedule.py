"""Schedule: the order in which the cells of each image are generated, cut in groups.

Dims: B images, h×w grid, N = h·w cells, M generated cells (N less the known ones), S steps.
Orders map generation position → raster (row-major) index. Group sizes are static: they are shapes.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lpd_jax import storage
from lpd_jax.errors import InputError
from lpd_jax.generation.groups import check_group_sizes, step_of


@struct.dataclass
class Schedule:
    """Orders of a batch of images and the groups they share.

    Attributes:
      orders: int32[B, M], generation position → raster index in 0..N-1.
      group_sizes: S ints, sum M (static).
      grid: (h, w) (static).
      steps: int32[B, M], of each generation position where images have groups of their own, no
        more of them than `group_sizes`; else None.
    """

    orders: jax.Array
    group_sizes: tuple[int, ...] = struct.field(pytree_node=False)
    grid: tuple[int, int] = struct.field(pytree_node=False)
    steps: jax.Array | None = None

    @property
    def step_of(self) -> np.ndarray:
        """Step number of each generation position: int32[M], non-decreasing."""
        return step_of(self.group_sizes)

    @property
    def step_map(self) -> jax.Array:
        """Step at which each cell is generated: int32[B, h, w]; -1 where it is known."""
        orders = jnp.asarray(self.orders)
        blank = jnp.full((len(orders), self.grid[0] * self.grid[1]), -1, jnp.int32)
        steps = jnp.broadcast_to(self.step_of if self.steps is None else self.steps, orders.shape)
        found = jax.vmap(lambda row, order, own: row.at[order].set(own))(blank, orders, steps)
        return found.reshape(-1, *self.grid)

    def groups(self, image: int = 0) -> list[list[int]]:
        """What each step generates in one image: S lists of raster indices, for people."""
        cuts = np.cumsum(self.group_sizes)[:-1]
        return [group.tolist() for group in np.split(np.asarray(self.orders[image]), cuts)]

    def check(self) -> "Schedule":
        """Returns itself if every order visits distinct cells of the grid, all of them when M = N.

        Raises:
          InputError: a zero-size group, sizes that do not sum to M, more positions than cells, or
            an order that is not a permutation (names the image and the first bad cell).
        """
        cells = self.grid[0] * self.grid[1]
        orders = np.asarray(self.orders)
        if orders.ndim != 2 or orders.shape[1] > cells:
            raise InputError(
                f"Orders have shape {orders.shape}; a {self.grid[0]}x{self.grid[1]} grid needs "
                f"[images, {cells}], or fewer positions when cells are known."
            )
        check_group_sizes(self.group_sizes, orders.shape[1])
        check_orders(orders, cells)
        return self


def write_orders(path: storage.Where, orders: np.ndarray) -> None:
    """Writes int[B, N] orders as the official JSON: one list of raster indices per image."""
    storage.write_text(path, json.dumps(np.asarray(orders).tolist()))


def read_orders(path: storage.Where) -> np.ndarray:
    """Orders of an official JSON file (or ours): int32[B, N].

    Raises:
      InputError: no such file, not JSON, lists of different lengths, or a list that is not a
        permutation of 0..N-1.
    """
    path = storage.path(path)
    if not path.is_file():
        raise InputError(f"There is no orders file {path}; give the path of an orders JSON file.")
    try:
        orders = np.asarray(json.loads(path.read_text()))
    except ValueError as error:
        raise InputError(
            f"{path} is not a JSON list of equally long lists of raster indices ({error}); write "
            "it again with the official script or the `orders` task."
        ) from None
    if orders.ndim != 2 or not orders.size or orders.dtype.kind != "i":
        raise InputError(
            f"{path} holds {orders.dtype} values of shape {orders.shape}; it must be a list of "
            "equally long lists of raster indices."
        )
    check_orders(orders, orders.shape[1])
    return orders.astype(np.int32)


def check_orders(orders: np.ndarray, cells: int, first: int = 0) -> None:
    """Refuses orders int[B, M] of which one leaves the grid of `cells` or visits a cell twice.

    Args:
      orders: int[B, M].
      cells: N.
      first: number of the first order, for the message.

    Raises:
      InputError: names the order and the first bad cell.
    """
    for i, order in enumerate(orders):
        _check_order(order, cells, first + i)


def _check_order(order: np.ndarray, cells: int, image: int) -> None:
    outside = (order < 0) | (order >= cells)
    if outside.any():
        raise InputError(
            f"Order {image} visits cell {order[outside][0]}, which is not in 0..{cells - 1}; an "
            "order must be a permutation of the grid's cells."
        )
    visits = np.bincount(order, minlength=cells)
    if visits.max(initial=0) > 1:
        raise InputError(
            f"Order {image} visits cell {visits.argmax()} {visits.max()} times; an order must be "
            "a permutation of the grid's cells."
        )
