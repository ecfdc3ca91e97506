"""The recipes of docs/extending.md, run as they stand there."""

import re
from pathlib import Path
from types import SimpleNamespace

import grain
import jax
import numpy as np
import pytest

from lpd_jax import config_files
from lpd_jax.generation import orders
from lpd_jax.generation.schedule import check_orders
from lpd_jax.models.decoder import DecoderConfig
from lpd_jax.tasks import ablate, build, check
from lpd_jax.trained import decoder_of
from lpd_jax.training.loop import Evaluator

GUIDE = (Path(__file__).parents[1] / "docs/extending.md").read_text()
CODE = {
    title: re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0]
    for title, text in re.findall(r"^## (.*)\n((?:(?!^## ).*\n)*)", GUIDE, re.MULTILINE)
}


def run(title):
    names = {"__name__": "recipe"}
    exec(CODE[title], names)
    return names


def config_of(title, tmp_path):
    (tmp_path / "mine.py").write_text(CODE[title])
    return config_files.load(str(tmp_path / "mine.py"))


def test_an_order(monkeypatch):
    monkeypatch.setattr(orders, "NAMES", dict(orders.NAMES))
    order = orders.NAMES["columns"]() if run("An order") else None
    keys = jax.random.split(jax.random.key(0), 2)
    drawn = jax.vmap(lambda key: order.draw(key, (4, 6), (1, 3, 8, 12)))(keys)
    check_orders(np.asarray(drawn), 24, 0)
    np.testing.assert_array_equal(drawn[0, :5], [0, 6, 12, 18, 1])
    known = np.zeros(24, bool)
    known[[0, 12]] = True
    left = order.draw(keys[0], (4, 6), (2, 20), known)
    np.testing.assert_array_equal(left[:3], [6, 18, 1])
    config = config_files.load("digits")
    config.sample.order = "columns"
    check.config(config, "sample")


@pytest.mark.parametrize("split", ["train", "heldout", "all"])
def test_a_source_of_images(split):
    source = run("A source of images")["Stripes"](split, 16)
    batch = next(iter(grain.MapDataset.source(source).batch(len(source))))
    assert batch["image"].shape == (len(source), 16, 16, 3) and batch["image"].dtype == np.uint8
    assert batch["label"].dtype == np.int32 and set(batch["label"]) == {0, 1}
    np.testing.assert_array_equal(batch["index"], np.arange(len(source)))


def test_a_model_of_another_size(tmp_path):
    config = config_of("A model of another size", tmp_path)
    check.config(config, "pipeline")
    decoder = decoder_of(config.decoder.to_dict(), grid=(8, 8), vocab_size=64, num_classes=10)
    assert isinstance(decoder.config, DecoderConfig) and decoder.config.width == 96


def test_something_to_look_at_during_training():
    evaluator = run("Something to look at during training")["evaluator"]
    state = SimpleNamespace(params={"decoder": {"a": np.float32([1, -3]), "b": np.float32([2])}})
    assert isinstance(evaluator, Evaluator)
    assert evaluator.run(100, state) == {"largest_weight": 3.0}


def test_an_ablation(tmp_path):
    config = config_of("An ablation", tmp_path)
    check.config(config, "ablate")
    assert len(config.ablation.variants) == 6
    for _, fields in config.ablation.variants:
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(fields)
        check.config(changed, "sample")
        build.sampling(changed.sample)
    assert ablate.METRICS


def test_every_recipe_is_run_here():
    assert set(CODE) == {
        "An order",
        "A source of images",
        "A model of another size",
        "Something to look at during training",
        "An ablation",
    }
