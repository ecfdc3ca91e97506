"""An order from pairwise dependence: cells that say much about each other in different groups.

Dims: h×w grid, N = h·w cells, M generated cells.

What a group loses is, to the first order, the sum over its pairs of what one cell of the pair says
about the other. So each pick of a step is the cell with the highest score: `context` times its
dependence on the cells that are there, less its dependence on the picks of the step, both sums of
squares: one strong pair is worse than many weak ones, which are also the worst estimated. Equal
scores are in random order: with `context` 0 the first pick of every step is uniform, and a
dependence that falls with distance gives spread groups; above 0 it draws near what is there, below
0 away from it.

Scores are integers, so that equal is equal in every batch and on every device.
"""

import jax
import jax.numpy as jnp
import numpy as np

from lpd_jax import checks, storage
from lpd_jax.errors import InputError

_FULL = 4096  # the largest square
_UNIT = 16  # of `context`: sixteenths
_MOST = 4  # of `context`; with at most this many times 4,096 cells a score is an int32
_CELLS = 4096


def fixed_point(dependence: np.ndarray, context: float) -> tuple[jax.Array, jax.Array]:
    """The integers that `draw` takes: squares int32[N, N] and context int32[].

    Args:
      dependence: float[N, N], symmetric, at least 0, in any unit.
      context: -4 to 4, rounded to sixteenths.

    Raises:
      InputError: `dependence` is no such array, or `context` out of range.
    """
    array = np.asarray(dependence)
    if array.ndim != 2 or array.dtype.kind != "f" or array.shape[0] != array.shape[1]:
        raise InputError(
            f"a field of dependence is float[N, N], not {array.dtype} {list(array.shape)}; write "
            "one with the task fit_order."
        )
    if not (np.isfinite(array).all() and (array >= 0).all() and np.array_equal(array, array.T)):
        raise InputError(
            "a field of dependence must be symmetric, finite and nowhere below 0; write one with "
            "the task fit_order."
        )
    if len(array) > _CELLS:
        raise InputError(f"a field of {len(array)} cells is too large; it goes to {_CELLS}.")
    units = round(_UNIT * checks.number("context", context, -_MOST, _MOST))
    relative = array / max(array.max(initial=0), np.finfo(array.dtype).tiny)
    scaled = np.rint(_FULL * relative.astype(float) ** 2)
    return jnp.asarray(scaled, jnp.int32), jnp.int32(units)


def draw(
    key: jax.Array,
    begins: jax.Array,
    known: jax.Array,
    squares: jax.Array,
    context: jax.Array,
) -> jax.Array:
    """One order by the rule above.

    Args:
      key: typed PRNG key.
      begins: bool[M], the generation positions at which a step begins; may be traced.
      known: bool[N], cells that are context from the start, N - M of them.
      squares, context: of `fixed_point`.

    Returns:
      int32[M], generation position → raster index; inside a group in the order of the picks.
    """
    cells = jnp.arange(len(known))
    tie = jax.random.bits(key, known.shape) | 1

    def pick(carry, begin):
        taken, there, group = carry
        there, group = jnp.where(begin, there + group, there), jnp.where(begin, 0, group)
        score = jnp.where(taken, jnp.iinfo(jnp.int32).min, context * there - _UNIT * group)
        cell = jnp.argmax(jnp.where(score == score.max(), tie, 0)).astype(jnp.int32)
        return (taken | (cells == cell), there, group + squares[cell]), cell

    there = jnp.where(known[:, None], squares, 0).sum(0)
    return jax.lax.scan(pick, (known, there, jnp.zeros_like(there)), begins)[1]


def write(path: storage.Where, dependence: np.ndarray) -> None:
    """Writes a field float[N, N] as a NumPy file."""
    with storage.whole(storage.path(path)) as file:
        np.save(file, np.asarray(dependence, np.float32))


def read(path: storage.Where) -> np.ndarray:
    """The field float32[N, N] of a file of `write`; `fixed_point` says whether it is one.

    Raises:
      InputError: there is no such file, or it is no NumPy file.
    """
    path = storage.path(path)
    try:
        with storage.local(path) as file:
            return np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"there is no field of dependence in {path} ({storage.brief(error)}); write one with "
            "the task fit_order."
        ) from error
