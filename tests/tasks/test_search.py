"""The search judges every combination once, and says how to judge the best."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from lpd_jax.errors import InputError
from lpd_jax.tasks import build, measuring, search
from tests.evaluation.test_units import network
from tests.tasks import models

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    models.save(models.tiny(), place)
    (place / "real").mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"real/{i}.png")
    return place


def config(**search_fields):
    tiny = models.tiny()
    tiny.search.update(num_images=64, **search_fields)
    tiny.evaluate.num_images = 64
    return tiny


def test_every_combination_is_judged_once(workdir, monkeypatch, caplog):
    monkeypatch.setattr(measuring, "network", lambda path: network(side=32))
    monkeypatch.setattr("sys.argv", ["lpd", "search", "--config=x", "--config.search.guidances=2"])
    some = config(guidances=(1.0, 2.0, 3.0), temperatures=(0.5, 1.0))
    some.evaluate.update(inception="weights", reference=str(workdir / "real"))
    with caplog.at_level(logging.INFO):
        directory = search.run(some, workdir)
    found = json.loads((directory / "search.json").read_text())
    tried = [(row["guidance"], row["temperature"]) for row in found["rows"]]
    assert tried == [(g, t) for g in (1.0, 2.0, 3.0) for t in (0.5, 1.0)]
    best = min(found["rows"], key=lambda row: row["fid"])
    assert found["best"] == best and len({row["fid"] for row in found["rows"]}) == 6
    assert f"--config.sample.guidance={best['guidance']:g}" in caplog.text
    assert (directory / "search.md").read_text().count("\n") == 10
    with Image.open(directory / "search.png") as curve:
        assert np.ptp(np.asarray(curve.convert("L"))) > 50

    last = json.loads((workdir / "report/report.json").read_text())
    assert last["fid"]["value"] == best["fid"] and last["evaluation"]["count"] == 64
    assert last["evaluation"]["sampling"]["guidance"] == best["guidance"]

    monkeypatch.setattr(build, "sampler", None)  # nothing is made again
    search.run(some, workdir)
    assert json.loads((directory / "search.json").read_text()) == found


def test_without_weights_the_judge_chooses(workdir):
    before = {*workdir.glob("report/*/report.json")}
    directory = search.run(config(repulsions=(0.0, 1.0), final=False), workdir)
    found = json.loads((directory / "search.json").read_text())
    assert found["metric"] == "frechet" and len(found["rows"]) == 2
    assert found["best"]["frechet"] == min(row["frechet"] for row in found["rows"])
    assert {*workdir.glob("report/*/report.json")} == before


def test_a_search_by_fid_needs_a_reference(workdir, monkeypatch):
    monkeypatch.setattr(measuring, "network", lambda path: network(side=32))
    some = config(guidances=(1.0, 2.0))
    some.evaluate.inception = "weights"
    with pytest.raises(InputError, match="needs a reference"):
        search.run(some, workdir)
    some.evaluate.num_images = 0
    with pytest.raises(InputError, match="on how many images the best is to be judged"):
        search.run(some, workdir)


def test_the_last_command_is_that_of_the_search_with_the_best_settings():
    given = ["lpd", "search", "--config=lpd_256:L", "--config.search.guidances=3,4"]
    given += ["--config.sample.guidance=2", "--config.evaluate.inception=w.pth"]
    best = {"guidance": 4.0, "temperature": 0.95, "repulsion": 2.0, "fid": 3.0}
    assert search.final(given, best).split() == [
        *("lpd", "evaluate", "--config=lpd_256:L", "--config.evaluate.inception=w.pth"),
        "--config.sample.guidance=4",
        "--config.sample.temperature=0.95",
        "--config.sample.repulsion=2",
    ]
