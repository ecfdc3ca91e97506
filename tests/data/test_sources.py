import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from lpd_jax.data.sources import Arrays, Digits, Folder, TfdsImages
from lpd_jax.errors import InputError


def _save(path, color, size=(24, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)


def _folder(root, per_class=20):
    for i in range(per_class):
        _save(root / "wren" / f"{i:02d}.png", (0, 0, 10 * i))
        _save(root / "auk" / f"{i:02d}.png", (200, 0, 10 * i))
    return root


def _tfds(root, suffix="array_record", features=None):
    root.mkdir()
    image = root.parent / "image.png"
    _save(image, (10, 20, 30))
    features = tfds.features.FeaturesDict(
        features
        or {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=["auk", "wren"]),
        }
    )
    record = {"image": image.read_bytes(), "label": 1, "text": "none"}
    writer = ArrayRecordWriter(str(root / f"birds-train.{suffix}-00000-of-00001"), "group_size:1")
    for _ in range(20):
        writer.write(features.serialize_example({k: record[k] for k in features}))
    writer.close()
    template = tfds.core.ShardedFileTemplate(
        data_dir=root, dataset_name="birds", split="train", filetype_suffix=suffix
    )
    split = tfds.core.SplitInfo("train", [20], 1, template)
    tfds.folder_dataset.write_metadata(
        data_dir=root, features=features, split_infos=[split], check_data=False
    )
    return root


def _check_record(record, size):
    assert record["image"].shape == (size, size, 3)
    assert record["image"].dtype == np.uint8
    assert record["label"].dtype == np.int32
    assert record["index"].dtype == np.int64


def test_digits_splits_cover_everything_once():
    parts = {split: Digits(split, 8) for split in ("train", "heldout", "all")}
    assert len(parts["train"]) + len(parts["heldout"]) == len(parts["all"]) == 1797
    assert 440 <= len(parts["heldout"]) <= 460
    images = [np.concatenate([parts[s].arrays["image"] for s in ("train", "heldout")])]
    images.append(parts["all"].arrays["image"])
    first, second = (np.unique(a.reshape(1797, -1), axis=0, return_counts=True) for a in images)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_digits_are_stratified_and_fixed():
    heldout, again = Digits("heldout", 8), Digits("heldout", 8)
    np.testing.assert_array_equal(heldout.arrays["image"], again.arrays["image"])
    share = np.bincount(heldout.arrays["label"]) / np.bincount(Digits("all", 8).arrays["label"])
    assert np.abs(share - 0.25).max() < 0.005


def test_digits_record():
    source = Digits("train", 32)
    _check_record(source[5], 32)
    assert source[5]["index"] == 5
    assert source.class_names == tuple("0123456789")
    assert source.arrays["image"].max() == 255 and source.arrays["image"].min() == 0


def test_unknown_split():
    with pytest.raises(InputError, match="no split 'test'"):
        Digits("test", 8)


def test_arrays_must_agree_in_length():
    with pytest.raises(ValueError):
        Arrays({"a": np.zeros(3), "b": np.zeros(4)})


def test_folder_labels_follow_sorted_names(tmp_path):
    source = Folder(_folder(tmp_path), "all", 16)
    assert source.class_names == ("auk", "wren")
    assert len(source) == 40
    for i in (0, 39):
        record = source[i]
        _check_record(record, 16)
        assert record["label"] == (record["image"][0, 0, 0] == 0)


def test_folder_holds_out_a_tenth_of_each_class(tmp_path):
    root = _folder(tmp_path)
    train, heldout = Folder(root, "train", 16), Folder(root, "heldout", 16)
    assert np.bincount(heldout.labels).tolist() == [2, 2]
    assert sorted(train.files + heldout.files) == Folder(root, "all", 16).files


def test_folder_split_survives_a_move(tmp_path):
    first = Folder(_folder(tmp_path / "a"), "heldout", 16)
    second = Folder(_folder(tmp_path / "b"), "heldout", 16)
    assert [f.name for f in first.files] == [f.name for f in second.files]


def test_folder_uses_its_own_splits(tmp_path):
    _folder(tmp_path / "train")
    _save(tmp_path / "val" / "wren" / "x.jpg", (0, 0, 0))
    heldout = Folder(tmp_path, "heldout", 16)
    assert len(Folder(tmp_path, "train", 16)) == 40
    assert [f.name for f in heldout.files] == ["x.jpg"] and heldout.labels.tolist() == [1]
    assert len(Folder(tmp_path, "all", 16)) == 41
    _save(tmp_path / "val" / "yeti" / "x.jpg", (0, 0, 0))
    with pytest.raises(InputError, match="yeti"):
        Folder(tmp_path, "train", 16)


def test_folder_reads_every_mode(tmp_path):
    for mode in ("RGB", "RGBA", "L", "P", "CMYK", "1", "LA"):
        file = tmp_path / "auk" / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        file.parent.mkdir(exist_ok=True)
        Image.new(mode, (9, 9)).save(file)
    source = Folder(tmp_path, "all", 8)
    assert len(source) == 7
    for i in range(7):
        _check_record(source[i], 8)


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_folder_names_the_broken_file(tmp_path, content):
    file = _folder(tmp_path) / "auk" / "00.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:5000] if content is None else content)
    with pytest.raises(InputError, match=r"auk/00\.png cannot be read"):
        Folder(tmp_path, "all", 16)[0]


def test_folder_bad_paths(tmp_path):
    with pytest.raises(InputError, match="is not a directory"):
        Folder(tmp_path / "absent", "train", 16)
    with pytest.raises(InputError, match="no sub-directories"):
        Folder(tmp_path, "train", 16)
    (tmp_path / "auk").mkdir()
    with pytest.raises(InputError, match="no images"):
        Folder(tmp_path, "train", 16)


def test_tfds_images(tmp_path):
    path = _tfds(tmp_path / "birds")
    train, heldout = TfdsImages(path, "train", 16), TfdsImages(path, "heldout", 16)
    assert (len(train), len(heldout), len(TfdsImages(path, "all", 16))) == (18, 2, 20)
    assert train.class_names == ("auk", "wren")
    record = heldout[1]
    _check_record(record, 16)
    assert record["label"] == 1 and record["image"][8, 8].tolist() == [10, 20, 30]


def test_tfds_bad_datasets(tmp_path):
    with pytest.raises(InputError, match="No TFDS dataset"):
        TfdsImages(tmp_path, "train", 16)
    with pytest.raises(InputError, match="No TFDS dataset"):
        TfdsImages("no_such_dataset_of_birds", "train", 16)
    with pytest.raises(InputError, match="array_record"):
        TfdsImages(_tfds(tmp_path / "tfrecord", suffix="tfrecord"), "train", 16)
    text = _tfds(tmp_path / "text", features={"text": tfds.features.Text()})
    with pytest.raises(InputError, match="'image' and 'label'"):
        TfdsImages(text, "train", 16)
