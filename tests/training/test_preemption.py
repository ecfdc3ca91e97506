"""Asked to stop, training ends its step, saves it, and goes on as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import linen as nn

from lpd_jax import distributed, parallel
from lpd_jax.checkpoint import Checkpoints
from lpd_jax.data import codes as code_dataset
from lpd_jax.data import pipeline
from lpd_jax.data.sources import Arrays
from lpd_jax.metrics import Writer, read_rows, without_clock
from lpd_jax.training.loop import LoopConfig, train
from lpd_jax.training.optimizer import OptimizerConfig
from lpd_jax.training.step import Part

ROOT = Path(__file__).parents[2]


class SignalledAt:
    """Batches, one of which comes with a signal to this process."""

    def __init__(self, batches, place, number):
        self._batches, self._place, self._number = batches, place, number
        self.get_state, self.set_state = batches.get_state, batches.set_state

    def __next__(self):
        if self.get_state()["next_index"] == self._place:
            os.kill(os.getpid(), self._number)
        return next(self._batches)


def init(key):
    return nn.Dense(1).init(key, np.zeros((1, 1)))["params"]


def loss(params, batch, key, place=None, state=None):
    y = nn.Dense(1).apply({"params": params}, batch["x"][:, None])[:, 0]
    return ((y - batch["y"]) ** 2).mean(), {}


def run(directory, mesh, place=None, number=None, steps=7):
    """Fits a line; a signal comes while step `place` is on its way."""
    x = np.linspace(-1, 1, 40, dtype=np.float32)
    batches = iter(pipeline.batches(Arrays({"x": x, "y": 3 * x}), batch_size=8))
    return train(
        "test",
        directory,
        {"line": Part(init, loss, OptimizerConfig(learning_rate=0.1, schedule="constant"))},
        SignalledAt(batches, place, number),
        fields=("x", "y"),
        loop=LoopConfig(steps=steps, log_every=1, save_every=5),
        seed=0,
        mesh=mesh,
        rules=parallel.RULES,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_saves_the_step_and_the_same_command_goes_on(tmp_path, one_device_mesh, number):
    before = signal.getsignal(number)
    with pytest.raises(distributed.Preempted, match="saved step 3 of 7; run the same command"):
        run(tmp_path / "parts", one_device_mesh, 2, number)
    assert signal.getsignal(number) == before
    with Checkpoints(tmp_path / "parts/checkpoints") as saved:
        assert saved.latest == 3
    parts = run(tmp_path / "parts", one_device_mesh)
    whole = run(tmp_path / "whole", one_device_mesh)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(parts), jax.device_get(whole))
    rows = [without_clock(read_rows(tmp_path / name)) for name in ("parts", "whole")]
    assert rows[0] == rows[1]
    assert [row["step"] for row in read_rows(tmp_path / "parts")] == list(range(7))


def test_a_signal_in_the_last_step_loses_nothing(tmp_path, one_device_mesh):
    with pytest.raises(distributed.Preempted, match="saved step 7 of 7"):
        run(tmp_path, one_device_mesh, 6, signal.SIGTERM)
    assert run(tmp_path, one_device_mesh).step == 7


def test_a_second_signal_is_not_waited_for():
    before = signal.getsignal(signal.SIGTERM)
    with distributed.preemption() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert asked()
        assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_ctrl_c_ends_the_process_without_a_stack():
    before = signal.getsignal(signal.SIGINT)
    with distributed.preemption() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == before


def test_a_writer_that_dies_at_its_start_keeps_the_rows(tmp_path, monkeypatch):
    with Writer(tmp_path) as writer:
        writer.write(0, {"loss": 1.0})
    monkeypatch.setattr(Path, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Writer(tmp_path, 1)
    assert read_rows(tmp_path) == [{"step": 0, "loss": 1.0}]


@pytest.mark.slow
def test_the_drill_finds_nothing_lost(tmp_path):
    """Four kills, one of each kind; `launch/drill.py` says what is compared."""
    rng = np.random.default_rng(0)
    spec = code_dataset.CodesSpec(
        tokenizer={"fingerprint": "none"},
        grid=(8, 8),
        codebook_size=128,
        views=1,
        class_names=tuple("0123456789"),
        split_sizes={"train": 100, "heldout": 40},
    )
    for shard in code_dataset.missing_shards(tmp_path / "codes", spec):
        size = shard.stop - shard.start
        code_dataset.write_shard(
            tmp_path / "codes",
            spec,
            shard,
            rng.integers(0, 128, (size, 1, 64)),
            rng.integers(0, 10, size),
        )
    code_dataset.finalize(tmp_path / "codes", spec)
    done = subprocess.run(
        [
            *(sys.executable, "launch/drill.py", f"--codes={tmp_path / 'codes'}"),
            *(f"--workdir={tmp_path / 'drill'}", "--kills=4"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 lost or repeated steps" in done.stdout
    kills = [json.loads(line.split(" ", 1)[1]) for line in done.stdout.splitlines()[:4]]
    assert {kill["kind"] for kill in kills} == {"step", "save", "start", "term"}
