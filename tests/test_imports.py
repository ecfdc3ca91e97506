"""The floors of the house: imports point downwards only, and nobody loads TensorFlow or PyTorch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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
        if here[0] == "tasks" and here[1] not in ("pipeline.py", "ablate.py"):
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


def test_a_notebook_and_a_check_load_little_and_nobody_tensorflow_or_pytorch():
    code = (
        "import sys, lpd_jax\n"
        "print({m.split('.')[0] for m in sys.modules} & {'grain', 'orbax', 'tensorflow_datasets',"
        " 'sklearn', 'scipy', 'matplotlib', 'PIL', 'ml_collections', 'tensorflow', 'torch'})\n"
        "from lpd_jax.configs import digits; from lpd_jax.tasks import check\n"
        "check.config(digits.get_config(), 'pipeline')\n"
        "print({m.split('.')[0] for m in sys.modules} & {'tensorflow_datasets', 'tensorflow'})\n"
        "import lpd_jax.tasks.pipeline\n"
        "print({m.split('.')[0] for m in sys.modules} & {'tensorflow', 'torch'})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    assert done.stdout.decode().split() == ["set()"] * 3
