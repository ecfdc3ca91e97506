import numpy as np
import pytest

from lpd_jax.errors import InputError
from lpd_jax.evaluation.moments import Moments


@pytest.fixture(scope="module")
def features():
    """Float32 features far from zero, as sums of squares do not survive."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12)) + 1000).astype(np.float32)


def in_batches(features, size):
    moments = Moments.of(features[:0])
    for start in range(0, len(features), size):
        moments = moments.merge(Moments.of(features[start : start + size]))
    return moments


def close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())


@pytest.mark.parametrize("size", [1, 7, 64, 200])
def test_any_batch_size_gives_mean_and_covariance(features, size):
    moments = in_batches(features, size)
    assert moments.count == 200
    assert moments.mean.dtype == moments.covariance.dtype == np.float64
    close(moments.mean, features.mean(axis=0, dtype=np.float64))
    close(moments.covariance, np.cov(features, rowvar=False, dtype=np.float64))


def test_merging_is_associative_and_commutative(features):
    a, b, c = (Moments.of(part) for part in np.split(features, (3, 90)))
    left, right, turned = a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(b).merge(a)
    for other in (right, turned):
        assert other.count == left.count
        close(other.mean, left.mean)
        close(other.scatter, left.scatter)


def test_nothing_merges_with_nothing(features):
    none = Moments.of(features[:0])
    assert none.merge(none).count == 0
    some = Moments.of(features)
    for merged in (none.merge(some), some.merge(none)):
        np.testing.assert_array_equal(merged.mean, some.mean)
        np.testing.assert_array_equal(merged.scatter, some.scatter)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(features, value):
    bad = features.copy()
    bad[5, 3] = bad[7, 0] = value
    with pytest.raises(InputError, match=r"2 of 200 images are not finite \(first: image 5"):
        Moments.of(bad)


@pytest.mark.parametrize(("count", "said"), [(0, "0 images"), (1, "1 image does")])
def test_a_covariance_needs_two_images(features, count, said):
    with pytest.raises(InputError, match=f"covariance of {said}"):
        _ = Moments.of(features[:count]).covariance


def test_features_of_two_networks_do_not_merge(features):
    with pytest.raises(InputError, match="sizes 12 and 3"):
        Moments.of(features).merge(Moments.of(features[:, :3]))
