"""The network against torch-fidelity's, and the files that its weights come in.

Weights are random: drawn by `tests/reference/inception.py`, which made the answers with PyTorch.
"""

import collections
import hashlib
import pickle
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from lpd_jax.errors import InputError
from lpd_jax.evaluation import inception_weights
from lpd_jax.evaluation.inception import abstract_variables, apply_inception
from lpd_jax.evaluation.inception_weights import load
from tests.reference import inception as inception_reference

TOLERANCE = 2e-5  # of the largest entry
# PyTorch's names of the arrays of a normalisation, and jax-fid's.
BATCH_NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


@pytest.fixture(scope="module")
def state():
    """The random state dict, with what the network does not use."""
    shapes = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_variables()["params"]):
        *parents, kind = (key.key for key in path)
        if kind != "kernel" or parents == ["fc"]:
            continue
        rows, columns, inputs, outputs = leaf.shape
        name = ".".join(parents)
        shapes[f"{name}.conv.weight"] = (outputs, inputs, rows, columns)
        shapes |= {f"{name}.bn.{entry}": (outputs,) for entry in BATCH_NORM}
    state = {name: inception_reference.random_array(name, shape) for name, shape in shapes.items()}
    return state | {"Conv2d_1a_3x3.bn.num_batches_tracked": np.zeros((), np.int64)}


@pytest.fixture(scope="module")
def weights_file(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def loaded(weights_file):
    return load(weights_file)


def jax_fid(state):
    """The nested dicts of jax-fid's pickle."""
    tree = {}
    for name, array in state.items():
        *parents, leaf = name.split(".")
        if leaf == "num_batches_tracked":
            continue
        if leaf == "weight" and array.ndim > 1:
            leaf, array = "kernel", array.transpose((2, 3, 1, 0) if array.ndim == 4 else (1, 0))
        elif parents[-1] == "bn":
            leaf = BATCH_NORM[leaf]
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = array
    return tree


def test_the_features_of_torch_fidelity(loaded, request):
    theirs = np.load(request.config.rootpath / "tests/reference/inception_fid.npz")
    images = inception_reference.random_images()
    ours = jax.jit(apply_inception)(loaded.variables, images)
    assert ours._fields == ("pool3", "spatial", "logits") == tuple(theirs)
    for name, array in ours._asdict().items():
        assert array.dtype == np.float32 and array.shape == theirs[name].shape
        scale = np.abs(theirs[name]).max()
        # Two images that the network cannot tell apart would prove little.
        assert np.abs(np.diff(theirs[name], axis=0)).max() > 0.02 * scale
        worst = np.abs(array - theirs[name]).max() / scale
        assert worst <= TOLERANCE, f"{name}: {worst:.1e}"


def test_the_pickle_of_jax_fid_says_the_same(loaded, state, tmp_path):
    path = tmp_path / "inception_v3_weights_fid.pickle"
    path.write_bytes(pickle.dumps(jax_fid(state), protocol=4))
    read = load(path)
    jax.tree.map(np.testing.assert_array_equal, read.variables, loaded.variables)
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read.name == "unknown weights"


def test_a_pytorch_file(loaded, state, tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "w.pth"
    torch.save({name: torch.from_numpy(array) for name, array in state.items()}, path)
    jax.tree.map(np.testing.assert_array_equal, load(path).variables, loaded.variables)


def test_a_pytorch_file_without_torch(tmp_path, monkeypatch):
    (tmp_path / "w.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"lpd-jax\[torch\]"):
        load(tmp_path / "w.pth")


def test_known_files_are_named(weights_file, loaded, monkeypatch):
    assert loaded.name == "unknown weights"
    monkeypatch.setitem(inception_weights.KNOWN, loaded.sha256, "those of the test")
    assert load(weights_file).name == "those of the test"
    assert sorted(key[:8] for key in inception_weights.KNOWN if key != loaded.sha256) == [
        "4e030efa",
        "6726825d",
    ]


def test_normalisation_is_folded(loaded, state):
    """One convolution by hand, in float64."""
    name = "Mixed_6d.branch7x7_2"
    rng = np.random.default_rng(0)
    patch = rng.normal(size=state[f"{name}.conv.weight"].shape[1:])
    one = np.float64(state[f"{name}.conv.weight"][3] * patch).sum()
    scale, bias, mean, var = (np.float64(state[f"{name}.bn.{leaf}"][3]) for leaf in BATCH_NORM)
    expected = (one - mean) / np.sqrt(var + 1e-3) * scale + bias
    ours = loaded.variables["params"]["Mixed_6d"]["branch7x7_2"]
    found = (ours["kernel"][..., 3] * patch.transpose(1, 2, 0)).sum() + ours["bias"][3]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_weights_of_another_network_are_refused(state, tmp_path):
    def said(match, arrays):
        np.savez(tmp_path / "w.npz", **arrays)
        with pytest.raises(InputError, match=match) as error:
            load(tmp_path / "w.npz")
        assert "\n" not in str(error.value) and len(str(error.value)) < 700

    small = {name: array for name, array in state.items() if "Mixed" not in name}
    said(r"Conv2d_1a_3x3\.conv\.weight is missing.* and \d+ more", {"head.weight": np.zeros(2)})
    said(r"Mixed_5b\.branch1x1\.conv\.weight is missing", small)
    name = "Conv2d_1a_3x3.bn.bias"
    shapes = {"fc.weight": np.zeros((1000, 2048)), name: np.zeros(31)}
    said(rf"{name} is \(31,\) .*fc\.weight is \(1000, 2048\) instead of", state | shapes)
    said(rf"\({name} is not all finite numbers\)", state | {name: np.full(32, np.nan)})


def test_files_that_are_no_weights(tmp_path):
    for name in ("w.npz", "w.safetensors", "w.pickle", "w.bin"):
        with pytest.raises(InputError, match=rf"no file of Inception weights .*{name}"):
            load(tmp_path / name)
        (tmp_path / name).write_bytes(b"not weights at all")
        with pytest.raises(InputError, match=name):
            load(tmp_path / name)
    (tmp_path / "w.pickle").write_bytes(pickle.dumps(np.zeros(100))[:-40])
    with pytest.raises(InputError, match=r"w\.pickle is"):
        load(tmp_path / "w.pickle")
    (tmp_path / "w.pickle").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(InputError, match="is not the Inception-v3 of FID"):
        load(tmp_path / "w.pickle")


class Danger:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_cannot_run_code(tmp_path, protocol):
    mark = tmp_path / "mark"
    harmless = {"a": np.zeros(2), "b": [1, (2.0, "x", None)], "c": collections.OrderedDict(d=True)}
    for content in (Danger(str(mark)), harmless | {"e": Danger(str(mark))}, Danger, len):
        (tmp_path / "w.pickle").write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(InputError, match="can run code"):
            load(tmp_path / "w.pickle")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Danger(str(mark)), protocol)).close()
    assert mark.exists()
    # Without it, the same is read.
    (tmp_path / "w.pickle").write_bytes(pickle.dumps(harmless, protocol))
    with pytest.raises(InputError, match="is not the Inception-v3 of FID"):
        load(tmp_path / "w.pickle")
