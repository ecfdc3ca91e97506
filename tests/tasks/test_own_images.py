"""The manual's "Your own images", typed as it stands there, on a folder of many formats."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lpd_jax import __main__ as cli
from lpd_jax.data.codes import load_codes, read_spec
from lpd_jax.tasks import pipeline

MANUAL = Path(__file__).parents[2] / "docs/use.md"
NAMES = (*"abcdefgh", "rose", "tulip")
# Networks and batches of tests/tasks/test_chain.py, whose compiled programs these then are.
SMALL = {
    "mesh.data": 8,
    "data.size": 32,
    "tokenizer.ch": 8,
    "tokenizer.ch_mult": "(1,1,1)",
    "tokenizer.z_channels": 8,
    "tokenizer.norm_groups": 4,
    "tokenizer.codebook_size": 128,
    "train_tokenizer.steps": 4,
    "train_tokenizer.batch_size": 16,
    "train_tokenizer.warmup_steps": 2,
    "encode.batch_size": 256,
    "decoder.width": 32,
    "decoder.depth": 1,
    "decoder.heads": 2,
    "decoder.unroll": 1,
    "train.steps": 4,
    "train.batch_size": 16,
    "train.warmup_steps": 2,
    "train.decay_start": 2,
    "sample.count": 1,
    "sample.batch_size": 64,
    "sample.steps": 6,
    "evaluate.steps": 6,
}


def flowers(root):
    """Ten classes of eight images of every kind, one of them no image at all."""
    rng = np.random.default_rng(0)
    turned = Image.Exif()
    turned[0x0112] = 6
    for number, name in enumerate(NAMES):
        (root / name).mkdir(parents=True)
        pixels = rng.integers(0, 256, (4, 5, 4), np.uint8) // 2 + 12 * number
        colour = Image.fromarray(pixels).convert("RGB").resize((50, 40))
        grey = np.asarray(colour.convert("L")).astype(np.uint16) * 257
        colour.save(root / name / "turned.JPG", exif=turned)
        colour.convert("CMYK").save(root / name / "cmyk.jpeg")
        Image.fromarray(pixels).resize((20, 30)).save(root / name / "rgba.png")
        Image.fromarray(grey).save(root / name / "sixteen.tiff")
        colour.convert("L").save(root / name / "grey.webp")
        colour.save(root / name / "animated.gif", save_all=True, append_images=[colour.rotate(90)])
        colour.convert("P").save(root / name / "palette.bmp")
        colour.save(root / name / "plain.ppm")
    (root / "rose/grey.webp").write_bytes(b"RIFF")


def section():
    return MANUAL.read_text().split("## Your own images")[1].split("\n## ")[0]


def command(text):
    """Arguments of the first command line in a text."""
    line = re.search(r"python -m lpd_jax ((?:.*\\\n)*.*)", text)[1]
    return shlex.split(line.replace("\\\n", " "), comments=True)


@pytest.fixture
def lpd(tmp_path, monkeypatch, as_before):
    """Runs a line of the manual where /data is a directory of ours, with small networks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "_ORDERS", ("random",))  # in the report's table, for time

    def call(arguments):
        small = [f"--config.{name}={value}" for name, value in SMALL.items()]
        assert cli.command([a.replace("/data/", "data/") for a in arguments] + small) == 0

    return call


def test_from_a_folder_of_many_formats_to_a_report(lpd, tmp_path, capfd):
    flowers(tmp_path / "data/flowers")
    whole = command(section())
    assert whole[0] == "pipeline"
    lpd(whole)
    run = tmp_path / "runs/mine"
    spec = read_spec(run / "codes")
    assert spec.class_names == NAMES and sum(spec.split_sizes.values()) == 80
    (bad,) = map(json.loads, (run / "codes/skipped.jsonl").read_text().splitlines())
    assert bad["path"] == "data/flowers/rose/grey.webp" and bad["reason"]
    codes = [load_codes(run / "codes", split) for split in ("train", "heldout")]
    assert [len(c["label"]) for c in codes] in ([69, 10], [70, 9])
    report = json.loads((run / "report/report.json").read_text())
    assert report["samples"]["count"] == len(codes[1]["label"])
    assert "skipped data/flowers/rose/grey.webp" in capfd.readouterr().err

    (labels,) = re.findall(r"`(--config\.sample\.labels=\S+)`", section())
    lpd(["sample", *whole[1:], labels])
    found = [np.load(file)["labels"].tolist() for file in run.glob("samples/*/samples.npz")]
    assert sorted(map(len, found)) == [2, 10] and [8, 9] in found
