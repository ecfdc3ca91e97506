"""From units to figures, with a network of few features."""

import numpy as np
import pytest

from lpd_jax.configs import digits, lpd_256, lpd_512
from lpd_jax.errors import InputError
from lpd_jax.evaluation import distances, scores
from lpd_jax.evaluation.published import PUBLISHED, published
from lpd_jax.evaluation.report import table
from lpd_jax.evaluation.units import Units, fill
from tests.evaluation.test_units import COUNT, IMAGES, extractor, stream


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    place = tmp_path_factory.mktemp("units")
    units = Units(place / "units", COUNT)
    fill(units, extractor(), stream(64))
    return scores.gather(units, place)


@pytest.fixture(scope="module")
def reference(features):
    return scores.reference_of(features, "test", 4, keep=50)


def test_figures_are_those_of_all_features_at_once(features, reference):
    pool3, spatial = (extractor()(IMAGES)[name].astype(float) for name in ("pool3", "spatial"))
    other = {"mu": np.zeros(12), "sigma": np.eye(12), "mu_s": np.ones(5), "sigma_s": np.eye(5)}
    real = scores.dataclasses.replace(reference, **other)
    found = scores.score(features, real, np.asarray(pool3[:50], np.float32))
    plain = {
        "fid": distances.frechet(pool3.mean(0), np.cov(pool3.T), np.zeros(12), np.eye(12)),
        "sfid": distances.frechet(spatial.mean(0), np.cov(spatial.T), np.ones(5), np.eye(5)),
        "inception_score": distances.inception_score(features.logits).mean,
        "inception_score_adm": distances.inception_score_adm(features.logits).mean,
    }
    for name, value in plain.items():
        assert found[name]["value"] == pytest.approx(value, rel=1e-9), name
    assert found["recall"]["value"] == 1  # the reference's images are among them
    assert all(figure["error"] >= 0 for figure in found.values())


def test_images_are_no_distance_from_themselves(features, reference):
    found = scores.score(features, reference, reference.pool3)
    for name in ("fid", "sfid"):
        assert 0 <= found[name]["value"] + 1e-9 < 1e-6
    assert len(reference.pool3) == 50 and reference.count == COUNT and reference.size == 4
    assert {*scores.score(features, None, None)} == {"inception_score", "inception_score_adm"}


def test_a_reference_of_another_network_is_refused(features, reference):
    other = scores.dataclasses.replace(reference, mu=np.zeros(9), sigma=np.eye(9))
    with pytest.raises(InputError, match="12 and of 9 features"):
        scores.score(features, other, None)


def test_a_single_image_is_no_set(tmp_path):
    units = Units(tmp_path / "units", 1)
    fill(units, extractor(), lambda first: iter(()) if first else [*stream(1)(0)][:1])
    with pytest.raises(InputError, match="at least two images"):
        scores.gather(units, tmp_path)


def test_every_figure_says_what_it_is_and_what_the_paper_has(features, reference):
    found = scores.score(features, reference, reference.pool3)
    told = scores.described(found, "w" * 64, "r" * 64, {"fid": 2.1})
    assert {*told} == {*scores.CONVENTIONS} == {*scores.ERRORS}
    for name, figure in told.items():
        assert figure["tool"] and figure["convention"] and figure["error_is"]
        assert figure["weights"] == "w" * 64
        assert ("reference" in figure) == (not name.startswith("inception_score"))
        assert figure["published"] == (2.1 if name == "fid" else None)
    (line,) = (row for row in table(told).splitlines() if row.startswith("FID"))
    assert line.split()[-1] == "2.10"


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.config)
def test_published_figures_are_those_of_the_config_that_they_name(row):
    name, _, size = row.config.partition(":")
    config = {"lpd_256": lpd_256, "lpd_512": lpd_512}[name].get_config(size)
    assert config.evaluate.num_images == 50_000 and config.data.size == row.size
    assert published(row.size, config.decoder, config.sample, 50_000) is row
    assert published(row.size, config.decoder, config.sample, 10_000) is None
    config.sample.guidance += 0.1
    assert published(row.size, config.decoder, config.sample, 50_000) is None


def test_other_models_have_no_published_figures():
    config = digits.get_config()
    assert published(32, config.decoder, config.sample, 50_000) is None
