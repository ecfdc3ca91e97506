"""Meshes, born-sharded parameters, and constraints that are really there."""

from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from lpd_jax import parallel
from lpd_jax.errors import InputError
from lpd_jax.models.initial import init_decoder
from lpd_jax.parallel import MeshConfig


def test_one_axis_takes_the_devices_that_are_left():
    assert dict(parallel.make_mesh(MeshConfig(data=-1, tensor=2)).shape) == {
        "data": 4,
        "fsdp": 1,
        "tensor": 2,
    }


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, -1, 1), (16, 1, 1), (-1, 3, 1)], ids=str)
def test_meshes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(InputError, match="8 device"):
        parallel.make_mesh(MeshConfig(*sizes))


def in_slices(*slices):
    """Stand-ins for devices that say which slice they are in."""
    return [
        SimpleNamespace(id=i, slice_index=s, process_index=i // 2, platform="gpu", device_kind="")
        for i, s in enumerate(slices)
    ]


@pytest.mark.parametrize("devices", [(0,) * 4 + (1,) * 4, (0, 1) * 4], ids=str)
def test_slices_are_split_along_data_only(devices):
    grid = parallel.device_grid(MeshConfig(data=4, fsdp=1, tensor=2), in_slices(*devices))
    slices = np.vectorize(lambda device: device.slice_index)(grid)
    assert (slices == np.array([0, 0, 1, 1])[:, None, None]).all()
    assert len({device.id for device in grid.flat}) == 8


def test_slices_can_be_disregarded():
    grid = parallel.device_grid(
        MeshConfig(data=1, fsdp=8, slices=1), in_slices(*(0,) * 4 + (1,) * 4)
    )
    assert [device.id for device in grid.flat] == list(range(8))


def test_processes_are_slices_where_devices_do_not_say():
    devices = in_slices(*range(8))
    for device in devices:
        del device.slice_index
    flat = parallel.device_grid(MeshConfig(), devices)
    assert flat.shape == (8, 1, 1)
    grid = parallel.device_grid(MeshConfig(data=4, tensor=2, slices=4), devices)
    process = np.vectorize(lambda device: device.process_index)(grid)
    assert (process == np.arange(4)[:, None, None]).all()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (MeshConfig(slices=4), "mesh.slices=4, but the 8 devices are in 2 slice"),
        (MeshConfig(data=1, fsdp=8), "mesh.data=1 is no multiple of the 2 slices"),
    ],
    ids=str,
)
def test_meshes_that_do_not_fit_the_slices_are_refused(config, words):
    with pytest.raises(InputError, match=words):
        parallel.device_grid(config, in_slices(*(0,) * 4 + (1,) * 4))
    with pytest.raises(InputError, match="in 1 process"):
        parallel.make_mesh(MeshConfig(slices=2))


def test_parameters_are_born_where_the_rules_say(decoder):
    mesh = parallel.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    params, shardings = parallel.born_sharded(
        lambda key: init_decoder(decoder, key), mesh, parallel.RULES, jax.random.key(0)
    )
    kernel = params["blocks"]["qkv"]["kernel"]
    assert kernel.sharding.spec == P(None, "fsdp", None, "tensor", None)
    assert kernel.addressable_shards[0].data.shape == (2, 16, 3, 2, 8)
    assert params["head"]["kernel"].sharding.spec == P("fsdp", "tensor")
    alone = jax.jit(lambda key: nn.unbox(init_decoder(decoder, key)))(jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, alone)
    assert jax.tree.structure(params) == jax.tree.structure(shardings)


def test_constraints_are_in_the_lowered_program(decoder, decoder_params, batch):
    """Linen drops logical constraints without a word when mesh or rules are missing."""

    def lowered():
        return jax.jit(lambda p: decoder.apply({"params": p}, *batch, jnp.arange(24))).lower(
            decoder_params
        )

    assert lowered().as_text().count("sharding_constraint") == 0
    with parallel.use(parallel.make_mesh(MeshConfig())):
        # One on the embedded sequence, one in the scanned block; and of each of the five kernels,
        # where it lies and gathered.
        assert lowered().as_text().count("sharding_constraint") == 2 + 2 * 5


def test_networks_without_axes_are_cut_along_their_longest_axis():
    mesh = parallel.make_mesh(MeshConfig(data=4, fsdp=2))
    params = {"kernel": np.ones((3, 3, 8, 3)), "bias": np.ones(8), "odd": np.ones((5, 3))}
    found = parallel.shardings_of(parallel.boxed(params, mesh), mesh)
    specs = jax.tree.map(lambda x: x.spec, found)
    assert specs == {"kernel": P(None, None, "fsdp", None), "bias": P(), "odd": P()}


def test_batches_must_divide_among_devices():
    mesh = parallel.make_mesh(MeshConfig())
    placed = parallel.put_batch({"x": np.arange(16)}, mesh)
    assert placed["x"].sharding.spec == P(("data", "fsdp"))
    with pytest.raises(InputError, match="divide"):
        parallel.put_batch({"x": np.arange(12)}, mesh)
