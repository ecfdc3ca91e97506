"""requirements.lock has all that the suite needs, in versions that setup.py allows."""

import re
import runpy
import sys
from pathlib import Path

import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def test_the_lock_file_has_what_setup_allows(monkeypatch):
    given = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    monkeypatch.setattr(sys, "argv", ["setup.py"])
    runpy.run_path(str(ROOT / "setup.py"))
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = dict(re.fullmatch(r"([\w.-]+)==(\S+)", line).groups() for line in lines[1:])
    locked = {canonicalize_name(name): version for name, version in pins.items()}
    extras = given["extras_require"]
    asked = [*given["install_requires"], *extras["test"], *extras["dev"]]
    assert len(asked) > 30
    for requirement in map(Requirement, asked):
        version = locked[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, f"{requirement} is {version} in the lock file"
