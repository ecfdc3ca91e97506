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
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lpd_jax.errors import InputError

Rules = Sequence[tuple[str, str | tuple[str, ...] | None]]

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
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh with axes data, fsdp, tensor over all (or the given) devices.

    Raises:
        InputError: the sizes do not multiply to the number of devices.
    """
    axes = dataclasses.asdict(config)
    count = len(devices) if devices is not None else jax.device_count()
    fixed = math.prod(size for size in axes.values() if size > 0)
    sizes = [size if size > 0 else count // fixed for size in axes.values()]
    if math.prod(sizes) != count or sum(size < 1 for size in axes.values()) > 1:
        raise InputError(
            f"mesh {axes} does not cover {count} device(s): the sizes must multiply to {count}, "
            "with at most one of them -1 for what is left."
        )
    # Linen's modules need Auto axes; jax makes Explicit ones unless told.
    return jax.make_mesh(
        sizes, tuple(axes), axis_types=(AxisType.Auto,) * len(axes), devices=devices
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


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds all of it."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """First axis cut over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def put_batch(batch, mesh: Mesh):
    """This process's part of a batch (tree of NumPy arrays) as global arrays.

    Raises:
        InputError: the global batch does not divide among the devices that share it.
    """
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    rows = len(jax.tree.leaves(batch)[0]) * jax.process_count()
    if rows % ways:
        raise InputError(
            f"a batch of {rows} does not divide among {ways} devices (mesh data x fsdp); "
            "change batch_size or the mesh."
        )
    return jax.make_array_from_process_local_data(
        batch_sharding(mesh), jax.tree.map(np.asarray, batch)
    )


def constrain_batch(tree):
    """Keeps the first axis of every array cut over the batch axes of the current mesh."""
    return jax.tree.map(
        lambda x: nn.with_logical_constraint(x, ("batch", *[None] * (x.ndim - 1))), tree
    )
