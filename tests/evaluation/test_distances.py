"""Against SciPy, scikit-learn, torch-fidelity, clean-fid and closed forms."""

import json
import tracemalloc

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.special import log_softmax
from scipy.stats import entropy
from sklearn.neighbors import NearestNeighbors

from lpd_jax.errors import InputError
from lpd_jax.evaluation.distances import (
    frechet,
    frechet_error,
    inception_score,
    inception_score_adm,
    precision_recall,
)
from tests.reference import metrics


def gaussian(seed, size, count=None, mean=0.0):
    """Mean and covariance of `count` random features, full rank when that is None."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count or 20 * size, size)) * rng.uniform(0.1, 3, size) + mean
    return x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))


def by_square_root(mu1, sigma1, mu2, sigma2):
    trace = np.trace(sigma1 + sigma2 - 2 * sqrtm(sigma1 @ sigma2).real)
    return np.square(mu1 - mu2).sum() + trace


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_frechet_agrees_with_the_matrix_square_root(size):
    a, b = gaussian(0, size), gaussian(1, size, mean=0.3)
    np.testing.assert_allclose(frechet(*a, *b), by_square_root(*a, *b), rtol=1e-9)
    np.testing.assert_allclose(frechet(*a, *b), frechet(*b, *a), rtol=1e-12)


def test_frechet_of_gaussians_of_known_distance():
    """Covariances that commute: the distance is that of standard deviations, axis by axis."""
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    a, b = rng.uniform(0, 4, (2, 30))
    mu = rng.normal(size=(2, 30))
    expected = np.square(mu[0] - mu[1]).sum() + np.square(a - b).sum()
    found = frechet(mu[0], axes * a**2 @ axes.T, mu[1], axes * b**2 @ axes.T)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_frechet_of_degenerate_covariances():
    """Points and lines, which a square root of the product loses half its digits on."""
    none, zero = np.zeros(50), np.zeros((50, 50))
    rng = np.random.default_rng(0)
    u, v = np.linalg.qr(rng.normal(size=(50, 2)))[0].T
    line, across = np.outer(u, u), 4 * np.outer(v, v)
    assert frechet(none, zero, none, zero) == 0
    np.testing.assert_allclose(frechet(none, zero, none + 1, zero), 50, rtol=1e-12)
    np.testing.assert_allclose(frechet(none, line, none, zero), 1, rtol=1e-12)
    np.testing.assert_allclose(frechet(none, line, none, across), 5, rtol=1e-12)
    np.testing.assert_allclose(frechet(none, line, none, 9 * line), 4, rtol=1e-12)
    assert abs(frechet(none, line, none, line)) < 1e-12


def test_frechet_of_fewer_images_than_dimensions():
    """Exact by the features themselves; the eigenvalues of the product are off by far more."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 200)), rng.normal(size=(30, 200))
    a, b = ((z - z.mean(0)) / np.sqrt(len(z) - 1) for z in (x, y))
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    means = np.square(x.mean(0) - y.mean(0)).sum()
    expected = means + np.square(a).sum() + np.square(b).sum() - 2 * cross
    one, other = (x.mean(0), np.cov(x.T)), (y.mean(0), np.cov(y.T))
    np.testing.assert_allclose(frechet(*one, *other), expected, rtol=1e-12)
    assert abs(frechet(*one, *one)) < 1e-10


def test_frechet_forgives_float32_and_refuses_what_is_no_covariance():
    mu, sigma = gaussian(0, 40, count=20)
    rough = sigma.astype(np.float32)
    assert np.linalg.eigvalsh(rough).min() < 0
    np.testing.assert_allclose(frechet(mu, rough, mu, sigma), 0, atol=1e-4 * np.trace(sigma))
    with pytest.raises(InputError, match="negative variances"):
        frechet(mu, sigma - 0.01 * np.trace(sigma) * np.eye(40), mu, sigma)


def test_frechet_refuses_nan_and_other_sizes():
    mu, sigma = gaussian(0, 4)
    with pytest.raises(InputError, match="NaN"):
        frechet(mu, sigma, mu * np.nan, sigma)
    with pytest.raises(InputError, match="NaN"):
        frechet(mu, sigma * np.nan, mu, sigma)
    with pytest.raises(InputError, match="Statistics of 4 and of 3"):
        frechet(mu, sigma, *gaussian(0, 3))
    with pytest.raises(InputError, match="do not belong together"):
        frechet(mu, sigma[:3], mu, sigma)


