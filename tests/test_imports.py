"""The floors of the house: imports point downwards only, and nobody loads TensorFlow or PyTorch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data import test_codes

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lpd_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# room -> rooms of ours that it may import; what is not listed is a service
SERVICES = {
    "errors",
    "checks",
    "storage",
    "parallel",
    "distributed",
    "checkpoint",
    "metrics",
    "viz",
    "pixels",
}
ALLOWED = {
    "models": {"checks", "errors", "models"},
    "viz": {"errors", "storage", "viz", "pixels"},
    "data": {"errors", "data", *SERVICES},
    "weights": {"errors", "models", "weights", *SERVICES},
    "generation": {"generation", "models", *SERVICES},
    "training": {"training", "models", *SERVICES},
    "evaluation": {"evaluation", "models", "weights", *SERVICES},
    "demo": {"demo", "sampler", "generation", "data", *SERVICES},
    "sampler": {"sampler", "generation", "models", "quantize", "trained", *SERVICES} - {"viz"},
    "errors": set(),
    "xla": set(),
    "pixels": set(),
    "checks": {"errors"},
    "storage": {"errors"},
    "parallel": {"errors"},
    "distributed": {"errors"},
    "checkpoint": {"errors", "storage", "distributed"},
    "metrics": {"errors", "storage"},
}


def room(parts):
    return parts[0].removesuffix(".py")


def imports(file):
    """Dotted names below lpd_jax that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (n.removeprefix("lpd_jax.") for n in names if n.startswith("lpd_jax."))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_point_downwards(file):
    here = file.relative_to(PACKAGE).parts
    allowed = ALLOWED.get(room(here))
    for name in imports(file):
        target = name.split(".")
        if allowed is not None:
            assert room(target) in allowed, f"{file} imports lpd_jax.{name}"
        if here[0] == "tasks" and here[1] not in ("pipeline.py", "ablate.py", "search.py"):
            shared = target[0] != "tasks" or target[1] in (
                "build",
                "check",
                "evaluators",
                "inputs",
                "judging",
                "measuring",
                "reconstructing",
                "results",
                "scoring",
                "start",
                "tokenizer_parts",
                "workdir",
            )
            assert shared, f"{file} imports another task, lpd_jax.{name}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_config_objects_stop_at_the_tasks(file):
    here = file.relative_to(PACKAGE).parts
    if here[0] not in ("tasks", "__main__.py", "config_files.py", "config_help.py"):
        assert "ml_collections" not in file.read_text()


def test_files_stay_readable():
    for file in FILES:
        lines = file.read_text().count("\n")
        assert lines <= 400, f"{file} has {lines} lines"
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno
                assert length <= 80, f"{file}:{node.lineno} {node.name} has {length} lines"


LOADED = """
import sys
import lpd_jax

def loaded(*names):
    print({m for m in sys.modules} & {*names})

loaded("grain", "orbax", "tensorflow_datasets", "sklearn", "scipy", "PIL", "ml_collections",
       "matplotlib", "tensorflow", "torch")
import numpy as np
from lpd_jax.viz.images import grid
grid(np.zeros((2, 4, 4, 3), np.uint8), 2)
loaded("matplotlib", "tensorflow", "torch")
from lpd_jax.configs import digits
from lpd_jax.tasks import check
check.config(digits.get_config(), "pipeline")
loaded("tensorflow_datasets", "tensorflow")
import lpd_jax.tasks.pipeline
import lpd_jax.viz.plots
from lpd_jax.data.codes import load_codes
load_codes(sys.argv[1], "train")
loaded("matplotlib.pyplot", "tensorflow", "torch")
"""


def test_a_notebook_and_a_check_load_little_and_nobody_tensorflow_or_pytorch(tmp_path):
    """Nor do pictures load what draws plots, and plots never pyplot, which has a global state."""
    command = [sys.executable, "-c", LOADED, test_codes.dataset(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert done.stdout.decode().split() == ["set()"] * 4
