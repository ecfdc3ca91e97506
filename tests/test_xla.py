"""A second process finds what the first one compiled, unless its user says otherwise."""

import os
import subprocess
import sys

import jax
import pytest

from lpd_jax import xla

PROGRAM = """
from lpd_jax import xla
xla.keep_compiled()
import jax
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: x @ x + x.sort())(jax.numpy.ones((8, 8)))
print("/jax/compilation_cache/cache_hits" in hits)
"""


def test_a_second_process_compiles_nothing(tmp_path):
    environ = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environ |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path)}
    for found in ("False", "True"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [found]
        assert [*(tmp_path / "lpd_jax/xla").iterdir()]


@pytest.fixture
def undecided():
    """A jax that was told nothing of a cache."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_user_decides(undecided, tmp_path):
    home = {"XDG_CACHE_HOME": str(tmp_path)}
    (tmp_path / "file").touch()
    xla.keep_compiled({"XDG_CACHE_HOME": str(tmp_path / "file")})  # cannot be made
    assert jax.config.jax_compilation_cache_dir is None
    jax.config.update("jax_enable_compilation_cache", False)
    xla.keep_compiled(home)
    jax.config.update("jax_enable_compilation_cache", True)
    assert jax.config.jax_compilation_cache_dir is None
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "other"))
    xla.keep_compiled(home)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "other")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    jax.config.update("jax_compilation_cache_dir", None)
    xla.keep_compiled(home)
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "lpd_jax/xla")
