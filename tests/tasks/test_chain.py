"""The whole chain on real digits with networks too small to be good: every task, twice."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from lpd_jax import checkpoint
from lpd_jax.configs import digits
from lpd_jax.data.codes import read_spec
from lpd_jax.errors import InputError
from lpd_jax.evaluation.figures import DIGITS_BARS
from lpd_jax.sampler import Sampler
from lpd_jax.tasks import encode, evaluate, pipeline, sample, train, train_tokenizer
from tests.tasks import models


def tiny():
    config = digits.get_config()
    config.mesh.data = 8
    config.tokenizer.update(ch=8, ch_mult=(1, 1, 1), z_channels=8, norm_groups=4)
    config.train_tokenizer.update(
        steps=12, batch_size=16, warmup_steps=2, save_every=6, log_every=2
    )
    config.encode.update(batch_size=256, shard_size=500)
    config.decoder.update(width=32, depth=1, heads=2, unroll=1)
    config.train.update(
        steps=12, batch_size=16, warmup_steps=2, decay_start=6, save_every=6, log_every=2
    )
    config.sample.update(count=1, batch_size=64, steps=6)
    config.evaluate.steps = 6
    config.lock()
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A workdir in which everything has been run once, and the report."""
    workdir = tmp_path_factory.mktemp("chain")
    return workdir, pipeline.run(tiny(), workdir)


def files(directory):
    return {p: p.stat().st_mtime_ns for p in directory.rglob("*") if p.is_file()}


def test_the_report_holds_every_figure(finished):
    workdir, figures = finished
    report = json.loads((workdir / "report/report.json").read_text())
    assert report == json.loads(json.dumps(figures))
    for key in (
        "tokenizer.psnr_db",
        "tokenizer.codebook_usage",
        "classifier.heldout_accuracy",
        "samples.steps",
        "samples.class_accuracy",
        "samples.frechet",
        "samples.frechet_full_steps",
        "samples.frechet_ratio",
        "samples.frechet_few_to_full",
        "classes.7.accuracy",
        "frechet_floor",
        "samples.near_copies",
        "seconds.train_tokenizer",
        "seconds.encode",
        "seconds.train",
        "seconds.sample",
        "seconds.evaluate",
        "device",
        "versions.jax",
        "seed",
    ):
        value = report
        for part in key.split("."):
            value = value[part]
        assert isinstance(value, (int, float, str)), key
    assert 0.97 < report["classifier"]["heldout_accuracy"] < 1
    assert 0 < report["tokenizer"]["codebook_usage"] <= 1
    assert report["samples"]["frechet"] > report["frechet_floor"]
    count = sum(figures["count"] for figures in report["classes"].values())
    assert count == report["samples"]["count"] and list(report["classes"]) == list("0123456789")
    assert report["bars"] == DIGITS_BARS
    rows = {(row["order"], row["steps"]) for row in report["likelihood"]}
    assert rows == {(o, n) for o in ("locality", "spread", "halton", "random") for n in (64, 6)}
    assert all(row["images"] == 200 and row["standard_error"] > 0 for row in report["likelihood"])


def test_every_task_shows_pictures(finished):
    workdir, _ = finished
    (samples,) = (file.parent for file in (workdir / "samples").glob("*/samples.png"))
    pictures = [
        *(workdir / "tokenizer" / n for n in ("curves", "codebook", "reconstructions")),
        workdir / "decoder/curves",
        *(samples / n for n in ("samples", "strip", "order")),
    ]
    for picture in pictures:
        with Image.open(f"{picture}.png") as image:
            assert np.ptp(np.asarray(image.convert("L"))) > 50
    with Image.open(samples / "generation.gif") as animation:
        assert animation.n_frames == 6
    page = (workdir / "report/report.html").read_text()
    assert page.count("data:image/png;base64,") >= 6 and "data:image/gif" in page


def test_samples_come_with_their_codes_and_order(finished):
    workdir, _ = finished
    (file,) = (workdir / "samples").glob("*/samples.npz")
    samples = np.load(file)
    assert samples["labels"].tolist() == list(range(10))
    assert samples["images"].shape == (10, 32, 32, 3)
    assert samples["codes"].shape == (10, 64) and samples["codes"].max() < 128
    assert (np.sort(samples["orders"], axis=1) == np.arange(64)).all()
    assert samples["group_sizes"].sum() == 64


def test_a_second_run_redoes_nothing(finished):
    workdir, _ = finished
    kept = [
        workdir / d
        for d in (
            "tokenizer/checkpoints",
            "tokenizer/model",
            "codes",
            "decoder/checkpoints",
            "decoder/model",
            "samples",
        )
    ]
    before = [files(directory) for directory in kept]
    pipeline.run(tiny(), workdir)
    assert [files(directory) for directory in kept] == before