def test_the_error_is_the_spread_of_the_effects_of_single_images():
    """The derivative of the distance by the weight of each image, by finite differences."""
    rng = np.random.default_rng(0)
    x, other = rng.normal(size=(300, 6)) ** 3, gaussian(1, 6)

    def distance(weights):
        weights = weights / weights.sum()
        mean = weights @ x
        return frechet(mean, (x - mean).T * weights @ (x - mean), *other)

    shift = 1e-5 * np.eye(300)
    effects = [(distance(1 + s) - distance(1 - s)) / 2e-5 * 300 for s in shift]
    expected = np.std(effects) / np.sqrt(300)
    np.testing.assert_allclose(frechet_error(x, *other), expected, rtol=0.01)


@pytest.mark.parametrize(("size", "count"), [(8, 400), (20, 100)])
def test_the_error_is_that_of_drawing_other_images(size, count):
    rng = np.random.default_rng(0)
    scale, other = rng.uniform(0.3, 2, size), gaussian(1, size)
    draws = [rng.normal(size=(count, size)) * scale for _ in range(200)]
    distances = [frechet(x.mean(0), np.cov(x.T), *other) for x in draws]
    errors = [frechet_error(x, *other) for x in draws[:20]]
    np.testing.assert_allclose(np.mean(errors), np.std(distances), rtol=0.2)


def test_the_error_of_fewer_images_than_features_is_finite():
    x = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32)
    assert (
        0 < frechet_error(x, *gaussian(1, 50)) < frechet(x.mean(0), np.cov(x.T), *gaussian(1, 50))
    )
    with pytest.raises(InputError, match="at least two images"):
        frechet_error(x[:1], *gaussian(1, 50))


def test_the_figures_of_torch_fidelity_and_clean_fid(request):
    """On the same features and logits, which `tests/reference/metrics.py` draws."""
    theirs = json.loads((request.config.rootpath / "tests/reference/metrics.json").read_text())
    real, made = metrics.random_features()
    statistics = (made.mean(0), np.cov(made.T), real.mean(0), np.cov(real.T))
    for name in ("torch-fidelity", "clean-fid"):
        expected = theirs[f"Fréchet distance of {name}"]
        np.testing.assert_allclose(frechet(*statistics), expected, rtol=1e-6)
    score = inception_score(metrics.random_logits())
    np.testing.assert_allclose(score[:2], theirs["inception score and deviation"], rtol=1e-9)
    shares = precision_recall(real, made)
    assert min(shares) > 0.1 and max(shares) < 0.9
    np.testing.assert_allclose(shares, theirs["precision and recall"], atol=1e-6)


@pytest.mark.parametrize("size", [8, 30])
def test_the_error_is_that_of_the_bootstrap(size):
    """Of images that are many times more than features; drawing one twice narrows the rest."""
    rng = np.random.default_rng(0)
    x, other = np.abs(rng.normal(size=(40 * size, size))), gaussian(1, size)
    draws = (x[rng.integers(0, len(x), len(x))] for _ in range(200))
    distances = [frechet(y.mean(0), np.cov(y.T), *other) for y in draws]
    np.testing.assert_allclose(frechet_error(x, *other), np.std(distances), rtol=0.2)


