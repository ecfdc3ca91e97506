"""Shared by tests that run command lines in their own process."""

import logging
import sys

import pytest

from lpd_jax import __main__ as cli


@pytest.fixture
def as_before(monkeypatch):
    """What a command line changes of its process is undone: later tests have another stderr."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(logging.root, "handlers", logging.root.handlers[:])
    for name in ("handlers", "level", "propagate"):
        monkeypatch.setattr(cli._LOG, name, getattr(cli._LOG, name))
