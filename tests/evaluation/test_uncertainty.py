"""Standard errors against the bootstrap itself."""

import numpy as np
import pytest

from lpd_jax.evaluation.distances import inception_score_adm
from lpd_jax.evaluation.uncertainty import score_error, share_error


def bootstrap(figure, count, replicates=400):
    rng = np.random.default_rng(1)
    return np.std([figure(rng.integers(0, count, count)) for _ in range(replicates)], ddof=1)


def test_the_error_of_a_score_is_that_of_the_bootstrap():
    logits = np.random.default_rng(0).normal(scale=3, size=(300, 10))
    redrawn = bootstrap(lambda rows: inception_score_adm(logits[rows]).mean, 300)
    assert score_error([logits]) == pytest.approx(redrawn, rel=0.15)


def test_the_error_of_a_share_is_binomial():
    draws = np.random.default_rng(0).binomial(50, 0.3, 20_000) / 50
    assert share_error(0.3, 50) == pytest.approx(draws.std(), rel=0.02)
