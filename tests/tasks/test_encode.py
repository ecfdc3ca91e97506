"""Encoding from each kind of source, and what becomes of bad and of changed images."""

import io
import json
import shutil
import tarfile

import jax
import numpy as np
import pytest
from PIL import Image

from lpd_jax import checkpoint
from lpd_jax.configs import digits
from lpd_jax.data.codes import load_codes, read_spec
from lpd_jax.data.folder import Folder
from lpd_jax.errors import InputError
from lpd_jax.models.initial import init_tokenizer
from lpd_jax.pixels import to_unit
from lpd_jax.tasks import build, encode
from lpd_jax.tasks.workdir import plain

pytestmark = pytest.mark.usefixtures("one_device")

SPLITS = ("train", "heldout")


def tiny(path, **data):
    config = digits.get_config()
    config.data.update({"source": "folder", "path": str(path), "flip": True, "size": 16} | data)
    config.tokenizer.update(ch=8, ch_mult=(1, 1, 1), z_channels=8, norm_groups=4)
    config.encode.update(batch_size=8, shard_size=8)
    return config


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A directory with a random tokenizer."""
    path = tmp_path_factory.mktemp("models")
    network = build.tokenizer(tiny(""))
    params = jax.jit(lambda key: init_tokenizer(network, key))(jax.random.key(0))
    about = plain({"kind": "tokenizer", "config": network.config, "fingerprint": "random"})
    checkpoint.save_model(path / "tokenizer/model", about, params)
    return path


@pytest.fixture
def images(tmp_path):
    """Two classes of ten images each."""
    rng = np.random.default_rng(0)
    for name in ("auk", "wren"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 256, (14 + i, 20, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"images/{name}/{i}.png")
    return tmp_path / "images"


@pytest.fixture
def workdir(models, tmp_path):
    shutil.copytree(models, tmp_path / "run")
    return tmp_path / "run"


def written(workdir):
    return {file.name: file.stat().st_mtime_ns for file in (workdir / "codes").glob("codes-*")}


def same(one, two):
    for split in SPLITS:
        a, b = (load_codes(workdir / "codes", split) for workdir in (one, two))
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_bad_images_are_left_out_listed_and_may_go(images, workdir, models, tmp_path, caplog):
    caplog.set_level("INFO")
    whole = tmp_path / "whole"
    shutil.copytree(models, whole)
    encode.run(tiny(images), whole)
    assert not (whole / "codes/skipped.jsonl").exists()
    bad = Folder(images, "train", 16).names[11]
    (images / bad).write_bytes(b"no image")
    config = tiny(images)
    config.reading.bad_share = 0.05  # one of 20
    encode.run(config, workdir)
    listed = workdir / "codes/skipped.jsonl"
    (row,) = map(json.loads, listed.read_text().splitlines())
    assert (row["split"], row["index"], row["name"]) == ("train", 11, bad)
    assert row["path"] == str(images / bad) and "no format" in row["reason"]
    assert "19 images in" in caplog.text and "1 that cannot be read are listed" in caplog.text
    assert "images of this process are smaller than 16 pixels" in caplog.text

    one, two = (load_codes(path / "codes", "train") for path in (whole, workdir))
    assert two["index"].tolist() == [i for i in range(18) if i != 11]
    for name in one:  # whatever is encoded beside the bad one is as it was
        np.testing.assert_array_equal(np.delete(one[name], 11, axis=0), two[name])

    before = written(workdir)
    (images / bad).unlink()
    encode.run(config, workdir)
    # What is lost is written again, without it and with every other image at its place.
    for shard in read_spec(workdir / "codes").shards():
        if shard.split == "train" and shard.start <= 11 < shard.stop:
            (workdir / "codes" / shard.filename).unlink()
    encode.run(config, workdir)
    assert written(workdir).keys() == before.keys()
    again = load_codes(workdir / "codes", "train")
    np.testing.assert_array_equal(again["codes"], two["codes"])
    # Nor is it listed, or counted against the share, a second time.
    assert [json.loads(line)["index"] for line in (listed.read_text().splitlines())] == [11]


def test_a_changed_source_is_named_and_nothing_is_touched(images, workdir):
    config, train = tiny(images), Folder(images, "train", 16).names
    encode.run(config, workdir)
    before = written(workdir)
    shutil.copy(images / train[0], images / "wren/more.png")
    (images / train[5]).unlink()
    (images / train[9]).write_bytes(b"another")
    says = (
        rf"1 file came \(wren/more\.png\); 1 file went \({train[5]}\); "
        rf"1 file changed \({train[9]}\); put them back, or encode into a new --workdir\.$"
    )
    with pytest.raises(InputError, match=says):
        encode.run(config, workdir)
    (images / "yeti").mkdir()
    shutil.copy(images / train[0], images / "yeti/1.png")
    with pytest.raises(InputError, match=r"1 class came \(yeti\)"):
        encode.run(config, workdir)
    assert written(workdir) == before


def test_too_many_bad_images_stop_it_and_a_larger_share_goes_on(images, workdir):
    for name in Folder(images, "train", 16).names[2:5]:
        (images / name).write_bytes(b"no image")
    config = tiny(images)
    with pytest.raises(InputError, match=r"3 of 20 images cannot .*reading\.bad_share=0\.01"):
        encode.run(config, workdir)
    assert len((workdir / "codes/skipped.jsonl").read_text().splitlines()) == 3
    config.reading.bad_share = 0.2
    encode.run(config, workdir)
    assert len(load_codes(workdir / "codes", "train")["label"]) == 15


def test_tar_archives_and_cached_codes_give_the_codes_of_the_folder(
    images, workdir, models, tmp_path
):
    encode.run(tiny(images), workdir)
    archives, cached = tmp_path / "archives", tmp_path / "cached"
    archives.mkdir()
    for split in SPLITS:
        source, arrays = Folder(images, split, 16), load_codes(workdir / "codes", split)
        with tarfile.open(archives / f"birds-{split}-0.tar", "w") as tar:
            for i, (file, label) in enumerate(zip(source.files, source.labels, strict=True)):
                cls = str(label).encode()
                for suffix, content in (("png", file.read_bytes()), ("cls", cls)):
                    about = tarfile.TarInfo(f"{i:02d}.{suffix}")
                    about.size = len(content)
                    tar.addfile(about, io.BytesIO(content))
        for name, (plain_codes, flipped) in zip(source.names, arrays["codes"], strict=True):
            file = cached / split / f"{name}.npz"
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(file, indices=plain_codes, indices_flip=flipped)
    for source, path in (("tar", archives), ("codes", cached)):
        other = tmp_path / source
        encode.run(tiny(path, source=source), shutil.copytree(models, other))
        same(workdir, other)
    assert read_spec(other / "codes").class_names == ("auk", "wren")
    with pytest.raises(InputError, match=r"16 codes an image, .* make 64"):
        encode.run(tiny(path, source="codes", size=32), shutil.copytree(models, tmp_path / "z"))
    with pytest.raises(InputError, match="has codes and no images"):
        build.images(tiny(path, source="codes").data, "train")


def test_ten_crops_are_the_middle_the_corners_and_their_mirror_images(images, workdir):
    config = tiny(images)
    config.encode.ten_crop = True
    encode.run(config, workdir)
    codes = load_codes(workdir / "codes", "heldout")["codes"]
    assert codes.shape == (2, 10, 16) and read_spec(workdir / "codes").crop == "ten"
    larger = np.stack([record["image"] for record in Folder(images, "heldout", 18)])
    network, params, _ = encode.load_tokenizer(workdir / "tokenizer/model", build.mesh(config))
    places = ((1, 1), (0, 0), (0, 2), (2, 0), (2, 2))
    crops = [larger[:, y : y + 16, x : x + 16] for y, x in places]
    views = np.stack([*crops, *(crop[:, :, ::-1] for crop in crops)], 1)
    run = jax.jit(lambda x: network.apply({"params": params}, to_unit(x), method="encode"))
    expected = run(np.concatenate([*views, *views[:, :6]])).reshape(-1, 16)[:20]
    assert np.mean(codes.reshape(20, 16) == expected) > 0.99  # another batch: the last bit
    config.data.flip = False
    with pytest.raises(InputError, match="five crops and their mirror images"):
        encode.run(config, workdir)
    config = tiny(images)
    with pytest.raises(InputError, match=r"encode\.ten_crop was True, now False"):
        encode.run(config, workdir)


def test_the_disk_is_full_in_the_middle(images, workdir, monkeypatch):
    write, calls = encode.code_dataset.write_shard, []

    def full(*args):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        write(*args)

    with monkeypatch.context() as patch, pytest.raises(InputError, match="No space left on dev"):
        patch.setattr(encode.code_dataset, "write_shard", full)
        encode.run(tiny(images), workdir)
    before = written(workdir)
    assert len(before) == 1
    encode.run(tiny(images), workdir)
    assert written(workdir).items() > before.items()
