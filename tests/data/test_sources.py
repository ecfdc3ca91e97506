import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from lpd_jax.data.folder import CachedCodes, Folder, folder_classes
from lpd_jax.data.image_files import BadImage
from lpd_jax.data.sources import Arrays, Digits, TfdsImages
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


def test_every_format_of_pillow_is_listed_and_small_images_are_enlarged(tmp_path):
    kinds = ["JPG", "png", "webp", "gif", "tif", "bmp", "ppm", "jp2", "tga", "ico", "qoi", "pcx"]
    for kind in kinds:
        _save(tmp_path / "auk" / f"{kind}.{kind}", (200, 30, 90), (16, 12))
    (tmp_path / "auk" / "notes.txt").write_text("no image")
    source = Folder(tmp_path, "all", 32)
    assert len(source) == len(kinds)
    for record in source:
        assert record["enlarged"] and record["image"].shape == (32, 32, 3)
        assert np.abs(record["image"][16, 16].astype(int) - (200, 30, 90)).max() <= 6


def test_a_folder_of_a_noted_list_keeps_its_places(tmp_path):
    source = Folder(_folder(tmp_path), "train", 16)
    (tmp_path / source.names[3]).unlink()
    again = Folder.listed(Folder(tmp_path, "train", 16), source.names, source.class_names)
    assert again.names == source.names and again.labels.tolist() == source.labels.tolist()
    np.testing.assert_array_equal(again[4]["image"], source[4]["image"])
    with pytest.raises(BadImage, match=r"\(No such file or directory\)"):
        again[3]


def test_folder_shows_what_a_viewer_shows(tmp_path):
    (tmp_path / "auk").mkdir()
    half = Image.fromarray(np.uint8([[0, 255]])).resize((8, 8), 0)  # black left, white right
    exif = Image.Exif()
    exif[0x0112] = 3
    half.save(tmp_path / "auk/exif.png", exif=exif)
    Image.fromarray(np.full((8, 8), 40 * 257, np.uint16)).save(tmp_path / "auk/sixteen.png")
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "auk/unseen.png")
    turned, deep, unseen = (record["image"] for record in Folder(tmp_path, "all", 8))
    assert turned[4, 0].tolist() == [255] * 3 and turned[4, 7].tolist() == [0] * 3
    assert (deep == 40).all()
    assert (unseen == 255).all()


def _no_content(file):
    file.write_bytes(b"")


def _text(file):
    file.write_bytes(b"not an image")


def _half(file):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:5000])


def _dead_link(file):
    file.unlink()
    file.symlink_to("nothing.png")


def _loop(file):
    file.unlink()
    file.symlink_to(file.name)


@pytest.mark.parametrize("spoil", [_no_content, _text, _half, _dead_link, _loop])
def test_a_bad_file_is_told_from_a_bad_folder(tmp_path, spoil):
    spoil(_folder(tmp_path) / "auk" / "00.png")
    source = Folder(tmp_path, "all", 16)
    assert len(source) == 40  # listing does not look into files
    with pytest.raises(BadImage, match=r"^.*auk/00\.png cannot be read as an image \("):
        source[0]


def test_what_may_not_be_read_is_named(tmp_path, monkeypatch):
    """By a mock, as the tests may run as root, who may read everything."""
    source = Folder(_folder(tmp_path), "all", 16)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch, pytest.raises(BadImage, match=r"\(Permission denied\)"):
        patch.setattr("builtins.open", refuse)
        source[0]
    with monkeypatch.context() as patch, pytest.raises(InputError, match="cannot be listed"):
        patch.setattr("os.scandir", refuse)
        Folder(tmp_path, "all", 16)

    def too_many(*_, **__):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Too many open files"):
        patch.setattr("builtins.open", too_many)  # no fault of the image, which must not be skipped
        source[0]


def _bad_folder(root, kind):
    """A data.path that cannot be used, of each kind."""
    for name in ("auk", "wren"):
        _save(root / "birds" / name / "1.png", "red")
    match kind:
        case "no directory":
            return root / "absent"
        case "a file":
            return root / "birds/auk/1.png"
        case "no class":
            return root / "birds/auk"
        case "an empty class":
            (root / "birds/wren/1.png").rename(root / "birds/wren/1.txt")
        case "a link to itself":
            (root / "birds/yeti").symlink_to("yeti")
        case "nothing held out":
            pass
    return root / "birds"


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("no directory", r"absent is not a directory"),
        ("a file", r"1\.png is a file, not a directory"),
        ("no class", r"auk has no sub-directories"),
        ("an empty class", r"birds/wren holds no images"),
        ("a link to itself", r"birds/yeti is a link that leads nowhere or to itself"),
        ("nothing held out", r"no images left for the heldout split"),
    ],
)
def test_folder_bad_paths(tmp_path, kind, says):
    path = _bad_folder(tmp_path, kind)
    with pytest.raises(InputError, match=says):
        Folder(path, "heldout", 16)


