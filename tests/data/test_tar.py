"""Tar archives as WebDataset lays them out."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from lpd_jax.data.image_files import BadImage
from lpd_jax.data.tar import TarImages
from lpd_jax.errors import InputError


def content(value, kind="PNG"):
    if isinstance(value, bytes):
        return value
    stream = io.BytesIO()
    Image.new("L", (12, 10), value).save(stream, kind)
    return stream.getvalue()


def archive(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, value in members.items():
            data = content(value)
            about = tarfile.TarInfo(name)
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))
    return path


def pairs(numbers):
    """Image `i` has the shade i and the class i mod 3, which comes before the image or after."""
    found = {}
    for i in numbers:
        both = [(f"{i:03d}.png", i), (f"{i:03d}.cls", str(i % 3).encode())]
        found |= dict(both if i % 2 else reversed(both))
    return found


def shades(source):
    return [int(record["image"][0, 0, 0]) for record in source]


def test_archives_of_both_splits(tmp_path):
    archive(tmp_path / "birds-train-001.tar", pairs(range(7, 12)))
    archive(tmp_path / "birds-train-000.tar", pairs(range(7)) | {"README.txt": b"no image"})
    archive(tmp_path / "birds-val-000.tar", pairs(range(20, 24)))
    train, heldout, every = (TarImages(tmp_path, s, 8) for s in ("train", "heldout", "all"))
    assert shades(train) == list(range(12)) and shades(heldout) == [20, 21, 22, 23]
    assert shades(every) == [*range(12), 20, 21, 22, 23]
    assert train.labels.tolist() == [i % 3 for i in range(12)]
    assert train.class_names == ("0", "1", "2")
    record = heldout[2]
    assert record["image"].shape == (8, 8, 3) and record["label"] == 22 % 3
    assert record["index"] == 2 and record["label"].dtype == np.int32
    names, sizes = train.listing()
    assert names == tuple(
        f"birds-{n}-00{i}.tar" for n, i in (("train", 0), ("train", 1), ("val", 0))
    )
    assert sizes[0] == (tmp_path / names[0]).stat().st_size


def test_each_tenth_is_held_out_where_no_archive_is_and_classes_have_names(tmp_path):
    archive(tmp_path / "a/00.tar", pairs(range(25)))
    (tmp_path / "class_names.txt").write_text("auk\nwren\nowl\n")
    train, heldout = TarImages(tmp_path, "train", 8), TarImages(tmp_path, "heldout", 8)
    assert shades(heldout) == [9, 19] and len(train) == 23
    assert train.class_names == ("auk", "wren", "owl")
    (tmp_path / "class_names.txt").write_text("auk\n")
    with pytest.raises(InputError, match="names 1 classes, and the archives use number 2"):
        TarImages(tmp_path, "train", 8)


def test_images_without_a_class_and_damaged_ones_are_bad_alone(tmp_path):
    members = pairs(range(4)) | {"004.jpg": b"damaged", "004.cls": b"1", "lost.png": 9}
    source = TarImages(archive(tmp_path / "a.tar", members).parent, "all", 8)
    assert [int(source[i]["label"]) for i in range(4)] == [0, 1, 2, 0]
    with pytest.raises(BadImage, match=r"^004\.jpg in .*a\.tar cannot be read as an image \(its"):
        source[4]
    with pytest.raises(BadImage, match=r"lost\.png in .*no \.cls beside it"):
        source[5]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("none", r"holds no \*\.tar"),
        ("compressed", "cannot be read as an uncompressed tar archive"),
        ("truncated", "cannot be read as an uncompressed tar archive"),
        ("words", r"has a \.cls that is no number"),
        ("empty", "have no images for the train split"),
    ],
)
def test_bad_archives(tmp_path, kind, says):
    file = tmp_path / "a.tar"
    match kind:
        case "compressed":
            archive(file, pairs(range(3)), "w:gz")
        case "truncated":
            archive(file, pairs(range(3)))
            file.write_bytes(file.read_bytes()[:1500])
        case "words":
            archive(file, {"a.png": 1, "a.cls": b"wren"})
        case "empty":
            archive(file, {"a.txt": b"nothing"})
    with pytest.raises(InputError, match=says):
        TarImages(tmp_path, "train", 8)
