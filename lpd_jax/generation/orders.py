"""Every generation order behind one method.

Dims: h×w grid, N = h·w cells, M generated cells, S steps.

An order is a small pytree with one method, `draw(key, grid, group_sizes, known)`: int32[M],
generation position → raster index. It is pure, jits with `grid` and `group_sizes` static, and vmaps
over `key`, `known` and the thresholds of LocalityAware.

`known` (bool[N], for editing) marks cells that are context from the start. They are left out of the
order, so the group sizes sum to M, the number of cells that are *not* known; M is static while
`known` may be traced, and the caller makes them agree. Without `known`, M = N.

Orders that come with their own groups (Wavefront, StaggeredRows, RegionParallel) offer
`group_sizes(grid)`; any other cut of them is allowed too.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from lpd_jax import checks
from lpd_jax.errors import InputError
from lpd_jax.generation import field, locality
from lpd_jax.generation.groups import check_group_sizes, step_of

Grid = tuple[int, int]
Groups = tuple[int, ...]
Known = jax.Array | None


@struct.dataclass
class LocalityAware:
    """The paper's order: near the context, apart within a group (see `locality`).

    Attributes:
      proximity: score (sum of 1/distance over generated 8-neighbours) from which a cell is near;
        1.0 is one side or two diagonals.
      repulsion: Chebyshev distance within which near picks of a group exclude each other. The
        paper uses 2 (3 for XXL) at 256 px and 4 at 512 px.
    """

    proximity: float | jax.Array = 1.0
    repulsion: float | jax.Array = 2.0

    @property
    def rule(self) -> locality.Rule:
        return locality.Rule(self.proximity, self.repulsion)

    def draw(self, key: jax.Array, grid: Grid, group_sizes: Groups, known: Known = None):
        known = _context(grid, group_sizes, known)
        return locality.draw(key, grid, group_sizes, known, self.rule)


@struct.dataclass
class NearContext:
    """Principle 1 alone: each group is the cells with the highest scores, ties at random.

    The same as LocalityAware(repulsion=0) while every group finds enough near cells, which in the
    32 steps of the paper's ablation (figure 9c) it does until the last three, then it spreads.
    """

    rule = locality.Rule(proximity=0.0, repulsion=0.0)

    def draw(self, key: jax.Array, grid: Grid, group_sizes: Groups, known: Known = None):
        known = _context(grid, group_sizes, known)
        return locality.draw(key, grid, group_sizes, known, self.rule)


@struct.dataclass
class SpreadOnly:
    """Principle 2 alone: farthest-point sampling inside each group, from a random first cell."""

    rule = locality.Rule(proximity=math.inf, repulsion=0.0, scored=False)

    def draw(self, key: jax.Array, grid: Grid, group_sizes: Groups, known: Known = None):
        known = _context(grid, group_sizes, known)
        return locality.draw(key, grid, group_sizes, known, self.rule)


@struct.dataclass
class Random:
    """A uniform permutation: what the models are trained with."""

    def draw(self, key: jax.Array, grid: Grid, group_sizes: Groups, known: Known = None):
        return _visit(jax.random.permutation(key, math.prod(grid)), grid, group_sizes, known)


@struct.dataclass
class Raster:
    """Row by row, left to right; the key is not used."""

    def draw(self, key: jax.Array, grid: Grid, group_sizes: Groups, known: Known = None):
        return _visit(np.arange(math.prod(grid)), grid, group_sizes, known)


@struct.dataclass
class Halton:
    """First visits of the 2-D Halton sequence, base 2 down the rows and 3 along the columns.

    As in Halton-MaskGIT (Besnier et al., 2025). With `rolled` (their `randomize`), each image
    starts the cyclic sequence at its own uniform place; otherwise all images share one order.
    """

    rolled: bool = struct.field(pytree_node=False, default=True)

    def draw(self, key: jax.Array, grid: Grid, group_sizes: Groups, known: Known = None):
        order = _halton(grid)
        if self.rolled:
            order = jnp.roll(order, jax.random.randint(key, (), 0, order.size))
        return _visit(order, grid, group_sizes, known)


@struct.dataclass
class Wavefront:
    """Rings of equal Manhattan distance from the top left cell (NAR, He et al., 2025)."""

    def group_sizes(self, grid: Grid) -> Groups:
        """One group per ring: h + w - 1 groups."""
        return _ring_sizes(_staggered(grid, 1))

    def draw(self, key: jax.Array, grid: Grid, group_sizes: Groups, known: Known = None):
        return _visit(_by_ring(_staggered(grid, 1)), grid, group_sizes, known)


@struct.dataclass
class StaggeredRows:
    """Rows in parallel, each `window` cells behind the one above (ZipAR, He et al., 2025).

    The paper's fixed window; a window of one is the Wavefront, one of w is Raster.
    """

    window: int = struct.field(pytree_node=False, default=4)

    def group_sizes(self, grid: Grid) -> Groups:
        """One group per time: w + window (h - 1) groups."""
        return _ring_sizes(self._times(grid))

    def draw(self, key: jax.Array, grid: Grid, group_sizes: Groups, known: Known = None):
        return _visit(_by_ring(self._times(grid)), grid, group_sizes, known)

    def _times(self, grid: Grid) -> np.ndarray:
        if not 1 <= self.window <= grid[1]:
            raise InputError(
                f"StaggeredRows has window {self.window}; choose 1 to {grid[1]}, the grid's width."
            )
        return _staggered(grid, self.window)


@struct.dataclass
class RegionParallel:
    """The same place in every region at once (PAR, Wang et al., 2025).

    The first cell of each of the regions is generated alone, to settle the layout; then the
    regions advance together in raster order.

    Attributes:
      regions: how many regions down and across; each must divide the grid.
    """

    regions: tuple[int, int] = struct.field(pytree_node=False, default=(2, 2))

    def group_sizes(self, grid: Grid) -> Groups:
        """One group per first cell, then one per place in the regions."""
        regions = math.prod(self.regions)
        return (1,) * regions + (regions,) * (math.prod(grid) // regions - 1)

    def draw(self, key: jax.Array, grid: Grid, group_sizes: Groups, known: Known = None):
        if grid[0] % self.regions[0] or grid[1] % self.regions[1]:
            raise InputError(
                f"A {grid[0]}x{grid[1]} grid cannot be cut in {self.regions[0]}x{self.regions[1]} "
                "equal regions; choose numbers that divide its height and width."
            )
        cells = np.arange(math.prod(grid)).reshape(
            self.regions[0], grid[0] // self.regions[0], self.regions[1], -1
        )
        return _visit(cells.transpose(1, 3, 0, 2).ravel(), grid, group_sizes, known)


@struct.dataclass
class Field:
    """What depends on each other in different groups, as a model itself says (see `field`).

    Not among the names: it takes data.

    Attributes:
      squares: int32[N, N].
      context: int32[], both of `field.fixed_point`.
    """

    squares: jax.Array
    context: jax.Array

    def draw(self, key: jax.Array, grid: Grid, group_sizes: Groups, known: Known = None):
        self._check(grid)
        known = _context(grid, group_sizes, known)
        begins = jnp.asarray(np.diff(step_of(group_sizes), prepend=-1) > 0)
        return field.draw(key, begins, known, self.squares, self.context)

    def draw_by_step(self, key: jax.Array, grid: Grid, step_of: jax.Array):
        """As the function of this name."""
        self._check(grid)
        begins, known = jnp.diff(step_of, prepend=-1) > 0, jnp.zeros(len(step_of), bool)
        return field.draw(key, begins, known, self.squares, self.context)

    def _check(self, grid: Grid) -> None:
        if len(self.squares) != math.prod(grid):
            raise InputError(
                f"the field of dependence is of {len(self.squares)} cells, and a "
                f"{grid[0]}x{grid[1]} grid has {math.prod(grid)}; measure it on this model with "
                "the task fit_order."
            )


@struct.dataclass
class Confident:
    """The surest cells first: an order that comes about while an image is generated (`confident`).

    Attributes:
      threshold: probability of a cell's likeliest code above which it is kept beyond the group
        size of its pass, up to the largest of them; 1 or more keeps to the sizes.
      noise: Gumbel noise on the logarithm of that probability, falling to 0 with the last token
        (the choice temperature of MaskGIT).
    """

    threshold: float | jax.Array = 1.0
    noise: float | jax.Array = 0.0

    def draw(self, key: jax.Array, grid: Grid, group_sizes: Groups, known: Known = None):
        raise InputError(
            "the order 'confident' is chosen by the model while it generates: it can be sampled, "
            "and not drawn ahead, edited with, watched, exported or scored."
        )


def confident(threshold: float, noise: float) -> Confident:
    """The order of that name with numbers that are checked and of one type.

    Raises:
      InputError: the threshold is not above 0, or the noise below 0.
    """
    if checks.number("confidence_threshold", threshold, 0) == 0:
        raise InputError("confidence_threshold=0 must be above 0; 1 keeps to the group sizes.")
    noise = checks.number("confidence_noise", noise, 0)
    return Confident(jnp.float32(threshold), jnp.float32(noise))


NAMES = {
    "locality": LocalityAware,
    "near": NearContext,
    "spread": SpreadOnly,
    "random": Random,
    "raster": Raster,
    "halton": Halton,
    "wavefront": Wavefront,
    "staggered": StaggeredRows,
    "regions": RegionParallel,
}


def named(name: str, proximity: float = 1.0, repulsion: float = 2.0):
    """The order of this name; the thresholds are those of "locality".

    Raises:
      InputError: there is no such order, or a threshold is no finite number.
    """
    if name not in NAMES:
        raise InputError(f"order={name!r} must be one of {', '.join(NAMES)}.")
    thresholds = checks.number("proximity", proximity), checks.number("repulsion", repulsion)
    return LocalityAware(*map(jnp.float32, thresholds)) if name == "locality" else NAMES[name]()


def draw_by_step(order, key: jax.Array, grid: Grid, step_of: jax.Array) -> jax.Array:
    """What `order.draw` gives for the groups of `step_of`, which are data here.

    Under vmap every order of a batch has groups of its own, as the examples of a training step do.

    Args:
      order: one of those above.
      key: typed PRNG key.
      grid: (h, w).
      step_of: int32[N], non-decreasing from 0, step of each generation position; may be traced.

    Returns:
      int32[N], generation position → raster index.
    """
    if isinstance(order, LocalityAware | NearContext | SpreadOnly):
        return locality.draw_by_step(key, grid, step_of, order.rule)
    if isinstance(order, Field):
        return order.draw_by_step(key, grid, step_of)
    return order.draw(key, grid, (1,) * math.prod(grid))  # the same for any groups


def _context(grid: Grid, group_sizes: Groups, known: Known) -> jax.Array:
    """`known` with its default, after checking what can be checked of static arguments."""
    cells = math.prod(grid)
    check_group_sizes(group_sizes, cells if known is None else sum(group_sizes))
    known = jnp.zeros(cells, bool) if known is None else jnp.asarray(known, bool)
    if known.shape != (cells,) or sum(group_sizes) > cells:
        raise InputError(
            f"A {grid[0]}x{grid[1]} grid needs known[{cells}] and at most {cells} cells to "
            f"generate; got known{list(known.shape)} and group sizes that sum to "
            f"{sum(group_sizes)}."
        )
    return known


def _visit(order, grid: Grid, group_sizes: Groups, known: Known) -> jax.Array:
    """The order without its known cells: int32[M]."""
    cells = jnp.asarray(order, jnp.int32)
    known = _context(grid, group_sizes, known)
    return cells[jnp.argsort(known[cells], stable=True)][: sum(group_sizes)]


def _halton(grid: Grid) -> np.ndarray:
    """First visit of each cell by the Halton points 1, 2, ...: int[N]."""
    count = 8 * math.prod(grid)
    while True:
        rows, cols = (
            np.floor(size * _radical_inverse(np.arange(1, count), base)).astype(int)
            for size, base in zip(grid, (2, 3), strict=True)
        )
        visits = rows * grid[1] + cols
        cells, first = np.unique(visits, return_index=True)
        if len(cells) == math.prod(grid):
            return visits[np.sort(first)]
        count *= 2


def _radical_inverse(index: np.ndarray, base: int) -> np.ndarray:
    """The digits of each index mirrored at the point: float64, in [0, 1)."""
    numerator, denominator = np.zeros_like(index), 1
    while index.any():
        index, digit = np.divmod(index, base)
        numerator = numerator * base + digit
        denominator *= base
    return numerator / denominator


def _staggered(grid: Grid, window: int) -> np.ndarray:
    """Time of each cell when every row starts `window` after the one above: int[N]."""
    row, col = np.indices(grid)
    return (window * row + col).ravel()


def _by_ring(ring: np.ndarray) -> np.ndarray:
    return np.argsort(ring, kind="stable")


def _ring_sizes(ring: np.ndarray) -> Groups:
    return tuple(np.unique(ring, return_counts=True)[1].tolist())
