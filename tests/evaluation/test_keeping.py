"""Images as files, and how they come back."""

import numpy as np
import pytest
from PIL import Image

from lpd_jax.data import image_sets
from lpd_jax.errors import InputError
from lpd_jax.evaluation.keeping import read_pngs, write_npz, write_pngs

IMAGES = np.random.default_rng(0).integers(0, 256, (11, 6, 8, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    rows = np.random.default_rng(1).permutation(11)
    write_pngs(tmp_path / "png", rows, IMAGES[rows])
    return tmp_path / "png"


def read(path, first=0, size=4):
    batches = [*image_sets.open_images(path).batches(first, size)]
    rows = np.concatenate([batch.rows for batch in batches])
    np.testing.assert_array_equal(rows, np.arange(len(rows)))
    return np.concatenate([batch.images for batch in batches])


def test_pngs_and_the_npz_of_them_hold_every_bit(folder, tmp_path):
    write_npz(tmp_path / "all.npz", folder, 11)
    with np.load(tmp_path / "all.npz") as found:
        assert [*found] == ["arr_0"] and found["arr_0"].dtype == np.uint8
        np.testing.assert_array_equal(found["arr_0"], IMAGES)
    np.testing.assert_array_equal(read_pngs(folder, np.array([3, 1])), IMAGES[[3, 1]])
    for first in (0, 5):
        np.testing.assert_array_equal(read(folder, first), IMAGES[first:])
        np.testing.assert_array_equal(read(tmp_path / "all.npz", first, 3), IMAGES[first:])
    np.savez_compressed(tmp_path / "small.npz", IMAGES)
    np.testing.assert_array_equal(read(tmp_path / "small.npz", 5), IMAGES[5:])


def test_an_npz_that_cannot_be_whole_is_not_there(folder, tmp_path):
    (folder / "000007.png").unlink()
    with pytest.raises(InputError, match=r"000007\.png cannot be read"):
        write_npz(tmp_path / "all.npz", folder, 11)
    assert [*tmp_path.iterdir()] == [folder]


def test_sets_change_their_identity_with_their_files(folder):
    before = image_sets.open_images(folder)
    assert (before.count, before.size) == (11, (6, 8))
    (folder / "000010.png").unlink()
    assert image_sets.open_images(folder).identity != before.identity


def test_what_cannot_be_judged_gets_a_sentence(folder, tmp_path):
    Image.new("RGB", (5, 6)).save(folder / "x.png")
    with pytest.raises(InputError, match=r"x\.png is of 5x6 pixels and the first .* of 8x6"):
        read(folder)
    one = tmp_path / "one"
    write_pngs(one, np.array([0]), IMAGES[:1])
    with pytest.raises(InputError, match="holds 1 image; a distance needs two"):
        read(one)
    with pytest.raises(InputError, match=r"neither a folder of images nor an \.npz"):
        read(tmp_path / "absent.npz")
    np.savez(tmp_path / "floats.npz", IMAGES / 255)
    with pytest.raises(InputError, match=r"arr_0 .* is float64 \[11, 6, 8, 3\]; it must be uint8"):
        read(tmp_path / "floats.npz")
    np.savez(tmp_path / "named.npz", images=IMAGES)
    with pytest.raises(InputError, match="has no array arr_0"):
        read(tmp_path / "named.npz")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no images"):
        read(empty)


def test_an_archive_that_is_damaged_is_named(tmp_path):
    np.savez(tmp_path / "all.npz", np.tile(IMAGES, (50, 1, 1, 1)))
    data = bytearray((tmp_path / "all.npz").read_bytes())
    data[-1000:-900] = bytes(100)
    (tmp_path / "all.npz").write_bytes(data)
    with pytest.raises(InputError, match=r"all\.npz is damaged at image 5"):
        read(tmp_path / "all.npz")
