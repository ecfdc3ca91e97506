"""Shared by tests that run command lines in their own process."""

import logging
import sys

import jax
import pytest

from lpd_jax import __main__ as cli


@pytest.fixture
def as_before(monkeypatch):
    """What a command line changes of its process is undone: later tests have another stderr."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(logging.root, "handlers", logging.root.handlers[:])
    for name in ("handlers", "level", "propagate"):
        monkeypatch.setattr(cli._LOG, name, getattr(cli._LOG, name))


@pytest.fixture(scope="module")
def one_device():
    """The tasks see the first device alone: programs for eight take four times as long to compile.

    On all of them run the tasks of tests/multiprocess, training, ablations, the likelihood and
    evaluations. Gives all devices.
    """
    found = {name: getattr(jax, name) for name in ("devices", "local_devices")}
    with pytest.MonkeyPatch.context() as patch:
        for name, ask in found.items():
            patch.setattr(jax, name, lambda *args, ask=ask, **kinds: ask(*args, **kinds)[:1])
        yield found["devices"]()
