"""Ablations: the list of diffs, what is measured once, and the table; with networks of no worth."""

import csv
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from lpd_jax.configs import digits
from lpd_jax.configs.ablations import attention, orders, thresholds
from lpd_jax.data.codes import load_codes
from lpd_jax.errors import InputError
from lpd_jax.evaluation.judge import fit_judge
from lpd_jax.generation.groups import group_sizes, step_of
from lpd_jax.generation.orders import Random
from lpd_jax.sampler import draw_orders
from lpd_jax.tasks import ablate, build, sample
from lpd_jax.trained import load_decoder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two classes of 60 images, dark and bright noise."""
    path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for low in (0, 128):
        (path / f"from {low}").mkdir()
        for i, image in enumerate(rng.integers(low, low + 128, (60, 16, 16, 3), np.uint8)):
            Image.fromarray(image).save(path / f"from {low}" / f"{i}.png")
    return str(path)


def tiny(pictures, module=orders, seeds=(0, 1)):
    config = module.get_config()
    config.data.update(source="folder", path=pictures, size=16)
    config.tokenizer.update(ch=8, ch_mult=(1, 1, 1), z_channels=8, norm_groups=4)
    config.train_tokenizer.update(steps=2, batch_size=16, warmup_steps=1)
    config.encode.update(batch_size=256)
    config.decoder.update(width=16, depth=1, heads=2, unroll=1)
    config.train.update(
        steps=2, batch_size=16, warmup_steps=1, decay_start=1, schedules=(16, 4), log_every=1
    )
    config.sample.update(guidance=1.0, steps=4)
    config.ablation.seeds = seeds
    return config.lock()


def first_orders(config):
    """Two orders at two numbers of steps."""
    config.ablation.variants = tuple(
        (order, {"sample.order": order, "sample.steps": steps})
        for order in ("raster", "random")
        for steps in (4, 3)
    )
    return config


@pytest.fixture(scope="module")
def shared(pictures, tmp_path_factory):
    """A workdir in which an ablation has trained what its variants share."""
    workdir = tmp_path_factory.mktemp("shared")
    config = first_orders(tiny(pictures, seeds=(7,)))
    config.ablation.variants = config.ablation.variants[:1]
    assert len(results(ablate.run(config, workdir))) == 1
    return workdir


@pytest.fixture
def config(pictures, shared):
    config = first_orders(tiny(pictures))
    config.checkpoint = str(shared)
    return config


def results(directory):
    return {path: path.read_bytes() for path in (directory / "results").iterdir()}


def test_one_by_index_then_the_rest(config, tmp_path):
    """Jobs of an array measure one variant each; what is there is not measured again."""
    config.ablation.only = 2
    directory = ablate.run(config, tmp_path)
    first = results(directory)
    assert sorted(path.name[:14] for path in first) == ["random-4-seed0", "random-4-seed1"]
    assert "2 of 8 results" in (directory / "table.md").read_text()

    # A result that is there is believed, so a mark in it shows that it is not made again.
    for path, text in first.items():
        path.write_text(json.dumps(json.loads(text) | {"class_accuracy": 0.75}))
    config.ablation.only = -1
    assert ablate.run(config, tmp_path) == directory
    second = results(directory)
    assert len(second) == 8 and "8 of 8 results" in (directory / "table.md").read_text()
    assert all(json.loads(second[path])["class_accuracy"] == 0.75 for path in first)
    with (directory / "table.csv").open() as file:
        rows = {(row["name"], row["sample.steps"]): row for row in csv.DictReader(file)}
    assert len(rows) == 4 and {row["seeds"] for row in rows.values()} == {"2"}
    assert float(rows["random", "4"]["class_accuracy"]) == 0.75
    assert float(rows["random", "4"]["class_accuracy_se"]) == 0
    seeds = [json.loads(second[path])["frechet_ratio"] for path in first]
    ratio, error = (float(rows["random", "4"][f"frechet_ratio{end}"]) for end in ("", "_se"))
    assert ratio == pytest.approx(np.mean(seeds), rel=1e-5)
    assert error == pytest.approx(abs(seeds[0] - seeds[1]) / 2, rel=1e-4)
    with Image.open(directory / "plot.png") as image:
        assert np.ptp(np.asarray(image.convert("L"))) > 50


def test_a_result_is_what_sampling_with_its_settings_gives(config, pictures, shared, tmp_path):
    """Fields of the diff reach the sampler, and image i is the image i of `sample`."""
    config.ablation.update(only=3, seeds=(5,))
    directory = ablate.run(config, tmp_path)
    (text,) = results(directory).values()
    result = json.loads(text)
    assert (result["name"], result["x"], result["seed"]) == ("random", 3, 5)
    assert result["settings"]["sample"]["order"] == "random"
    assert result["settings"]["sample"]["steps"] == 3

    again = tiny(pictures)
    again.seed = 5
    again.checkpoint = str(shared)
    labels = build.labelled_images(again.data, "heldout")[1]
    again.sample.update(order="random", steps=3, labels=tuple(labels.tolist()), count=1)
    images = np.load(sample.run(again, tmp_path) / "samples.npz")["images"]
    judge = fit_judge(*(build.labelled_images(again.data, s) for s in ("train", "heldout")))
    assert result["class_accuracy"] == judge.class_accuracy(judge.look(images), labels)
    assert result["frechet"] == pytest.approx(judge.frechet(judge.look(images)), rel=1e-9)


def test_a_result_has_the_bits_of_the_held_out_codes(config, shared, tmp_path):
    """In the order and groups of the variant, by a forward pass that shares no code with it."""
    config.ablation.update(only=3, seeds=(5,))
    (text,) = results(ablate.run(config, tmp_path)).values()
    decoder, params, _ = load_decoder(shared / "decoder/model", build.mesh(config))
    codes = load_codes(shared / "codes", "heldout")
    tokens, sizes = codes["codes"][:, 0], group_sizes(16, 3)
    order = draw_orders(Random(), jax.random.key(5), np.arange(len(tokens)), (4, 4), sizes)
    logits = decoder.apply({"params": params}, tokens, codes["label"], order, step_of(sizes))
    target = np.take_along_axis(tokens, np.asarray(order), 1)[..., None]
    bits = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), target, 2) / np.log(2)
    assert json.loads(text)["nll_bits"] == pytest.approx(bits.mean(), abs=1e-4)


def test_without_codes_the_bits_are_left_out(config, shared, tmp_path):
    for part in ("tokenizer", "decoder"):
        shutil.copytree(shared / part / "model", tmp_path / "models" / part / "model")
    config.checkpoint = str(tmp_path / "models")
    config.ablation.update(only=0, seeds=(0,))
    directory = ablate.run(config, tmp_path)
    (text,) = results(directory).values()
    assert json.loads(text)["nll_bits"] is None
    assert "nll_bits" not in (directory / "table.csv").read_text()


def test_a_decoder_that_was_trained_again_is_measured_again(config, shared, tmp_path):
    for part in ("tokenizer", "decoder"):
        shutil.copytree(shared / part / "model", tmp_path / "models" / part / "model")
    config.checkpoint = str(tmp_path / "models")
    config.ablation.update(only=0, seeds=(0,))
    first = results(ablate.run(config, tmp_path))
    assert len(first) == 1
    config.sample.batch_size = 7  # decides no figure
    assert results(ablate.run(config, tmp_path)) == first
    model = tmp_path / "models/decoder/model/model.json"
    model.write_text(json.dumps(json.loads(model.read_text()) | {"fingerprint": "1" * 16}))
    assert len(results(ablate.run(config, tmp_path))) == 2


def test_retraining_variants_have_decoders_of_their_own(pictures, shared, tmp_path):
    config = tiny(pictures, attention, seeds=(0,))
    config.checkpoint = str(shared)
    config.ablation.only = 3
    directory = ablate.run(config, tmp_path)
    (model,) = (tmp_path / "ablations/models").glob("*/decoder/model/model.json")
    about = json.loads(model.read_text())["config"]
    assert about["query_attention"] == "independent" and about["context_attention"] == "causal"
    (result,) = results(directory)
    trained = model.stat().st_mtime_ns
    result.unlink()
    ablate.run(config, tmp_path)
    assert list(results(directory)) == [result] and model.stat().st_mtime_ns == trained


def test_jobs_of_an_array_do_not_train_what_they_share(pictures, tmp_path):
    config = first_orders(tiny(pictures))
    config.ablation.only = 0
    with pytest.raises(InputError, match="which all variants share; run the pipeline"):
        ablate.run(config, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("diff", "says"),
    [
        ({"sample.stepz": 4}, "sets sample.stepz=4, which the config has no such field for"),
        ({"sample.steps": "few"}, "sets sample.steps='few'"),
        ({"sample": 3}, "sets sample=3"),
        ({"sample.order": "spiral"}, "order='spiral' must be one of"),
        ({"sample.steps": 17}, "17 steps"),
        ({"decoder.width": 32}, "sets decoder.width, which all variants share"),
        ({"tokenizer.ch": 16}, "or set ablation.retrain"),
    ],
    ids=str,
)
def test_bad_diffs_are_refused(config, tmp_path, diff, says):
    config.ablation.variants = (("good", {}), ("bad", diff))
    with pytest.raises(InputError, match=says):
        ablate.run(config, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("only", 4, "only=4 must be a number from 0 to 3"),
        ("x", "sample.stepz", "ablation.x='sample.stepz' is no field"),
        ("x", "sample.steps.more", "is no field"),
        ("seeds", (), "must each hold at least one"),
        ("seeds", (1, 1), "two variants are 'raster' at sample.steps=4 with seed 1"),
    ],
)
def test_bad_lists_are_refused(config, tmp_path, field, value, says):
    config.ablation[field] = value
    with pytest.raises(InputError, match=says):
        ablate.run(config, tmp_path)


def test_a_config_without_an_ablation_is_refused(tmp_path):
    with pytest.raises(InputError, match="configs/ablations"):
        ablate.run(digits.get_config(), tmp_path)


@pytest.mark.parametrize(
    ("module", "count"), [(orders, 63), (thresholds, 16), (attention, 4)], ids=str
)
def test_ready_ablations_can_be_read(module, count, tmp_path):
    config = module.get_config().lock()
    variants = [ablate.read_variant(config, tmp_path, i, 0) for i in range(count)]
    assert len(config.ablation.variants) == count == len({v.file for v in variants})
    for variant in variants:
        build.order(variant.config.sample)
        assert sum(build.group_sizes(variant.config.sample, 64)) == 64