@pytest.mark.parametrize("path", ["", " "])
@pytest.mark.parametrize("source", [Folder, TfdsImages])
def test_an_empty_path_is_not_the_current_directory(tmp_path, monkeypatch, source, path):
    monkeypatch.chdir(_folder(tmp_path))
    with pytest.raises(InputError, match=r"data\.path is empty; say where"):
        source(path, "train", 16)


def test_listing_a_folder_reads_no_image(tmp_path):
    for name in ("wren", "auk"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"")
    (tmp_path / "auk" / "2.png").mkdir()  # a directory is no image, whatever its name
    source = Folder(tmp_path, "all", 16)
    assert source.class_names == ("auk", "wren") and len(source) == 2
    assert folder_classes(tmp_path) == source.class_names
    assert folder_classes(tmp_path / "absent") is None


def test_tfds_images(tmp_path):
    path = _tfds(tmp_path / "birds")
    train, heldout = TfdsImages(path, "train", 16), TfdsImages(path, "heldout", 16)
    assert (len(train), len(heldout), len(TfdsImages(path, "all", 16))) == (18, 2, 20)
    assert train.class_names == ("auk", "wren")
    record = heldout[1]
    _check_record(record, 16)
    assert record["label"] == 1 and record["image"][8, 8].tolist() == [10, 20, 30]
    (name,), (size,) = train.listing()
    assert name.startswith("birds-train") and size == (path / name).stat().st_size


def test_tfds_bad_datasets(tmp_path):
    with pytest.raises(InputError, match="No TFDS dataset"):
        TfdsImages(tmp_path, "train", 16)
    with pytest.raises(InputError, match="No TFDS dataset"):
        TfdsImages("no_such_dataset_of_birds", "train", 16)
    with pytest.raises(InputError, match=r"No TFDS dataset at mnist:9\.9\.9"):
        TfdsImages("mnist:9.9.9", "train", 16)
    with pytest.raises(InputError, match="array_record"):
        TfdsImages(_tfds(tmp_path / "tfrecord", suffix="tfrecord"), "train", 16)
    text = _tfds(tmp_path / "text", features={"text": tfds.features.Text()})
    with pytest.raises(InputError, match="'image' and 'label'"):
        TfdsImages(text, "train", 16)


def test_a_damaged_tfds_dataset_is_one_sentence(tmp_path):
    path = _tfds(tmp_path / "birds")
    source = TfdsImages(path, "train", 16)
    (records,) = path.glob("*array_record*")
    records.write_bytes(records.read_bytes()[:300])
    with pytest.raises(BadImage, match=r"^record 3 of .*birds, split train cannot be read"):
        source[3]
    about = path / "dataset_info.json"
    about.write_text(about.read_text()[:50])
    with pytest.raises(InputError, match="No TFDS dataset"):
        TfdsImages(path, "train", 16)


def _cached(root, **changed):
    """Two classes of three files as the official `main_cache.py` writes them."""
    rng = np.random.default_rng(0)
    for name in ("auk", "wren"):
        (root / name).mkdir(parents=True)
        for i in range(3):
            codes = {key: rng.integers(0, 32, 16) for key in ("indices", "indices_flip")}
            np.savez(root / name / f"{i}.JPEG.npz", **(codes | changed))
    return root


def test_cached_codes(tmp_path):
    root = _cached(tmp_path)
    source = CachedCodes(root, "all", 2, 16, 32)
    record, file = source[4], np.load(root / "wren/1.JPEG.npz")
    np.testing.assert_array_equal(record["codes"], [file["indices"], file["indices_flip"]])
    assert record["codes"].dtype == np.int32 and (record["label"], record["index"]) == (1, 4)
    assert CachedCodes(root, "train", 1, 16, 32)[0]["codes"].shape == (1, 16)
    (root / "auk/0.JPEG.npz").write_bytes(b"PK")
    with pytest.raises(BadImage, match=r"auk/0\.JPEG\.npz cannot be read"):
        source[0]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"indices_flip": np.full(16, 32)}, "holds codes from .* to 32, and the tokenizer has 32"),
        ({"indices": np.full(16, -1)}, "holds codes from -1 to .*made by another tokenizer"),
        (
            {"indices": np.zeros(9, int), "indices_flip": np.zeros(9, int)},
            "holds 9 codes an image, .* make 16; they belong to another grid",
        ),
    ],
)
def test_codes_of_another_tokenizer_or_grid(tmp_path, changed, says):
    with pytest.raises(InputError, match=says) as found:
        CachedCodes(_cached(tmp_path, **changed), "all", 2, 16, 32)[0]
    assert not isinstance(found.value, BadImage)  # all are so: none is to be skipped