@pytest.fixture(scope="module")
def logits():
    """Of images in class order, a thousand of each of 8 of 20 classes."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(8000, 20))
    logits[np.arange(8000), np.arange(8000) // 1000] += 4
    return logits.astype(np.float32)


def score_by_scipy(logits, splits):
    """exp of the mean entropy of p(class | image) relative to p(class)."""
    scores = []
    for part in splits:
        p = np.exp(log_softmax(logits[part].astype(np.float64), axis=1))
        scores.append(np.exp(entropy(p, np.broadcast_to(p.mean(0), p.shape), axis=1).mean()))
    return np.mean(scores), np.std(scores)


def test_inception_score_of_torch_fidelity(logits):
    order = np.random.RandomState(2020).permutation(len(logits))
    splits = [order[i * 800 : (i + 1) * 800] for i in range(10)]
    found = inception_score(logits)
    np.testing.assert_allclose(found[:2], score_by_scipy(logits, splits), rtol=1e-10)
    assert found.splits == 10


def test_inception_score_of_adm_has_consecutive_splits(logits):
    found = inception_score_adm(logits)
    splits = (slice(0, 5000), slice(5000, 8000))
    np.testing.assert_allclose(found[:2], score_by_scipy(logits, splits), rtol=1e-10)
    assert found.splits == 2
    # In class order a split lacks classes: torch-fidelity's is the higher.
    assert found.mean < 0.8 * inception_score(logits).mean
    few = inception_score_adm(logits[:4000])
    np.testing.assert_allclose(few[:2], score_by_scipy(logits, [slice(0, 4000)]), rtol=1e-10)
    assert few.splits == 1


@pytest.mark.parametrize("score", [lambda x: inception_score(x, 1), inception_score_adm])
def test_inception_score_in_closed_form(score):
    """Sure of each of C classes, equally often: C. The same for all images: 1."""
    sure = 1e4 * np.eye(6)[np.arange(60) % 6]
    np.testing.assert_allclose(score(sure).mean, 6, rtol=1e-12)
    np.testing.assert_allclose(score(np.tile(np.arange(6.0), (60, 1))).mean, 1, rtol=1e-12)
    # Logits are known up to a number for each image; probabilities' logarithms are logits too.
    noise = np.random.default_rng(0).normal(size=(60, 6))
    expected = score(noise).mean
    np.testing.assert_allclose(score(noise + 1000).mean, expected, rtol=1e-9)
    np.testing.assert_allclose(score(log_softmax(noise, axis=1)).mean, expected, rtol=1e-12)


def test_inception_score_refuses_few_images_and_nan(logits):
    with pytest.raises(InputError, match="10 splits needs as many images; there are 9"):
        inception_score(logits[:9])
    with pytest.raises(InputError, match="there are none"):
        inception_score_adm(logits[:0])
    for score in (inception_score, inception_score_adm):
        with pytest.raises(InputError, match="not finite"):
            score(np.where(np.arange(8000)[:, None] == 3, np.nan, logits))


def by_neighbours(real, fake, k):
    def radii(x):
        return NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x)[0][:, k]

    between = np.linalg.norm(fake[:, None] - real, axis=-1)
    precision = (between <= radii(real)).any(axis=1).mean()
    return precision, (between <= radii(fake)[:, None]).any(axis=0).mean()


@pytest.mark.parametrize("block", [32, 100, 2048])
@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_agree_with_nearest_neighbours(block, k):
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(300, 8)), 0.9 * rng.normal(size=(220, 8)) + 0.7
    expected = by_neighbours(real, fake, k)
    assert 0.2 < expected[1] < expected[0] < 0.95
    np.testing.assert_allclose(precision_recall(real, fake, k, block), expected, atol=1e-12)


def test_precision_and_recall_of_copies_and_of_strangers():
    real = np.random.default_rng(0).normal(size=(100, 16))
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real + 100) == (0, 0)
    # One mode of two: all that is made is real, half of what is real is made.
    modes = np.concatenate([real, real + 100])
    assert precision_recall(modes, real) == (1, 0.5)
    assert precision_recall(real, modes) == (0.5, 1)


def test_precision_and_recall_do_not_cancel_far_from_zero():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(200, 8)), rng.normal(size=(200, 8)) + 0.5
    expected = precision_recall(real, fake)
    assert precision_recall(real + 2000, fake + 2000) == expected


def test_precision_and_recall_leave_mapped_features_on_disk(tmp_path):
    rng = np.random.default_rng(0)
    real = rng.normal(size=(100, 500)).astype(np.float32)
    fake = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (3000, 500))
    fake[:] = rng.normal(size=fake.shape)
    precision_recall(real, fake[:200], block=100)  # compiles, which takes memory of its own
    tracemalloc.start()
    precision_recall(real, fake, block=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < fake.nbytes / 2


def test_precision_and_recall_refuse_what_they_cannot_use():
    x = np.random.default_rng(0).normal(size=(10, 4))
    with pytest.raises(InputError, match="at least 4 real images; there are 3"):
        precision_recall(x[:3], x)
    with pytest.raises(InputError, match="at least 4 generated images; there are 3"):
        precision_recall(x, x[:3])
    with pytest.raises(InputError, match="generated images are not finite"):
        precision_recall(x, np.where(x > 1, np.nan, x))
    with pytest.raises(InputError, match="have 4 features and generated ones 3"):
        precision_recall(x, x[:, :3])