def test_a_workdir_of_another_config_is_refused(finished):
    workdir, _ = finished
    before = files(workdir)
    other = tiny()
    other.train.learning_rate = 1e-3
    with pytest.raises(InputError, match=r"train.learning_rate was 0.002, now 0.001"):
        train.run(other, workdir)
    other = tiny()
    other.tokenizer.ch = 16
    with pytest.raises(InputError, match=r"tokenizer.ch was 8, now 16"):
        train_tokenizer.run(other, workdir)
    assert files(workdir) == before


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("labels", (3, 10, 11), "label 11 is out of range"),
        ("group_sizes", (1, 2, 3), "sum to 6"),
        ("steps", 65, "65 steps"),
        ("top_p", 0.0, "top_p"),
        ("order", "spiral", "one of locality"),
        ("count", 0, "count"),
        ("dtype", "float8", "'bfloat16'"),
    ],
)
def test_bad_sampling_settings_are_refused(finished, field, value, says):
    workdir, _ = finished
    before = files(workdir / "samples")
    config = tiny()
    config.sample[field] = value
    with pytest.raises(InputError, match=says):
        sample.run(config, workdir)
    assert files(workdir / "samples") == before


def test_tasks_name_the_one_that_comes_first(tmp_path):
    for task, first in (
        (encode, "tokenizer"),
        (train, "encode"),
        (sample, "decoder"),
        (evaluate, "decoder"),
    ):
        with pytest.raises(InputError, match=first):
            task.run(tiny(), tmp_path)


def test_the_dtype_of_sampling_can_be_chosen(finished):
    workdir, _ = finished
    assert Sampler.load(workdir).decoder.config.dtype == "float32"
    sampler = Sampler.load(workdir, dtype="bfloat16")
    assert sampler.decoder.config.dtype == sampler.tokenizer.decode_dtype == "bfloat16"
    assert sampler([3], steps=4).shape == (1, 32, 32, 3)


def test_a_truncated_model_is_refused_and_kept(finished):
    workdir, _ = finished
    model = workdir / "decoder/model/params"
    data = [p for p in model.rglob("*") if p.is_file() and p.parent.name == "d"]
    whole = {file: file.read_bytes() for file in data}
    for file, content in whole.items():
        file.write_bytes(content[: len(content) // 2])
    config = tiny()
    config.seed = 1
    with pytest.raises(InputError, match="truncated"):
        sample.run(config, workdir)
    for file, content in whole.items():
        file.write_bytes(content)


def test_a_tokenizer_that_is_not_the_decoders_is_refused(finished):
    workdir, _ = finished
    file = workdir / "tokenizer/model/model.json"
    text = file.read_text()
    about = json.loads(text)
    file.write_text(json.dumps(about | {"fingerprint": "0" * 16}))
    config = tiny()
    config.seed = 2
    with pytest.raises(InputError, match="another tokenizer"):
        sample.run(config, workdir)
    with pytest.raises(InputError, match="another tokenizer"):
        train.run(tiny(), workdir)
    file.write_text(text)


@pytest.fixture
def converted(finished, tmp_path):
    """A directory of models alone, as a conversion writes it."""
    for kind in ("tokenizer", "decoder"):
        shutil.copytree(finished[0] / kind / "model", tmp_path / "models" / kind / "model")
    return tmp_path / "models"


def test_encoding_ends_what_is_not_ended(converted, tmp_path, monkeypatch):
    """A process that dies after the last shard, and metadata that are lost; with a tokenizer
    from elsewhere, which is then at hand for what is trained here."""
    config = tiny()
    config.checkpoint = str(converted)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(encode.code_dataset, "finalize", die)
        encode.run(config, tmp_path)
    codes = tmp_path / "codes"
    with pytest.raises(InputError, match="unfinished"):
        read_spec(codes)
    encode.run(config, tmp_path)
    spec, shards = read_spec(codes), {f: f.stat().st_mtime_ns for f in codes.glob("codes-*")}
    (codes / "dataset_info.json").unlink()
    encode.run(config, tmp_path)
    assert read_spec(codes) == spec
    assert shards == {f: f.stat().st_mtime_ns for f in codes.glob("codes-*")}
    assert json.loads((codes / "config.json").read_text())["config"]["checkpoint"] == str(converted)

    about = checkpoint.read_model_json(tmp_path / "tokenizer/model", "tokenizer")
    assert about["fingerprint"] == spec.tokenizer["fingerprint"]
    before = files(tmp_path)
    encode.run(config, tmp_path)
    config.checkpoint = ""
    config.encode.update(shard_size=400, batch_size=100)  # which decide no code
    encode.run(config, tmp_path)
    assert files(tmp_path) == before
    model = tmp_path / "tokenizer/model/model.json"
    model.write_text(json.dumps(about | {"fingerprint": "0" * 16}))
    config.checkpoint = str(converted)
    with pytest.raises(InputError, match="holds another tokenizer"):
        encode.run(config, tmp_path)


def test_a_model_without_label_dropout_cannot_be_guided(tmp_path):
    config = tiny()
    models.save(config, tmp_path, label_drop=0.0)
    with pytest.raises(InputError, match="label dropout"):
        sample.run(config, tmp_path)
    config.sample.guidance = 1.0
    assert (sample.run(config, tmp_path) / "samples.png").is_file()
