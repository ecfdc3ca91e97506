"""What the parity tests share: the reference directory, and the one tolerance.

`LPD_REFERENCE_DIR` names a directory in the format of `tests/reference/README.md`; the default is
the committed subset. Models, sizes and settings come from its `configs.json` and arrays. A test
whose arrays are absent is skipped by name.
"""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

DIRECTORY = Path(os.environ.get("LPD_REFERENCE_DIR", Path(__file__).parents[1] / "reference"))
TOLERANCE = 2e-5
WORST = pytest.StashKey[dict[str, float]]()


class Arrays:
    """The arrays of one `.npz` of the directory; asking for one that is absent skips the test."""

    def __init__(self, name):
        self.name = name
        path = DIRECTORY / name
        self._file = np.load(path) if path.is_file() else None

    def __contains__(self, key):
        return self._file is not None and key in self._file

    def __getitem__(self, key):
        if self._file is None:
            pytest.skip(f"{self.name} is not in {DIRECTORY}")
        if key not in self._file:
            pytest.skip(f"{self.name} has no {key}")
        return self._file[key]

    def under(self, prefix):
        """{rest of the key: array} of all keys that begin with the prefix, at least one."""
        found = [key for key in self._file or () if key.startswith(prefix)]
        if not found:
            pytest.skip(f"{self.name} has no {prefix}*")
        return {key[len(prefix) :]: self._file[key] for key in found}


def model_configs(field):
    """{name: settings} of the models in configs.json that have this field."""
    path = DIRECTORY / "configs.json"
    configs = json.loads(path.read_text()) if path.is_file() else {}
    return {k: c for k, c in configs.items() if isinstance(c, dict) and field in c}


def settings(file, letter):
    """Numbers i of the settings `{letter}{i}/` (or `{letter}{i}`) in a file; at least [0]."""
    path = DIRECTORY / file
    found = set()
    for key in np.load(path).files if path.is_file() else ():
        head = key.split("/")[0]
        if head.startswith(letter) and head[len(letter) :].isdigit():
            found.add(int(head[len(letter) :]))
    return sorted(found) or [0]


def pytest_generate_tests(metafunc):
    """Parametrises by what the directory holds; `absent` stands for a kind it has none of."""
    names = metafunc.fixturenames
    tokenizers = list(model_configs("codebook_size")) or ["absent"]
    decoders = list(model_configs("decoder_depth")) or ["absent"]
    orders = sorted(p.name for p in DIRECTORY.glob("orders_*.npz")) or ["orders_absent.npz"]
    if "tokenizer_name" in names:
        metafunc.parametrize("tokenizer_name", tokenizers, scope="session")
    if "schedule_case" in names:
        cases = [(name, i) for name in decoders for i in settings(f"{name}.npz", "g")]
        metafunc.parametrize("schedule_case", cases, ids=lambda c: f"{c[0]}-g{c[1]}")
    elif "decoder_name" in names:
        metafunc.parametrize("decoder_name", decoders, scope="session")
    if "orders_file" in names:
        metafunc.parametrize("orders_file", orders)


def pytest_terminal_summary(terminalreporter, config):
    """With -v, the worst difference each test has seen, as a fraction of the tensor's scale."""
    if config.option.verbose > 0:
        for test, worst in sorted(config.stash.get(WORST, {}).items()):
            terminalreporter.write_line(f"{worst:.1e} {test}")


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="session")
def reference():
    """Name of an `.npz` -> its `Arrays`."""
    return Arrays


@pytest.fixture(scope="session")
def reference_directory():
    return DIRECTORY


@pytest.fixture(scope="session")
def reference_configs():
    """Field that marks a kind of model -> {name: settings}."""
    return model_configs


@pytest.fixture
def close(request):
    """Asserts that arrays agree to 2e-5 of the reference's largest entry."""

    name = request.node.nodeid.rpartition("/")[2]
    seen = request.config.stash.setdefault(WORST, {})

    def check(ours, theirs, what=""):
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        assert ours.shape == theirs.shape, f"{what}: {ours.shape} against {theirs.shape}"
        worst, scale = np.abs(ours - theirs).max(), np.abs(theirs).max()
        seen[name] = max(seen.get(name, 0.0), worst / scale if scale else worst)
        assert worst <= TOLERANCE * scale, f"{what}: off by {worst:.2e} at scale {scale:.2e}"

    return check
