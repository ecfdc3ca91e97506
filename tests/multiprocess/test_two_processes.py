"""Two processes of four devices do what one process of eight does, and end together."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from lpd_jax import checkpoint
from lpd_jax.data.codes import load_codes
from lpd_jax.metrics import read_rows
from lpd_jax.models.initial import init_tokenizer
from lpd_jax.tasks import build, encode, evaluate, measuring, sample, train
from lpd_jax.tasks.workdir import plain
from tests.evaluation.test_units import network
from tests.multiprocess import tiny

ROOT = Path(__file__).parents[2]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Job:
    """A module of Python in two processes that know of each other.

    Args:
        log: name of what they say, beside the workdir.
        workdir: of both.
        arguments: index of the process -> what follows `python -m`.
    """

    def __init__(self, log, workdir, arguments):
        self.logs = [workdir.with_name(f"{workdir.name}-{log}-{i}.log") for i in range(2)]
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", *map(str, arguments(i))],
                cwd=ROOT,
                env=os.environ
                | {
                    "JAX_NUM_CPU_DEVICES": "4",
                    "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
                    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
                },
                stdout=log.open("w"),
                stderr=subprocess.STDOUT,
            )
            for i, log in enumerate(self.logs)
        ]

    @classmethod
    def of(cls, task, workdir, heartbeat=10):
        """The command line."""
        port = free_port()
        return cls(
            task,
            workdir,
            lambda i: (
                *("lpd_jax", task, "--config=tests/multiprocess/tiny.py"),
                *(f"--workdir={workdir}", f"--coordinator=127.0.0.1:{port}"),
                *("--num_processes=2", f"--process_id={i}", f"--heartbeat_timeout={heartbeat}"),
            ),
        )

    def wait_for(self, words):
        """Until process 0 has said them."""
        while words not in self.logs[0].read_text():
            assert self.processes[0].poll() is None, self.logs[0].read_text()
            time.sleep(0.05)

    def end(self, timeout=180):
        """Exit codes and outputs."""
        try:
            codes = [process.wait(timeout) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        return codes, [log.read_text() for log in self.logs]


def losses(workdir):
    return [row["loss"] for row in read_rows(workdir / "decoder")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A workdir that one process has brought to its end."""
    config, workdir = tiny.get_config(), tmp_path_factory.mktemp("one") / "workdir"
    save_tokenizer(config, workdir)
    encode.run(config, workdir)
    train.run(config, workdir)
    return workdir


def save_tokenizer(config, workdir):
    network = build.tokenizer(config)
    params = jax.jit(lambda key: init_tokenizer(network, key))(jax.random.key(0))
    about = plain({"kind": "tokenizer", "config": network.config, "fingerprint": "random"})
    checkpoint.save_model(workdir / "tokenizer/model", about, params)


@pytest.fixture(scope="module")
def together(alone, tmp_path_factory):
    """A workdir with the same tokenizer, and codes that two processes have made."""
    workdir = tmp_path_factory.mktemp("two") / "workdir"
    save_tokenizer(tiny.get_config(), workdir)
    codes, outputs = Job.of("encode", workdir).end()
    assert codes == [0, 0], outputs
    return workdir


def test_codes_are_the_same(alone, together):
    for split in ("train", "heldout"):
        one, two = (load_codes(workdir / "codes", split) for workdir in (alone, together))
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])


def test_training_survives_a_death_a_preemption_and_other_process_counts(alone, together):
    """Two processes until one is killed, two until one is asked to stop, then one to the end.

    The second pair starts from a checkpoint of one process, the last one from that of a pair.
    """
    checkpoints = Path("decoder/checkpoints")
    job = Job.of("train", together, heartbeat=2)
    job.wait_for("saving step 30")  # by then the rows of 20 steps are written
    job.processes[1].kill()
    (survivor, _), (output, _) = job.end(timeout=20)
    assert survivor != 0
    assert "another process ended first" in output or "another task died" in output
    np.testing.assert_allclose(losses(together)[:20], losses(alone)[:20], rtol=1e-5)

    shutil.rmtree(together / checkpoints)
    shutil.copytree(alone / checkpoints / "20", together / checkpoints / "20")
    job = Job.of("train", together)
    job.wait_for("going on from step 20")
    job.processes[1].send_signal(signal.SIGTERM)
    codes, outputs = job.end()
    assert codes == [75, 75], outputs
    assert "lpd:" not in outputs[1]
    stopped = max(int(step.name) for step in (together / checkpoints).glob("[0-9]*"))
    assert 20 < stopped < 60
    assert f"saved step {stopped} of 60; run the same command to go on" in outputs[0]

    train.run(tiny.get_config(), together)
    assert [row["step"] for row in read_rows(together / "decoder")] == list(range(60))
    np.testing.assert_allclose(losses(together), losses(alone), rtol=1e-3)


def test_images_and_figures_are_the_same_and_process_0_decides_what_is_done(
    alone, tmp_path, monkeypatch
):
    """The second process sees nothing of what is there already, and waits for nobody."""
    workdir, port = tmp_path / "workdir", free_port()
    for name in ("tokenizer/model", "decoder/model", "codes"):
        shutil.copytree(alone / name, workdir / name)
    rng = np.random.default_rng(0)
    np.savez(workdir / "real.npz", rng.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8))
    codes, outputs = Job(
        "stale", workdir, lambda i: ("tests.multiprocess.stale", workdir, port, i)
    ).end()
    assert codes == [0, 0], outputs
    for output in outputs:
        assert "found done what was done: " in output
    (found,) = tmp_path.glob("workdir/samples/*/samples.npz")
    one, two = map(np.load, (sample.run(tiny.get_config(), alone) / "samples.npz", found))
    for name in ("codes", "orders", "labels"):
        np.testing.assert_array_equal(one[name], two[name])
    assert (workdir / "variant/codes").resolve() == (workdir / "codes").resolve()

    monkeypatch.setattr(measuring, "network", lambda path: network(side=32))
    own = evaluate.run(tiny.evaluated(str(alone), str(workdir / "real.npz")), tmp_path / "one")
    (report,) = workdir.glob("report/300images-*/report.json")
    together = json.loads(report.read_text())
    for name in ("fid", "sfid", "inception_score", "inception_score_adm", "precision", "recall"):
        assert together[name]["value"] == pytest.approx(own[name]["value"], rel=1e-6), name
    (kept,) = (tmp_path / "one").glob("report/*/images.npz")
    one, two = (np.load(file)["arr_0"] for file in (kept, report.with_name("images.npz")))
    np.testing.assert_array_equal(one, two)
    assert len({*report.parent.glob("features-*/*.?-2.npz")}) == 4  # two units, two processes
