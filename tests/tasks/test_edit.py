"""The task `edit`: held-out images and files, masks and boxes, and clear refusals."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from lpd_jax import checkpoint
from lpd_jax.configs import digits
from lpd_jax.errors import InputError
from lpd_jax.models.decoder import Decoder, DecoderConfig
from lpd_jax.models.initial import init_decoder
from lpd_jax.sampler import Sampler
from lpd_jax.tasks import edit
from lpd_jax.tasks.workdir import plain

pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, tokenizer, tokenizer_params):
    """Untrained models of 16x16 pixels, 4x4 codes and 10 classes."""
    path = tmp_path_factory.mktemp("edit")
    decoder = Decoder(
        DecoderConfig(
            grid=(4, 4), vocab_size=32, num_classes=10, width=32, depth=1, heads=2, dropout=0.0
        )
    )
    params = jax.jit(lambda key: nn.unbox(init_decoder(decoder, key)))(jax.random.key(0))
    about = {
        "tokenizer": {"fingerprint": "f", "config": dataclasses.asdict(tokenizer.config)},
        "decoder": {
            "tokenizer": "f",
            "config": dataclasses.asdict(decoder.config),
            "class_names": [str(i) for i in range(10)],
            "label_drop": 0.1,
        },
    }
    for kind, arrays in (("tokenizer", tokenizer_params), ("decoder", params)):
        (path / kind).mkdir()
        checkpoint.save_model(path / kind / "model", plain({"kind": kind} | about[kind]), arrays)
    return path


@pytest.fixture
def config():
    config = digits.get_config()
    config.data.size = 16
    config.edit.count = 3
    config.sample.steps = 4
    config.lock()
    return config


def picture(path, size, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


def half(path, size):
    """Black left, white right."""
    Image.fromarray(np.uint8([[0, 255]]).repeat(2, 0)).resize(size, 0).save(path)
    return str(path)


@pytest.fixture(scope="module")
def sampler(workdir):
    return Sampler.load(workdir)


@pytest.fixture
def loaded_once(sampler, monkeypatch):
    monkeypatch.setattr(edit.build, "sampler", lambda *_: sampler)


def files(directory):
    return {p: p.stat().st_mtime_ns for p in directory.rglob("*") if p.is_file()}


def test_heldout_images_are_edited_as_their_class_and_the_next(config, workdir):
    directory = edit.run(config, workdir)
    assert directory.parent == workdir / "edits"
    found = np.load(directory / "edits.npz")
    assert found["before"].shape == (3, 16, 16, 3)
    assert found["images"].shape == (2, 3, 16, 16, 3)
    np.testing.assert_array_equal(found["labels"][1], (found["labels"][0] + 1) % 10)
    assert found["generated"][:, 2:].all() and not found["generated"][:, :2].any()
    kept = ~found["generated"].reshape(3, -1)
    np.testing.assert_array_equal(found["codes"][0][kept], found["codes"][1][kept])
    for row, images in zip(found["labels"], found["images"], strict=True):
        for i, (label, image) in enumerate(zip(row, images, strict=True)):
            np.testing.assert_array_equal(Image.open(directory / f"{i:03d}-as-{label}.png"), image)
    first = int(found["labels"][0][0])
    with Image.open(directory / f"000-as-{first}.png") as image:
        told = json.loads(image.text["lpd_jax"])
        assert told["index"] == 0 and told["label"] == first and told["sample"]["steps"] == 4
        assert told["model"] and image.text["Software"].startswith("lpd_jax ")
    with Image.open(directory / "edits.png") as sheet:
        assert sheet.width > 4 * 96 and sheet.height > 3 * 96
        assert np.ptp(np.asarray(sheet.convert("L"))) > 50
    before = files(directory)
    assert edit.run(config, workdir) == directory and files(directory) == before


def test_an_image_file_is_cropped_with_its_mask(config, workdir, tmp_path):
    config.edit.update(
        images=picture(tmp_path / "a.png", (64, 32)),
        mask=half(tmp_path / "mask.png", (64, 32)),
        labels=(3, 7, 9),
        keep_pixels=True,
    )
    directory = edit.run(config, workdir)
    found = np.load(directory / "edits.npz")
    assert found["labels"].tolist() == [[3], [7], [9]]
    assert found["generated"][0, :, 2:].all() and not found["generated"][0, :, :2].any()
    for image in found["images"][:, 0]:
        np.testing.assert_array_equal(image[:, :8], found["before"][0, :, :8])
    assert sorted(p.name for p in directory.glob("000-*.png")) == [
        f"000-as-{label}.png" for label in (3, 7, 9)
    ]


def test_a_folder_and_a_mask_of_the_models_size_turned_round(config, workdir, tmp_path):
    for i in range(5):
        picture(tmp_path / f"{i}.png", (20 + i, 30), seed=i)
    (tmp_path / "masks").mkdir()
    mask = half(tmp_path / "masks/m.png", (16, 16))
    config.edit.update(images=str(tmp_path), mask=mask, labels=(1,), outside=True)
    found = np.load(edit.run(config, workdir) / "edits.npz")
    assert found["images"].shape == (1, 3, 16, 16, 3)
    assert found["generated"][:, :, :2].all() and not found["generated"][:, :, 2:].any()


@pytest.mark.usefixtures("loaded_once")
def test_image_and_mask_are_what_a_viewer_shows(config, workdir, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying: its left is the top
    levels = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    Image.fromarray(levels).save(tmp_path / "a.png", exif=exif)
    grey = np.uint16([[30_000, 40_000]]).repeat(8, 1).repeat(16, 0)  # kept left, generated right
    Image.fromarray(grey).save(tmp_path / "mask.png")
    config.edit.update(images=str(tmp_path / "a.png"), mask=str(tmp_path / "mask.png"), labels=(1,))
    found = np.load(edit.run(config, workdir) / "edits.npz")
    np.testing.assert_array_equal(found["before"][0, ..., 0], np.rot90(levels, -1))
    assert found["generated"][0, :, 2:].all() and not found["generated"][0, :, :2].any()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"images": "none.png", "labels": (1,)}, "no image file .*none.png"),
        ({"images": "broken.png", "labels": (1,)}, "cannot be read as an image"),
        ({"images": "empty", "labels": (1,)}, "no images in"),
        ({"images": "a.png"}, "an image file has no class"),
        ({"images": "a.png", "labels": (10, 11)}, "label 11 is out of range"),
        ({"images": "a.png", "labels": (1,), "mask": "none.png"}, "no image file"),
        ({"images": "a.png", "labels": (1,), "mask": "small.png"}, "mask .* has 8x8 pixels"),
        ({"mask": "black.png"}, "nothing to generate"),
        ({"box": (0.0, 0.0, 1.0, 1.0), "outside": True}, "nothing to generate"),
        ({"box": (4, 4, 20, 8)}, "leaves the image of 16x16"),
        ({"count": 0}, "edit.count=0"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
@pytest.mark.usefixtures("loaded_once")
def test_what_does_not_fit_is_refused(config, workdir, tmp_path, settings, says):
    picture(tmp_path / "a.png", (40, 30))
    half(tmp_path / "small.png", (8, 8))
    Image.new("L", (16, 16)).save(tmp_path / "black.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "empty").mkdir()
    for name, value in settings.items():
        of_file = name in ("images", "mask")
        config.edit[name] = str(tmp_path / value) if of_file else value
    before = files(workdir)
    with pytest.raises(InputError, match=says):
        edit.run(config, workdir)
    assert files(workdir) == before


@pytest.mark.usefixtures("loaded_once")
def test_data_of_another_size_are_refused(config, workdir):
    config.data.size = 32
    with pytest.raises(InputError, match=r"data.size=32, and the model makes images of 16x16"):
        edit.run(config, workdir)
