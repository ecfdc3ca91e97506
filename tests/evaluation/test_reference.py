import hashlib

import numpy as np
import pytest

from lpd_jax.errors import InputError
from lpd_jax.evaluation import reference
from lpd_jax.evaluation.reference import Reference


@pytest.fixture(scope="module")
def statistics():
    """As ADM's files have them: means in float32, covariances in float64."""
    rng = np.random.default_rng(0)
    arrays = {}
    for end, size in (("", 2048), ("_s", 2023)):
        root = rng.normal(size=(size, 3))
        arrays |= {f"mu{end}": rng.normal(size=size).astype(np.float32)}
        arrays |= {f"sigma{end}": root @ root.T}
    return arrays


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (23, 16, 16, 3), dtype=np.uint8)


def assert_statistics(read, arrays, names):
    for name in names:
        ours = getattr(read, name)
        assert ours.dtype == np.float64
        np.testing.assert_array_equal(ours, arrays[name])


def test_a_reference_of_adm(tmp_path, statistics, images):
    path = tmp_path / "VIRTUAL_imagenet256_labeled.npz"
    np.savez(path, arr_0=images, arr_1=np.zeros(23), **statistics)
    read = reference.read(path)
    assert_statistics(read, statistics, ("mu", "sigma", "mu_s", "sigma_s"))
    assert (read.name, read.size, read.images, read.count) == (path.name, 16, 23, None)
    assert read.pool3 is None
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("prefix", ["", "ref_"])
def test_a_file_of_statistics_alone(tmp_path, statistics, prefix):
    np.savez(tmp_path / "stats.npz", **{prefix + k: statistics[k] for k in ("mu", "sigma")})
    read = reference.read(tmp_path / "stats.npz")
    assert_statistics(read, statistics, ("mu", "sigma"))
    assert read.mu_s is read.sigma_s is read.pool3 is read.size is read.count is None
    assert read.images == 0


def test_what_is_written_is_read(tmp_path, statistics):
    features = np.random.default_rng(2).normal(size=(5, 2048)).astype(np.float32)
    wide = {name: np.float64(array) for name, array in statistics.items()}
    made = Reference(**wide, name="my images", pool3=features, count=5, size=64)
    reference.write(tmp_path / "own.npz", made)
    read = reference.read(tmp_path / "own.npz")
    assert_statistics(read, statistics, ("mu", "sigma", "mu_s", "sigma_s"))
    np.testing.assert_array_equal(read.pool3, features)
    assert (read.name, read.count, read.size, read.images) == ("my images", 5, 64, 0)
    bare = Reference(wide["mu"], wide["sigma"], "bare", classes=7)
    reference.write(tmp_path / "own.npz", bare)
    read = reference.read(tmp_path / "own.npz")
    assert read.mu_s is read.pool3 is read.count is read.size is None and read.classes == 7
    with pytest.raises(InputError, match=r"written as \.npz"):
        reference.write(tmp_path / "own.pkl", bare)


@pytest.mark.parametrize(
    ("labels", "count"),
    [
        (np.arange(23) % 2, 2),
        (np.arange(23) % 3, None),
        (np.zeros(9, int), None),
        ([0.0] * 23, None),
    ],
)
def test_the_classes_of_labelled_images(labels, count):
    """ADM's labels, where there are enough that no class is likely to be absent."""
    assert reference._classes({"arr_1": np.asarray(labels)}, 23) == count
    assert reference._classes({"arr_1": np.asarray(labels), "classes": np.array(7)}, 23) == 7


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"mu": np.zeros(768), "sigma": np.eye(768)}, r"\[768\] and \[768, 768\]"),
        ({"mu": np.zeros(2048), "sigma": np.eye(768)}, r"\[2048\] and \[768, 768\]"),
        ({"mu": np.zeros(2048)}, "no statistics mu and sigma .it holds mu"),
        ({"features": np.zeros(3)}, "it holds features"),
        ({"mu": np.full(2048, np.nan), "sigma": np.eye(2048)}, "NaN"),
        ({"mu": np.zeros(2048), "sigma": np.diag(np.full(2048, np.inf))}, "infinity"),
        ({"mu": np.zeros(2048), "sigma": np.triu(np.ones((2048, 2048)))}, "not symmetric"),
        ({"mu": np.array(["a"]), "sigma": np.eye(2)}, r"\[1\]"),
        ({"mu": np.array([{}]), "sigma": np.eye(2)}, "cannot be read"),
    ],
)
def test_statistics_that_are_refused(tmp_path, arrays, said):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(InputError, match=said) as error:
        reference.read(tmp_path / "bad.npz")
    assert "bad.npz" in str(error.value)


def test_parts_of_a_reference_that_are_refused(tmp_path, statistics, images):
    def said(match, **arrays):
        np.savez(tmp_path / "bad.npz", **statistics | arrays)
        with pytest.raises(InputError, match=match):
            reference.read(tmp_path / "bad.npz")

    said("mu_s and sigma_s", mu_s=np.zeros(2048), sigma_s=np.eye(2048))
    said("sigma_s of .* NaN", sigma_s=statistics["sigma_s"] * np.nan)
    said(r"uint8 \[23, 16, 12, 3\]", arr_0=images[:, :, :12])
    said(r"uint8 \[23, 16, 16\]", arr_0=images[..., 0])
    said("arr_0 of .* float32", arr_0=images.astype(np.float32))
    said(r"pool3 of .* is \[5, 768\]", pool3=np.zeros((5, 768)))
    said("pool3 of .* NaN", pool3=np.full((5, 2048), np.nan))


def test_files_that_are_no_reference(tmp_path):
    with pytest.raises(InputError, match="There is no reference"):
        reference.read(tmp_path / "absent.npz")
    path = tmp_path / "bad.npz"
    for content in (b"", b"not a zip file", b"PK\x03\x04 and nothing"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.npz"):
            reference.read(path)


def test_damaged_bytes_are_noticed(tmp_path, statistics):
    """A flipped byte in the middle fails the checksum of the archive."""
    path = tmp_path / "bad.npz"
    np.savez(path, mu=statistics["mu"], sigma=statistics["sigma"])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        reference.read(path)
