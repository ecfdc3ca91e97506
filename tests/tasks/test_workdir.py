"""What a workdir compares: only what decides a result, with defaults for what came later."""

import json
import sys

import pytest

from lpd_jax.configs import base, digits
from lpd_jax.errors import InputError
from lpd_jax.tasks import build, results
from lpd_jax.tasks.workdir import claim, digest

# `settings.json` of a decoder, as commit 2b4e48e wrote it for the digits.
OLD = {
    "seed": 0,
    "decoder": {
        "depth": 4,
        "dropout": 0.0,
        "dtype": "float32",
        "heads": 4,
        "unroll": 4,
        "width": 128,
    },
    "train": {
        "batch_size": 64,
        "clip_norm": 3.0,
        "decay_start": 400,
        "ema_decay": 0.0,
        "group_schedule": "cosine",
        "label_drop": 0.1,
        "learning_rate": 0.002,
        "min_learning_rate": 1e-05,
        "schedule": "constant+cosine",
        "schedules": [64, 32, 24, 16, 12, 10, 8, 6],
        "steps": 800,
        "warmup_steps": 50,
        "weight_decay": 0.02,
    },
    "tokenizer": "0a17cf99dfa6fc68",
}


@pytest.fixture
def old(tmp_path):
    """A directory in which something was made under those settings."""
    (tmp_path / "settings.json").write_text(json.dumps(OLD))
    (tmp_path / "figures.json").write_text("{}")
    return tmp_path


@pytest.fixture
def newer(monkeypatch):
    """A software whose configs have two more fields."""
    plain = base.get_config

    def get_config():
        config = plain()
        config.train.invented = 3
        config.decoder.invented = ""
        return config

    monkeypatch.setattr(base, "get_config", get_config)
    return digits.get_config()


def settings(config):
    return {"seed": config.seed, "decoder": config.decoder, "train": build.lasting(config.train)}


def test_a_field_that_came_later_counts_as_its_default(old, newer):
    before = (old / "settings.json").read_text()
    claim(old, settings(newer))
    assert (old / "settings.json").read_text() == before
    newer.train.invented = 4
    with pytest.raises(InputError, match=r"train\.invented was 3, now 4"):
        claim(old, settings(newer))
    newer.train.update(invented=3, learning_rate=0.1)
    with pytest.raises(InputError, match=r"train\.learning_rate was 0\.002, now 0\.1"):
        claim(old, settings(newer))


def test_what_is_no_longer_named_is_passed_over(old):
    train = {name: value for name, value in OLD["train"].items() if name != "steps"}
    before = (old / "settings.json").read_text()
    assert claim(old, OLD | {"train": train}) == old
    assert (old / "settings.json").read_text() == before


def test_a_field_that_came_later_renames_no_result(newer, monkeypatch):
    def named():
        section = digits.get_config().sample
        return results.name({"seed": 0, "sample": build.deciding(section)}, 10, labels=())

    with_it = named()
    plain = base.get_config

    def later():
        config = plain()
        config.sample.invented = 1
        return config

    monkeypatch.setattr(base, "get_config", later)
    assert digits.get_config().sample.invented == 1
    assert named() == with_it
    assert digest({"sample": {"invented": 1}}) != digest({"sample": {"invented": 2}})


def test_how_images_are_computed_names_nothing():
    config = digits.get_config()
    before = build.deciding(config.sample)
    config.sample.update(batch_size=7, segments=3, labels=(1,), count=9)
    assert build.deciding(config.sample) == before
    config.sample.guidance = 2.0
    assert build.deciding(config.sample) != before


def test_the_whole_config_lies_beside_the_settings(tmp_path):
    config = digits.get_config()
    claim(tmp_path / "x", {"seed": 0}, config)
    found = json.loads((tmp_path / "x/config.json").read_text())
    assert found["config"]["train"]["schedules"] == list(config.train.schedules)
    assert found["command"] == sys.argv and {"jax", "numpy", "python"} <= set(found["versions"])
    config.seed = 1
    # Nothing was made yet, so other settings may take the directory; then their config is there.
    claim(tmp_path / "x", {"seed": 1}, config)
    assert json.loads((tmp_path / "x/config.json").read_text())["config"]["seed"] == 1


def test_names_are_for_people():
    section = build.deciding(digits.get_config().sample)
    settings = {"seed": 3, "model": "abc", "sample": section}
    name = results.name(settings, 10, labels=["3", "a cat/dog of many words"])
    assert name.startswith("locality-10steps-cfg1.8-t0.95-seed3-3+a_cat_dog_of-")
    assert "-0+1+2+2more-" in results.name(settings, 10, labels=list("01234"))
    other = results.name(settings | {"model": "abd"}, 10, labels=["3", "a cat/dog of many words"])
    assert other != name and other.rsplit("-", 1)[0] == name.rsplit("-", 1)[0]


def test_a_full_disk_leaves_nothing_and_is_one_sentence(tmp_path):
    config = digits.get_config()
    (tmp_path / "r").mkdir()
    (tmp_path / "r/settings.json").write_text("{}")  # of a run that was cut short
    full = pytest.raises(InputError, match=r"r cannot be written \(No space left on device\)")
    with full, results.directory(tmp_path / "r", {}, config, "last.png") as partial:
        (partial / "first.npz").write_bytes(b"1")
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []
    with results.directory(tmp_path / "r", {"seed": 1}, config, "last.png") as partial:
        (partial / "last.png").write_bytes(b"1")
    assert sorted(f.name for f in (tmp_path / "r").iterdir()) == [
        *("config.json", "last.png", "settings.json")
    ]
    results.index(tmp_path, "last.png")
    page = (tmp_path / "index.html").read_text()
    assert 'src="r/last.png"' in page and "seed = 1" in page
