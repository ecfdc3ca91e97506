"""Results are named by models and settings; drawn by a sampler that makes noise, in no time."""

import dataclasses
import json
import shutil
import types

import numpy as np
import pytest

from lpd_jax.configs import digits
from lpd_jax.errors import InputError
from lpd_jax.generation.results import Batch
from lpd_jax.generation.schedule import Schedule
from lpd_jax.models.decoder import DecoderConfig
from lpd_jax.models.tokenizer import TokenizerConfig
from lpd_jax.sampler import Samples
from lpd_jax.tasks import build, evaluate, sample
from lpd_jax.tasks.workdir import plain

NAMES = ("nought", "one", "two", "3", "four", "five", "six", "seven", "eight", "nine")
DECODER = DecoderConfig(grid=(8, 8), vocab_size=32, num_classes=10, width=32, depth=1, heads=2)
TOKENIZER = TokenizerConfig(ch=8, ch_mult=(1, 1, 1), z_channels=8, codebook_size=32, norm_groups=4)


class Noise:
    """Has the parts of a `Sampler` that the tasks use; seed and index decide an image."""

    decoder = types.SimpleNamespace(config=DECODER)
    class_names = NAMES

    def sample(self, labels, group_sizes, order, rule, *, seed, **_):
        images = np.random.default_rng(seed).integers(0, 256, (len(labels), 32, 32, 3), np.uint8)
        orders = np.tile(np.arange(64, dtype=np.int32), (len(labels), 1))
        return Samples(images=images, codes=orders % 32, orders=orders)

    def batches(self, labels, **how):
        made = self.sample(labels, how.pop("group_sizes"), how.pop("order"), how.pop("rule"), **how)
        for rows in np.array_split(np.arange(len(labels)), 3):
            arrays = (x[rows] for x in (made.images, made.codes, made.orders))
            yield Batch(rows, *arrays)

    def schedule(self, samples, group_sizes):
        return Schedule(samples.orders, tuple(group_sizes), DECODER.grid)


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A directory of models that were converted: nothing was measured there."""
    about = {
        "tokenizer": {"config": dataclasses.asdict(TOKENIZER), "fingerprint": "t"},
        "decoder": {
            "config": dataclasses.asdict(DECODER),
            "class_names": NAMES,
            "label_drop": 0.1,
            "tokenizer": "t",
            "fingerprint": "d",
        },
    }
    for kind, fields in about.items():
        write(tmp_path / "models" / kind / "model", {"kind": kind} | fields, "of 2b4e48e")
    monkeypatch.setattr(build, "sampler", lambda *_: Noise())
    return tmp_path / "models"


def write(model, about, data):
    """A model directory; Orbax draws the names of the files of parameters."""
    shutil.rmtree(model, ignore_errors=True)
    (model / "params/d").mkdir(parents=True)
    (model / "params/d" / data).touch()
    (model / "model.json").write_text(json.dumps(plain(about)))


@pytest.fixture
def config(models):
    config = digits.get_config()
    config.checkpoint = str(models)
    config.sample.update(count=1, steps=6)
    config.evaluate.steps = 6
    return config.lock()


def files(directory):
    return {p: p.stat().st_mtime_ns for p in directory.rglob("*") if p.is_file()}


def test_each_setting_of_a_model_has_an_evaluation(config, tmp_path):
    """Without figures of a tokenizer, which was not trained here."""
    run = tmp_path / "run"
    first = evaluate.run(config, run)
    assert "not trained here" in first["tokenizer"]["absent"]
    (place,) = (file.parent for file in (run / "report").glob("*/report.json"))
    assert place.name.startswith("locality-6steps-cfg1.8-t0.95-seed0-")
    before, old_page = files(place), (run / "report/report.html").read_text()
    config.sample.guidance = 3.0
    second = evaluate.run(config, run)
    assert second["samples"]["settings"]["guidance"] == 3.0
    assert files(place) == before
    found = {file.parent.name: file for file in (run / "report").glob("*/report.json")}
    (other,) = set(found) - {place.name}
    assert json.loads(found[other].read_text()) == json.loads(json.dumps(second))
    assert (run / "report/report.json").read_bytes() == found[other].read_bytes()
    assert (run / "report/report.html").read_text() != old_page
    assert f"]({other}/generated.png)" in (run / "report/report.md").read_text()
    config.sample.update(batch_size=7, segments=2, labels=(1,), count=9)  # which decide nothing
    evaluate.run(config, run)
    assert {file.parent.name for file in (run / "report").glob("*/report.json")} == set(found)
    config.data.size = 16
    with pytest.raises(InputError, match=r"data\.size=16, and the images to judge have 32x32"):
        evaluate.run(config, run)


def test_images_are_named_by_their_model(config, models, tmp_path):
    config.sample.labels = ("3", "seven")
    first = sample.run(config, tmp_path)
    assert first.name.startswith("locality-6steps-cfg1.8-t0.95-seed0-3+seven-")
    assert np.load(first / "samples.npz")["labels"].tolist() == [3, 7]
    assert json.loads((first / "config.json").read_text())["config"]["sample"]["count"] == 1
    before = files(first)
    config.sample.update(batch_size=2, segments=3, labels=(3, 7))
    assert sample.run(config, tmp_path) == first and files(first) == before

    # Trained again.
    about = json.loads((models / "decoder/model/model.json").read_text())
    write(models / "decoder/model", about | {"fingerprint": "e"}, "of today")
    second = sample.run(config, tmp_path)
    assert second != first and files(first) == before
    page = (tmp_path / "samples/index.html").read_text()
    assert page.count("<img") == 2 and first.name in page and "sample.guidance = 1.8" in page

    # Written before decoders had fingerprints: each writing is a model of its own, a copy is not.
    del about["fingerprint"]
    write(models / "decoder/model", about, "a5")
    third = sample.run(config, tmp_path)
    shutil.copytree(models, tmp_path / "copy")
    write(models / "decoder/model", about, "b7")
    fourth = sample.run(config, tmp_path)
    config.checkpoint = str(tmp_path / "copy")
    assert sample.run(config, tmp_path) == third and len({first, second, third, fourth}) == 4


def test_a_full_disk_leaves_no_samples(config, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(InputError, match=r"No space left on device.* nothing of it was kept"):
        sample.run(config, tmp_path)
    assert list((tmp_path / "samples").iterdir()) == []
    with pytest.raises(InputError, match=r"report/looks cannot be written .No space left"):
        evaluate.run(config, tmp_path)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (("sevne",), "no class is named 'sevne'; did you mean 'seven'"),
        ((11,), "label 11 is out of range"),
        ((1.5,), "label=1.5 must be a whole number"),
    ],
)
def test_labels_that_are_none_are_refused(config, tmp_path, labels, says):
    config.sample.labels = labels
    with pytest.raises(InputError, match=says):
        sample.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
