"""Devices as a mesh, and parameters that are born in their place on it.

Modules name the axes of their parameters and activations ("embed", "mlp", "batch", ...); the rules
here, which a config may replace, send those names to mesh axes.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lpd_jax.errors import InputError

Rules = Sequence[tuple[str, str | tuple[str, ...] | None]]

AXES = ("data", "fsdp", "tensor")

RULES: Rules = (
    ("batch", ("data", "fsdp")),
    ("embed", "fsdp"),
    ("mlp", "tensor"),
    ("heads", "tensor"),
    ("vocab", "tensor"),
    ("head_width", None),
    ("layers", None),
    ("length", None),
    ("embed_act", None),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one may be -1 and takes the devices that are left.

    Attributes:
        data: copies of the model, each with its part of the batch.
        fsdp: parts that parameters and optimizer state are cut into, gathered when used; the
            batch is cut along this axis too.
        tensor: parts of heads, MLP and vocabulary, computed apart.
        slices: groups of devices with a fast network inside and a slow one between (TPU slices,
            GPU hosts). Only copies of the model are spread over them. -1 takes what the devices
            say, 1 lays the mesh out as if all were one.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    slices: int = -1


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh with axes data, fsdp, tensor over all (or the given) devices.

    Raises:
        InputError: the sizes do not multiply to the number of devices, or do not fit its slices.
    """
    grid = device_grid(config, jax.devices() if devices is None else devices)
    # Linen's modules need Auto axes; jax makes Explicit ones unless told.
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def device_grid(config: MeshConfig, devices: Sequence[jax.Device]) -> np.ndarray:
    """The devices as an array [data, fsdp, tensor]; slices follow each other along data.

    Raises:
        InputError: as `make_mesh`.
    """
    axes, count = {axis: getattr(config, axis) for axis in AXES}, len(devices)
    fixed = math.prod(size for size in axes.values() if size > 0)
    sizes = [size if size > 0 else count // fixed for size in axes.values()]
    if math.prod(sizes) != count or sum(size < 1 for size in axes.values()) > 1:
        raise InputError(
            f"mesh {axes} does not cover {count} device(s): the sizes must multiply to {count}, "
            "with at most one of them -1 for what is left."
        )
    # Devices that say nothing of slices are told apart by their process.
    told = hasattr(devices[0], "slice_index")
    found = len({getattr(d, "slice_index" if told else "process_index") for d in devices})
    slices = config.slices if config.slices > 0 else (found if told else 1)
    if slices == 1 and told and found > 1:
        return np.array(devices).reshape(sizes)
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    if slices != found:
        raise InputError(
            f"mesh.slices={slices}, but the {count} devices are in {found} "
            f"{'slice(s)' if told else 'process(es)'}; set mesh.slices to {found}, or to 1 to lay "
            "the mesh out without regard to the network between them."
        )
    if sizes[0] % slices:
        raise InputError(
            f"mesh.data={sizes[0]} is no multiple of the {slices} slices that the devices are in; "
            "change mesh.data, or set mesh.slices=1 to let fsdp and tensor cross the network "
            "between slices."
        )
    inside = (sizes[0] // slices, *sizes[1:])
    return mesh_utils.create_hybrid_device_mesh(
        inside,
        (slices, 1, 1),
        devices,
        process_is_granule=not told,
        allow_split_physical_axes=True,
    )


@contextlib.contextmanager
def use(mesh: Mesh, rules: Rules = RULES):
    """Context in which logical constraints of modules mean something."""
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        yield


def shardings_of(abstract, mesh: Mesh, rules: Rules = RULES):
    """Shardings of a tree of (boxed) abstract arrays, such as `jax.eval_shape(init, key)`."""
    return nn.logical_to_mesh_sharding(nn.get_partition_spec(abstract), mesh, rules)


def born_sharded(init: Callable, mesh: Mesh, rules: Rules, *args):
    """Runs `init(*args)` so that every array is made on the devices that keep it.

    Returns:
        The unboxed tree, and the tree of its shardings.
    """
    shardings = shardings_of(jax.eval_shape(init, *args), mesh, rules)
    # Not under `use`: Linen would constrain kernels while DenseGeneral still holds them flat.
    return jax.jit(lambda *a: nn.unbox(init(*a)), out_shardings=shardings)(*args), shardings


def boxed(params, mesh: Mesh, rules: Rules = RULES):
    """Parameters of a network that names no axes, so boxed that each is cut as "embed" is.

    An array of two or more axes is cut along its longest axis, where that divides among the
    devices; others are whole on every device.
    """
    axes = dict(rules).get("embed") or ()
    ways = math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))

    def box(x):
        longest = int(np.argmax(x.shape)) if x.ndim > 1 else 0
        if x.ndim < 2 or x.shape[longest] % ways:
            return x
        names = tuple("embed" if axis == longest else None for axis in range(x.ndim))
        return nn.LogicallyPartitioned(x, names)

    return jax.tree.map(box, params)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds all of it."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """First axis cut over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def batch_ways(mesh: Mesh) -> int:
    """Into how many parts `batch_sharding` cuts a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def process_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Rows of a global batch that lie on the devices of this process: int [rows], ascending.

    Processes share rows when a tensor axis reaches across them.

    Raises:
        InputError: the batch does not divide among the devices that share it.
    """
    size, rest = divmod(batch_size, batch_ways(mesh))
    if rest or size < 1:
        raise InputError(
            f"a batch of {batch_size} does not divide among {batch_ways(mesh)} devices (mesh data "
            "x fsdp); change batch_size or the mesh."
        )
    return (_process_parts(mesh)[:, None] * size + np.arange(size)).reshape(-1)


