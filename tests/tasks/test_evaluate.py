"""Any number of images, judged by a network or by a judge: the same figures however they come."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from lpd_jax import parallel
from lpd_jax.data import image_sets
from lpd_jax.errors import InputError
from lpd_jax.evaluation import keeping, pixels, reconstruction, units
from lpd_jax.evaluation.distances import frechet
from lpd_jax.evaluation.looking import Extractor, FeatureNetwork
from lpd_jax.evaluation.reference import Reference
from lpd_jax.evaluation.reference import write as write_reference
from lpd_jax.models.tokenizer import to_uint8
from lpd_jax.pixels import to_unit
from lpd_jax.tasks import build, evaluate, judging, measuring, reference
from lpd_jax.trained import load_tokenizer
from tests.evaluation.test_units import network
from tests.tasks import models

FIGURES = ("fid", "sfid", "inception_score", "inception_score_adm", "precision", "recall")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    models.save(models.tiny(), place)
    rng = np.random.default_rng(0)
    (place / "real").mkdir()
    for i in range(60):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"real/{i}.png")
    return place


@pytest.fixture
def small(monkeypatch):
    """A network of few features in place of Inception-v3, and small units."""
    monkeypatch.setattr(measuring, "network", lambda path: network(side=32))
    monkeypatch.setattr(units, "UNIT", 128)


def run(workdir, out, batch_size=64, devices=8, **fields):
    """An evaluation of the models of `workdir`; its report and where it is."""
    config = models.tiny()
    config.checkpoint = str(workdir)
    config.sample.batch_size = batch_size
    config.evaluate.update(inception="weights.npz", reference=str(workdir / "real"), keep="npz")
    for name, value in fields.items():
        section, _, field = name.partition("_")
        config[section][field] = value
    with pytest.MonkeyPatch.context() as patch:
        if devices != 8:
            some = jax.devices()[:devices]
            patch.setattr(jax, "local_devices", lambda: some)
            mesh = parallel.make_mesh(parallel.MeshConfig(), some)
            patch.setattr(build, "sample_mesh", lambda config: mesh)
        report = evaluate.run(config, out)
    (directory,) = (file.parent for file in out.glob("report/*/report.json"))
    return report, directory


def images(directory):
    with np.load(directory / "images.npz") as found:
        return found["arr_0"]


@pytest.fixture(scope="module")
def whole(workdir, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "network", lambda path: network(side=32))
        patch.setattr(units, "UNIT", 128)
        return run(workdir, tmp_path_factory.mktemp("whole"))


def test_the_report_says_how_each_figure_came_about(whole):
    directory = whole[1]
    written = json.loads((directory / "report.json").read_text())
    for name in FIGURES:
        figure = written[name]
        assert np.isfinite(figure["value"]) and np.isfinite(figure["error"])
        assert figure["weights"] == "seed 0" and figure["published"] is None
    about = written["evaluation"]
    assert about["count"] == 300 and about["checkpoint"] == written["model"]
    assert about["sampling"]["guidance"] == 1.8 and "round" in about["rounding"]
    assert written["device"] and written["reference"]["count"] == 60
    page = (directory / "report.md").read_text()
    assert "| FID |" in page and "± error" in page
    with Image.open(directory / "generated.png") as sheet:
        assert np.ptp(np.asarray(sheet)) > 50


def test_classes_are_alike_and_in_order():
    assert measuring.balanced(50, 5).tolist() == sorted([0, 1, 2, 3, 4] * 10)
    assert np.bincount(measuring.balanced(13, 5)).tolist() == [3, 3, 3, 2, 2]


@pytest.mark.parametrize(("size", "devices"), [(1, 1), (7, 1)])
def test_neither_batches_nor_devices_change_images_or_figures(
    workdir, whole, small, tmp_path, size, devices
):
    report, directory = run(workdir, tmp_path, size, devices)
    np.testing.assert_array_equal(images(directory), images(whole[1]))
    for name in FIGURES:
        assert report[name]["value"] == pytest.approx(whole[0][name]["value"], rel=1e-6), name


def test_a_second_evaluation_makes_no_image(workdir, small, tmp_path, monkeypatch):
    first, _ = run(workdir, tmp_path, evaluate_num_images=130, evaluate_keep="")
    monkeypatch.setattr(build, "sampler", None)
    again, _ = run(workdir, tmp_path, evaluate_num_images=130, evaluate_keep="")
    assert {name: again[name] for name in FIGURES} == {name: first[name] for name in FIGURES}


def test_kept_images_are_judged_as_the_generated_ones(workdir, whole, small, tmp_path):
    """By a model-free evaluation of the .npz, and of PNG files of them."""
    for path in (whole[1] / "images.npz", tmp_path / "png"):
        if path.suffix != ".npz":
            path.mkdir()
            for i, image in enumerate(images(whole[1])):
                Image.fromarray(image).save(path / f"{i:04d}.png")
        out = tmp_path / path.stem
        report, _ = run(
            tmp_path / "no models here" / "..", out,
            evaluate_images=str(path), evaluate_keep="", evaluate_reference=str(workdir / "real"),
        )  # fmt: skip
        for name in FIGURES:
            assert report[name] == whole[0][name]
        assert report["model"] == "" and report["evaluation"]["images"] == str(path)


def test_a_judge_without_weights_takes_any_number_of_images(workdir, whole, tmp_path, monkeypatch):
    none = {"evaluate_inception": "", "evaluate_reference": ""}
    one, directory = run(workdir, tmp_path, **none)
    np.testing.assert_array_equal(images(directory), images(whole[1]))
    assert one["samples"]["count"] == 300 and {*one["classes"]} == {*"0123456789"}
    assert sum(row["count"] for row in one["classes"].values()) == 300
    assert "gray levels" in one["features"] and "fid" not in one
    given = {"evaluate_images": str(directory / "images.npz"), "evaluate_keep": ""}
    monkeypatch.setattr(judging, "vgg_network", lambda path: FeatureNetwork("vgg", path, few, None))
    report, _ = run(workdir, tmp_path / "given", **none, **given, evaluate_lpips="w.ckpt")
    samples = report["samples"]
    for name in ("count", "frechet", "near_copies"):
        assert samples[name] == one["samples"][name]
    assert "class_accuracy" not in samples
    train, heldout = (few(None, x).vgg for x, _ in judging.real_images(models.tiny()))
    made = few(None, images(directory)).vgg
    expected = pixels.frechet_distance(made, heldout, 300)
    assert samples["frechet_vgg"] == pytest.approx(expected, rel=1e-6)
    floor = pixels.frechet_floor(np.concatenate([train, heldout]), 300)
    assert samples["frechet_vgg_ratio"] == pytest.approx(expected / floor, rel=1e-6)
    assert report["vgg"]["sha256"] == "w.ckpt"


def few(params, images):
    """In place of VGG16: the mean of each colour in each quarter."""
    return judging.VggFeatures(images.reshape(-1, 2, 16, 2, 16, 3).mean((2, 4)).reshape(-1, 12))


def test_references_are_written_from_a_folder_and_from_the_data(workdir, small, tmp_path):
    config = models.tiny()
    config.evaluate.inception = "weights.npz"
    config.reference.images = str(workdir / "real")
    file = reference.run(config, tmp_path)
    with np.load(file) as found:
        assert found["count"] == 60 and found["pool3"].shape == (60, 12) and found["size"] == 32
        assert "classes" not in found
        seen = {name: found[name] for name in ("mu", "sigma")}
    config.reference.update(images="", split="heldout", path=str(tmp_path / "digits.npz"), pool3=9)
    with np.load(reference.run(config, tmp_path)) as found:
        assert found["count"] == 450 and found["pool3"].shape == (9, 12) and found["classes"] == 10
        assert np.abs(found["mu"] - seen["mu"]).max() > 0.1
    config.reference.path = "digits.npy"
    with pytest.raises(InputError, match=r"digits\.npy must end in \.npz"):
        reference.run(config, tmp_path)


WRONG = {
    "size": ({"evaluate_reference": "other"}, "of 16x16 pixels and those to be judged have 32x32"),
    "count": ({"evaluate_num_images": 0}, "say how many images to generate"),
    "nan": ({"evaluate_reference": "nan.npz"}, "NaN or infinity"),
    "features": ({"evaluate_reference": "few.npz"}, r"\[12\] and \[12, 12\]; those of Inception"),
    "classes": (
        {"evaluate_reference": "classes.npz"},
        "of 3 classes and those to be judged are of 10",
    ),
    "mixed": ({"evaluate_images": "mixed"}, "is of 9x9 pixels and the first image"),
    "single": ({"evaluate_images": "single"}, "holds 1 image"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_gets_a_sentence_before_an_image_is_made(
    workdir, small, tmp_path, case, monkeypatch
):
    fields, says = WRONG[case]
    for name, sides in (("other", (16, 16)), ("mixed", (32, 9)), ("single", (32,))):
        (tmp_path / name).mkdir()
        for i, side in enumerate(sides):
            Image.new("RGB", (side, side)).save(tmp_path / name / f"{i}.png")
    nan = {"mu": np.full(2048, np.nan), "sigma": np.eye(2048)}
    np.savez(tmp_path / "nan.npz", **nan)
    np.savez(tmp_path / "classes.npz", mu=np.zeros(2048), sigma=np.eye(2048), classes=3)
    write_reference(tmp_path / "few.npz", Reference(np.zeros(12), np.eye(12), "few"))
    fields = {
        name: str(tmp_path / value) if isinstance(value, str) else value
        for name, value in fields.items()
    }
    monkeypatch.setattr(build, "sampler", None)
    with pytest.raises(InputError, match=says):
        run(workdir, tmp_path / "out", evaluate_keep="", **fields)


def test_a_full_disk_loses_nothing(workdir, small, tmp_path, monkeypatch):
    written, whole_write = [], keeping.write_pngs

    def full(directory, rows, images):
        if directory.name == "images" and rows[-1] > 200:
            raise OSError(28, "No space left on device")
        written.extend(rows.tolist() if directory.name == "images" else ())
        whole_write(directory, rows, images)

    with monkeypatch.context() as patch:
        patch.setattr(keeping, "write_pngs", full)
        with pytest.raises(InputError, match=r"No space left on device.*make room"):
            run(workdir, tmp_path, evaluate_keep="png")
    assert max(written) < 200
    report, directory = run(workdir, tmp_path, evaluate_keep="png")
    assert image_sets.open_images(directory / "images").count == 300
    assert report["fid"]["value"] > 0


def test_a_tokenizer_is_judged_by_what_it_keeps(workdir, small, tmp_path, capsys):
    config = models.tiny()
    config.checkpoint = str(workdir)
    config.evaluate.update(what="tokenizer", inception="weights.npz")
    report = evaluate.run(config, tmp_path)
    said = capsys.readouterr().out
    assert "rFID" in said and f"report: {tmp_path / 'report/report.html'}" in said
    kept = report["reconstruction"]
    assert kept["count"] == 450 and 0 < kept["psnr_db"] < 20 and -1 < kept["ssim"] < 1
    assert report["rfid"]["value"] > 0 and report["rfid"]["weights"] == "seed 0"
    rounded = encode_and_decode(config, workdir)
    assert kept["psnr_db"] == pytest.approx(reconstruction.psnr_of_each(*rounded).mean(), abs=0.01)
    real, decoded = (extract(x)["pool3"].astype(float) for x in rounded)
    expected = frechet(real.mean(0), np.cov(real.T), decoded.mean(0), np.cov(decoded.T))
    assert report["rfid"]["value"] == pytest.approx(expected, rel=1e-3)


def extract(images):
    return Extractor(network(side=32))(images)


def encode_and_decode(config, workdir):
    """Held-out images, and what the tokenizer makes of them all at once."""
    images, _ = build.labelled_images(config.data, "heldout")
    mesh = parallel.make_mesh(parallel.MeshConfig(), jax.devices()[:1])
    tokenizer, params, _ = load_tokenizer(workdir / "tokenizer/model", mesh)
    codes = tokenizer.apply({"params": params}, to_unit(images), method="encode")
    decoded = tokenizer.apply({"params": params}, codes, (8, 8), method="decode")
    return images, np.asarray(to_uint8(decoded))
