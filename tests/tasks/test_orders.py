"""Orders ahead of time: the ones that images get, in files that can be read back."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from lpd_jax import parallel
from lpd_jax.configs import digits
from lpd_jax.errors import InputError
from lpd_jax.generation.schedule import read_orders, write_orders
from lpd_jax.generation.validity import first_violation
from lpd_jax.models.decoder import Decoder
from lpd_jax.models.initial import init_decoder
from lpd_jax.sampler import Sampler
from lpd_jax.tasks import build, orders

LABELS = [0, 1, 2, 3, 4, 0, 1]
COUNT = 70  # more than a batch of the task


@pytest.fixture(scope="module")
def config():
    """A 6x6 grid: 36 tokens in 6 steps."""
    config = digits.get_config()
    config.seed = 3
    config.data.size = 24
    config.sample.update(steps=6, proximity=1.0, repulsion=1.0, guidance=1.0)
    config.orders.count = COUNT
    return config.lock()


@pytest.fixture(scope="module")
def written(config, tmp_path_factory):
    return orders.run(config, tmp_path_factory.mktemp("run"))


def changed(config, **fields):
    config = config.copy_and_resolve_references()
    config.sample.update(fields)
    return config


def test_files_hold_valid_orders(config, written):
    drawn = np.asarray(json.loads((written / "orders.json").read_text()))
    sizes = tuple(json.loads((written / "group_sizes.json").read_text()))
    assert drawn.shape == (COUNT, 36) and sizes == build.group_sizes(config.sample, 36)
    assert (first_violation(drawn, (6, 6), sizes, proximity=1.0, repulsion=1.0) < 0).all()
    assert len(np.unique(drawn, axis=0)) == COUNT


def test_pictures_and_statistics(written):
    for name in ("heatmap.png", "groups.png"):
        with Image.open(written / name) as image:
            assert np.ptp(np.asarray(image.convert("L"))) > 50
    with Image.open(written / "order.gif") as animation:
        assert animation.n_frames == 6
    statistics = json.loads((written / "statistics.json").read_text())
    assert statistics["orders"] == COUNT and len(statistics["steps"]) == 6
    assert statistics["steps"][0]["proximity"] is None
    assert 0.5 < statistics["steps"][2]["frac8"] <= 1
    assert (written / "statistics.md").read_text().count("\n| ") == 2 + 6
    assert not [path for path in written.iterdir() if path.name.startswith(".")]


@pytest.fixture(scope="module")
def sampler(decoder, tokenizer, tokenizer_params):
    network = Decoder(dataclasses.replace(decoder.config, grid=(6, 6)))
    init = jax.jit(lambda key: nn.unbox(init_decoder(network, key)))
    return Sampler(
        decoder=network,
        decoder_params=init(jax.random.key(0)),
        tokenizer=tokenizer,
        tokenizer_params=tokenizer_params,
        class_names=tuple("abcde"),
        guidable=True,
        mesh=parallel.make_mesh(parallel.MeshConfig(), jax.devices()[:1]),
    )


def sample(sampler, config, labels):
    sizes, rule = build.group_sizes(config.sample, 36), build.sampling(config.sample)
    order = build.order(config.sample)
    return sampler.sample(labels, sizes, order, rule, seed=config.seed, batch_size=4)


def test_image_i_gets_order_i(config, written, sampler):
    """Drawn by the task, or inside the generation program: the same orders and images."""
    drawn = sample(sampler, config, LABELS)
    np.testing.assert_array_equal(drawn.orders, read_orders(written / "orders.json")[:7])
    read = sample(sampler, changed(config, order_file=str(written / "orders.json")), LABELS)
    for name in ("orders", "codes", "images"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(read, name))


def test_an_official_file_is_used_by_image_index(config, sampler, tmp_path):
    raster = np.tile(np.arange(36), (8, 1))
    raster[2] = raster[2, ::-1]
    write_orders(tmp_path / "orders.json", raster)
    read = sample(sampler, changed(config, order_file=str(tmp_path / "orders.json")), LABELS)
    np.testing.assert_array_equal(read.orders, raster[:7])


@pytest.mark.parametrize(
    ("shape", "says"),
    [((6, 36), "6 orders of 36 tokens were given for 7 images"), ((7, 25), "7 orders of 25")],
)
def test_files_that_do_not_fit_are_refused(config, sampler, tmp_path, shape, says):
    write_orders(tmp_path / "orders.json", np.tile(np.arange(shape[1]), (shape[0], 1)))
    with pytest.raises(InputError, match=says):
        sample(sampler, changed(config, order_file=str(tmp_path / "orders.json")), LABELS)


def test_a_second_run_redoes_nothing(config, written):
    before = {path: path.stat().st_mtime_ns for path in written.iterdir()}
    assert orders.run(config, written.parents[1]) == written
    assert {path: path.stat().st_mtime_ns for path in written.iterdir()} == before


def test_a_given_file_is_shown_too(config, written, tmp_path):
    config = changed(config, order_file=str(written / "orders.json"))
    config.orders.count = 5
    directory = orders.run(config, tmp_path)
    np.testing.assert_array_equal(
        read_orders(directory / "orders.json"), read_orders(written / "orders.json")[:5]
    )
    config.orders.count = COUNT + 1
    with pytest.raises(InputError, match="holds 70 orders"):
        orders.run(config, tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("orders.count", 0, "orders.count=0"),
        ("data.size", 25, "data.size=25 is not a multiple of 4"),
        ("sample.order", "spiral", "one of locality"),
        ("sample.steps", 37, "37 steps"),
        ("sample.order_file", "absent.json", "no orders file absent.json"),
    ],
)
def test_bad_settings_are_refused(config, tmp_path, field, value, says):
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=says):
        orders.run(config, tmp_path)
    assert not list(tmp_path.iterdir())
