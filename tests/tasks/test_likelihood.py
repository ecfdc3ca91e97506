"""The likelihood task on a tiny model: its rows, pictures, and what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image

from lpd_jax.configs import base
from lpd_jax.data.codes import load_codes
from lpd_jax.errors import InputError
from lpd_jax.evaluation.fitting import group_costs
from lpd_jax.evaluation.likelihood import by_order, token_bits
from lpd_jax.generation import field
from lpd_jax.generation.groups import group_sizes, step_of
from lpd_jax.generation.validity import first_field_violation
from lpd_jax.tasks import build, check, encode, fit_order, fit_schedule, likelihood, sample
from lpd_jax.trained import load_decoder
from tests.tasks import models


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for low in (0, 128):
        (path / f"from {low}").mkdir()
        for i, image in enumerate(rng.integers(low, low + 128, (40, 16, 16, 3), np.uint8)):
            Image.fromarray(image).save(path / f"from {low}" / f"{i}.png")
    config = base.get_config()
    config.data.update(path=str(path), size=16)
    sizes = {"ch": 8, "ch_mult": (1, 1, 1), "z_channels": 8, "norm_groups": 4, "codebook_size": 16}
    config.tokenizer.update(sizes)
    config.decoder.update(width=16, depth=1, heads=2, dtype="float32")
    config.likelihood.update(
        orders=("locality", "random", "raster"), repulsions=(1.0, 2.0), steps=(16, 4), draws=2
    )
    return config.lock()


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    models.save(config, workdir, ("from 0", "from 128"))
    encode.run(config, workdir)
    return workdir


def test_rows_table_and_pictures(config, workdir, one_device_mesh):
    directory = likelihood.run(config, workdir)
    rows = json.loads((directory / "likelihood.json").read_text())
    assert [(r["order"], r["repulsion"], r["steps"]) for r in rows] == [
        *(("locality", r, s) for s in (16, 4) for r in (1.0, 2.0)),
        *((name, None, s) for name in ("random", "raster") for s in (16, 4)),
    ]
    arrays = load_codes(workdir / "codes", "heldout")
    count = len(arrays["label"])
    assert {(r["images"], r["draws"]) for r in rows} == {(count, 2)}
    # Raster has one order, so that its bits can be computed here.
    network, params, _ = load_decoder(workdir / "decoder/model", one_device_mesh)
    for row in rows[-2:]:
        sizes = group_sizes(16, row["steps"])
        assert tuple(row["group_sizes"]) == sizes
        given = np.tile(np.arange(16, dtype=np.int32), (count, 1))
        codes = arrays["codes"][:, 0]
        bits = np.asarray(
            token_bits(network, params, codes, arrays["label"], given, step_of(sizes))
        )
        assert row["bits_per_token"] == pytest.approx(bits.mean(), rel=1e-5)
        assert row["standard_error"] == 0
        assert row["standard_error_images"] == pytest.approx(
            bits.mean(-1).std(ddof=1) / np.sqrt(count), rel=1e-3
        )
    for row in rows:
        own = [r for r in rows if (r["order"], r["repulsion"]) == (row["order"], row["repulsion"])]
        single = next(r for r in own if r["steps"] == 16)
        price = row["bits_per_token"] - single["bits_per_token"]
        assert row["price_of_parallelism"] == pytest.approx(price, abs=1e-12)
        best = min(r["bits_per_token"] for r in rows if r["steps"] == row["steps"])
        assert row["against_best"] == pytest.approx(row["bits_per_token"] - best, abs=1e-9)
    table = (directory / "likelihood.md").read_text()
    # At one token a step the repulsion decides nothing, so that two may be the best.
    least = [row for row in rows if row["against_best"] == 0]
    assert "| order \\ steps | 16 | 4 |" in table and table.count("**") == 2 * len(least)
    for picture in ("bits.png", "pareto.png", "steps.png", "cells.png"):
        assert np.asarray(Image.open(directory / picture).convert("L")).std() > 5
    before = (directory / "likelihood.json").stat().st_mtime_ns
    assert likelihood.run(config, workdir) == directory
    assert (directory / "likelihood.json").stat().st_mtime_ns == before


def test_results_do_not_depend_on_the_batch_and_are_few_when_asked(config, workdir):
    other = config.copy_and_resolve_references()
    other.sample.batch_size = 8
    other.likelihood.update(orders=("random",), images=5)
    first = likelihood.run(other, workdir)
    rows = json.loads((first / "likelihood.json").read_text())
    assert {r["images"] for r in rows} == {5}
    whole = likelihood.schedules(other, 16)
    other.sample.batch_size = 64
    scores = likelihood._measure(other, workdir, whole, likelihood.scored_cells((), (4, 4)))
    for row, score in zip(rows, scores, strict=True):
        assert row["bits_per_token"] == pytest.approx(score.bits_per_token, abs=1e-6)


def test_cells_in_a_box_are_scored_in_view_of_all_others(config, workdir):
    other = config.copy_and_resolve_references()
    other.likelihood.update(orders=("raster",), images=5, draws=1, steps=(4,), box=(0, 2, 4, 4))
    directory = likelihood.run(other, workdir)
    (row,) = json.loads((directory / "likelihood.json").read_text())
    assert sum(row["group_sizes"]) == 8  # of 16 cells
    whole = likelihood.scored_cells((), (4, 4))
    other.likelihood.box = ()
    (alone,) = likelihood._measure(other, workdir, likelihood.schedules(other, 16), whole)
    assert row["bits_per_token"] != pytest.approx(alone.bits_per_token, abs=1e-3)
    assert "cells in the box (0, 2, 4, 4)" in (directory / "likelihood.md").read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"orders": ("spiral",)}, "spiral"),
        ({"orders": ()}, "at least one"),
        ({"steps": (17,)}, "at least one"),
        ({"steps": (0,)}, r"likelihood\.steps=0"),
        ({"repulsions": (-1.0,)}, r"likelihood\.repulsions"),
        ({"split": "test"}, r"likelihood\.split"),
        ({"draws": 0}, r"likelihood\.draws"),
        ({"box": (0, 0, 5, 5)}, r"likelihood\.box: .*leaves the image"),
    ],
)
def test_what_cannot_be_measured_is_refused(config, workdir, change, words):
    other = config.copy_and_resolve_references()
    with other.unlocked():
        other.likelihood.update(change)
    with pytest.raises(InputError, match=words):
        check.config(other, "likelihood")
        likelihood.run(other, workdir)


def test_codes_of_another_tokenizer_are_refused(config, workdir, monkeypatch):
    about = build.about(config, workdir) | {"tokenizer": "another"}
    monkeypatch.setattr(build, "about", lambda *_: about)
    with pytest.raises(InputError, match="another tokenizer's"):
        likelihood.run(config, workdir)


def test_fitted_group_sizes_are_taken_by_sampling(config, workdir):
    other = config.copy_and_resolve_references()
    other.fit_schedule.update(steps=(3, 5), images=20, rounds=2)
    other.sample.update(order="random", steps=5)
    file = fit_schedule.run(other, workdir)
    found = json.loads(file.read_text())
    assert list(found) == ["3", "5"]
    for steps, row in found.items():
        sizes = row["group_sizes"]
        assert (len(sizes), sum(sizes)) == (int(steps), 16) and min(sizes) > 0
        assert row["bits_per_token"] <= min(row["cosine"], row["uniform"])
    assert (file.parent / "sizes.png").is_file() and (file.parent / "schedule.md").is_file()
    other.sample.group_schedule = str(file)
    check.config(other, "sample")
    assert list(build.group_sizes(other.sample, 16)) == found["5"]["group_sizes"]
    # A model's defaults hold the sizes, and need no file.
    assert list(build.sampling_defaults(other)["group_sizes"]) == found["5"]["group_sizes"]
    samples = np.load(sample.run(other, workdir) / "samples.npz")
    assert samples["group_sizes"].tolist() == found["5"]["group_sizes"]
    other.sample.steps = 16
    assert build.group_sizes(other.sample, 16) == (1,) * 16
    other.sample.steps = 4
    with pytest.raises(InputError, match=r"for 3, 5 steps, not for 4; .*steps=4"):
        build.group_sizes(other.sample, 16)
    with pytest.raises(InputError, match="not for 4"):
        check.config(other, "train")  # not at its end, when the model is written
    other.sample.group_sizes = (16,)
    assert build.sampling_defaults(other)["group_sizes"] == (16,)
    other.sample.group_sizes = ()
    other.sample.group_schedule = str(workdir / "decoder/model/model.json")
    with pytest.raises(InputError, match="no file of fit_schedule"):
        build.group_sizes(other.sample, 16)
    other.sample.group_schedule = "square"
    with pytest.raises(InputError, match="'cosine' or 'uniform', or a file"):
        check.config(other, "sample")


def test_a_field_is_measured_sampled_by_and_scored(config, workdir):
    other = config.copy_and_resolve_references()
    other.fit_order.images = 12
    file = fit_order.run(other, workdir)
    found = np.load(file)
    assert found.shape == (16, 16) and (found >= 0).all() and (found == found.T).all()
    assert found.max() > 0 and np.asarray(Image.open(file.with_name("field.png"))).std() > 5
    assert fit_order.run(other, workdir) == file
    other.sample.update(order_field=str(file), steps=4)
    check.config(other, "sample")
    directory = sample.run(other, workdir)
    assert directory.name.startswith("field-4steps")
    rule = field.fixed_point(found, 0.0)
    orders = np.load(directory / "samples.npz")["orders"]
    assert (first_field_violation(orders, group_sizes(16, 4), *rule) == -1).all()
    # Its group sizes are fitted, and all of them are scored beside each other.
    other.fit_schedule.update(steps=(4,), images=12, rounds=1)
    sizes = fit_schedule.run(other, workdir)
    assert sizes.parent.name.startswith("field-")
    asked = ("random", "random:uniform", "field", f"field:{sizes}")
    other.likelihood.update(orders=asked, steps=(4,))
    check.config(other, "likelihood")
    rows = json.loads((likelihood.run(other, workdir) / "likelihood.json").read_text())
    assert [(r["order"], r["groups"]) for r in rows] == [
        *(("random", "cosine"), ("random", "uniform"), ("field", "cosine"), ("field", "fitted"))
    ]
    assert rows[1]["group_sizes"] == [4] * 4
    assert rows[3]["group_sizes"] == json.loads(sizes.read_text())["4"]["group_sizes"]
    labels = [line[0] for line in by_order(rows, "{}")[1]]
    assert labels == ["random", "random, uniform", "field", "field, fitted"]


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        ("likelihood", {"orders": ("field",)}, "needs a file of fit_order"),
        ("likelihood", {"orders": ("random:square",)}, "'cosine' or 'uniform', or a file of fit_s"),
        ("sample", {"order_field": "none.npy"}, r"sample\.order_field: there is no field"),
        ("sample", {"order_field": "a.npy", "order_file": __file__}, "empty one of them"),
        ("fit_order", {"images": -1}, r"fit_order\.images=-1"),
    ],
)
def test_fields_and_groups_that_there_are_not_are_refused(config, workdir, section, change, words):
    other = config.copy_and_resolve_references()
    other[section].update(change)
    with pytest.raises(InputError, match=words):
        check.config(other, "likelihood")
        likelihood.run(other, workdir)


def test_nothing_worse_than_what_it_began_with_is_kept():
    """Of made-up bits under which uniform groups are best, and a fit that is misled."""

    def bits(orders, step_of):
        sizes = np.bincount(step_of)
        uneven = sizes.std() * 0.1
        return np.full((3, 12), 1 + uneven) + (step_of > 1) * (len(sizes) > 3)

    drawn = lambda sizes: np.tile(np.arange(12), (3, 1))  # noqa: E731
    costs = lambda sizes: group_costs(bits, drawn(sizes), sizes)  # noqa: E731
    best, met = fit_schedule.fit(bits, drawn, costs, [(1, 4, 7), (4, 4, 4)], 3)
    assert best == min(met, key=met.get) == (4, 4, 4)
    assert met[best] <= min(met[(1, 4, 7)], met[(4, 4, 4)])
