"""A wheel holds all that the commands need, wherever they are run."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from lpd_jax import config_files

ROOT = Path(__file__).parents[1]
TINY = """
from lpd_jax.configs import digits

def get_config():
    config = digits.get_config()
    config.tokenizer.update(ch=4, ch_mult=(1, 1, 1), z_channels=4, norm_groups=2, codebook_size=16)
    config.encode.update(batch_size=256)
    config.decoder.update(width=16, depth=1, heads=2, unroll=1)
    config.train_tokenizer.update(steps=2, batch_size=4, warmup_steps=1)
    config.train.update(steps=2, batch_size=4, warmup_steps=0, decay_start=1, schedules=(8,))
    config.sample.update(steps=3, count=1)
    config.evaluate.steps = 3
    return config
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory with what the wheel of this tree installs, and one to run commands in."""
    if int(metadata.version("setuptools").split(".")[0]) < 77:
        pytest.skip("needs setuptools 77, which the extra `test` brings")
    where = tmp_path_factory.mktemp("wheel")
    source = where / "source"
    source.mkdir()
    for name in ("lpd_jax", "configs", "launch"):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", f"--wheel-dir={where}", str(source)]
    subprocess.run(command, check=True)
    (wheel,) = where.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(where / "site")
    shutil.rmtree(source)
    (where / "elsewhere").mkdir()
    return where / "site", where / "elsewhere"


def run(installed, *arguments):
    site, elsewhere = installed
    environ = os.environ | {"PYTHONPATH": str(site)}
    # Not -m: that would put the directory of the call first on the path, here as for a clone.
    code = (
        "import sys, lpd_jax.__main__ as cli\n"
        "assert cli.__file__.startswith(sys.argv[1]), cli.__file__\n"
        "del sys.argv[1]\n"
        "cli.run()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(site), *arguments],
        cwd=elsewhere,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_has_every_config_and_the_loader_of_exports(installed):
    site, _ = installed
    for name in (*config_files.shipped(), "base"):
        there = site / f"lpd_jax/configs/{name}.py"
        assert there.read_text() == (ROOT / f"configs/{name}.py").read_text()
    loader = site / "lpd_jax/run_export.py"
    assert loader.read_text() == (ROOT / "launch/run_export.py").read_text()
    (entry,) = site.glob("lpd_jax-*.dist-info/entry_points.txt")
    assert "lpd = lpd_jax.__main__:run" in entry.read_text()


def test_a_shipped_config_runs_from_any_directory(installed):
    done = run(installed, "sample", "--config=lpd_256:L", "--workdir=runs/l")
    assert done.returncode == 2, done.stderr
    assert "lpd: there is no decoder at runs/l/decoder/model" in done.stderr


@pytest.mark.slow
def test_the_whole_chain_runs_from_any_directory(installed):
    (installed[1] / "tiny.py").write_text(TINY)
    done = run(installed, "pipeline", "--config=tiny.py", "--workdir=runs/tiny")
    assert done.returncode == 0, done.stderr
    assert (installed[1] / "runs/tiny/report/report.html").is_file()
    done = run(installed, "export", "--config=tiny.py", "--workdir=runs/tiny")
    assert done.returncode == 0, done.stderr
    assert [*(installed[1] / "runs/tiny/export").glob("*/run_export.py")]
