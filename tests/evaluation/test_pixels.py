import numpy as np
import pytest
from scipy.linalg import sqrtm

from lpd_jax.data.sources import Digits
from lpd_jax.errors import InputError
from lpd_jax.evaluation.pixels import features, frechet_distance, frechet_floor, gray, near_copies


@pytest.fixture(scope="module")
def digits():
    return {s: features(gray(Digits(s, 32).arrays["image"])) for s in ("train", "heldout", "all")}


def test_gray_is_the_area_mean_in_unit_range():
    images = np.zeros((2, 64, 64, 3), np.uint8)
    images[1] = 255
    images[0, :, ::2] = 100
    means = features(gray(images))
    assert means.shape == (2, 1024) and means.dtype == np.float64
    np.testing.assert_allclose(means[0], 50 / 255)
    np.testing.assert_array_equal(means[1], 1)
    assert gray(images[:, :8, :8]).shape == (2, 64)


def test_frechet_agrees_with_the_matrix_square_root():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)) + rng.normal(size=6)
    b = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6))
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    expected = np.square(a.mean(0) - b.mean(0)).sum()
    expected += np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-9)


def test_frechet_of_singular_covariances():
    # Two lines at a right angle have product zero: the distance is the sum of the variances.
    t = np.linspace(-1, 1, 11)
    a, b = (np.zeros((11, 100)) for _ in range(2))
    a[:, 3], b[:, 60] = t, 2 * t
    np.testing.assert_allclose(frechet_distance(a, b), 5 * t.var(ddof=1), rtol=1e-12)
    np.testing.assert_allclose(frechet_distance(a, 2 * a), t.var(ddof=1), rtol=1e-12)


def test_frechet_is_a_symmetric_distance(digits):
    a, b = digits["train"][:200], digits["heldout"][:300]
    assert abs(frechet_distance(a, a)) < 1e-9
    np.testing.assert_allclose(frechet_distance(a, b), frechet_distance(b, a), rtol=1e-9)


def test_frechet_shift_adds_its_square(digits):
    a = digits["heldout"]
    np.testing.assert_allclose(frechet_distance(a, a + 0.1), 1024 * 0.01, rtol=1e-6)


def test_frechet_size_draws_the_same_rows(digits):
    a, b = digits["train"], digits["heldout"]
    assert frechet_distance(a, b, size=100) == frechet_distance(a, b, size=100)
    assert frechet_distance(a, b, size=100) > 1.5 * frechet_distance(a, b, size=400)
    with pytest.raises(InputError, match="at least two images"):
        frechet_distance(a, b, size=1)


def test_real_images_score_the_floor_and_noise_does_not(digits):
    size = len(digits["heldout"])
    floor = frechet_floor(digits["all"], size)
    real = frechet_distance(digits["train"], digits["heldout"], size=size)
    assert 0.7 < real / floor < 1.3
    rng = np.random.default_rng(0)
    noisy = digits["train"] + rng.normal(0, 0.1, digits["train"].shape)
    assert frechet_distance(noisy, digits["heldout"], size=size) > 3 * floor


def test_floor_needs_two_disjoint_sets(digits):
    with pytest.raises(InputError, match="compare at most 898"):
        frechet_floor(digits["all"], 899)


def test_near_copies_finds_copies_and_spares_new_images(digits):
    train, heldout = digits["train"], digits["heldout"]
    assert near_copies(heldout, train) < 0.05
    assert near_copies(train[:300], train) == 1
    noise = np.random.default_rng(0).normal(0, 10 ** (-28 / 20), (300, 1024))
    assert near_copies(train[:300] + noise, train) > 0.95
    half = np.concatenate([train[:300], heldout[:300]])
    assert 0.5 <= near_copies(half, train) < 0.55


def test_near_copies_in_blocks():
    rng = np.random.default_rng(0)
    train = rng.normal(size=(2500, 4))
    shares = [near_copies(x, train) for x in (train, train + 100)]
    assert shares == [1, 0]