def put_batch(batch, mesh: Mesh):
    """This process's rows of a batch (tree of NumPy arrays, see `process_rows`) as global arrays.

    Raises:
        InputError: the global batch does not divide among the devices that share it.
    """
    parts, rows = len(_process_parts(mesh)), len(jax.tree.leaves(batch)[0])
    if rows % parts:
        process_rows(mesh, rows * batch_ways(mesh) // parts)  # says so
    return jax.make_array_from_process_local_data(batch_sharding(mesh), batch)


def in_batches(count: int, batch_size: int, mesh: Mesh, take: Callable, program: Callable):
    """What a program makes of each of `count` rows, a batch at a time.

    Args:
        count: rows; the last batch is filled up from the beginning, so that all have one shape.
        batch_size: rows at a time, over all devices; rounded up to what they divide.
        mesh: devices. All processes call this together.
        take: int [rows], those of a batch that lie on this process's devices -> their tree of NumPy
            arrays.
        program: a whole batch of these, as global arrays -> a tree of arrays.

    Yields:
        The results of each batch, with rows beyond `count` at the end of the last. The next batch
        begins without waiting for them, but for CPUs: with several devices XLA's client there may
        begin a second program with collectives before every device has begun the first, and has no
        thread left for the others. Both wait until XLA ends the process (8 devices on 2 cores,
        jaxlib 0.10.2: within 25 rounds of 44 programs; in 101 rounds never, one by one).
    """
    ways, on_cpus = batch_ways(mesh), mesh.devices.flat[0].platform == "cpu"
    size = ways * math.ceil(min(batch_size, count) / ways)
    rows = process_rows(mesh, size)
    for first in range(0, count, size):
        results = program(put_batch(take((first + rows) % count), mesh))
        yield jax.block_until_ready(results) if on_cpus else results


def _process_parts(mesh: Mesh) -> np.ndarray:
    """Which of the `batch_ways` parts of a batch lie on this process's devices, ascending."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_ways(mesh),))
    return np.unique([index.start or 0 for (index,) in indices.values()])


def constrain_batch(tree):
    """Keeps the first axis of every array cut over the batch axes of the current mesh."""
    return jax.tree.map(
        lambda x: nn.with_logical_constraint(x, ("batch", *[None] * (x.ndim - 1))), tree
    )


def gather(tree):
    """Every array whole on all devices of the current mesh, to be gathered once and used often."""
    return jax.tree.map(lambda x: nn.with_logical_constraint(x, (None,) * x.ndim), tree)


def by_device(function: Callable, batch: tuple, *whole):
    """`function(*batch, *whole)`, each device on its part of the batch and by itself.

    For work on every image apart that has a loop, a sort or a scatter in it: the partitioner makes
    devices wait for each other where a condition looks at all images, and gathers the batch for
    what it cannot cut. Without a mesh in context, on one device and for a batch that does not
    divide among the devices this is a plain call.

    Args:
        function: of arrays; its results have the batch first too.
        batch: trees of arrays, cut along their first axis as the logical axis "batch" is.
        *whole: trees of arrays that every device gets whole.
    """
    mesh, rows = jax.sharding.get_abstract_mesh(), nn.logical_to_mesh_axes(("batch",))
    axes = (rows[0],) if isinstance(rows[0], str) else rows[0] or ()
    ways = math.prod(mesh.shape.get(axis, 1) for axis in axes)
    # Inside another `shard_map` the parts are what there is.
    if ways == 1 or mesh.manual_axes or jax.tree.leaves(batch)[0].shape[0] % ways:
        return function(*batch, *whole)
    specs = (*(rows for _ in batch), *(PartitionSpec() for _ in whole))
    run = jax.shard_map(function, in_specs=specs, out_specs=rows, check_vma=False)
    return run(*batch, *whole)
