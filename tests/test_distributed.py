"""How processes find each other, and the one sentence when they do not."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lpd_jax.distributed import Cluster, cluster, initialize
from lpd_jax.errors import InputError

ROOT = Path(__file__).parents[1]
JOBSET = {
    "JAX_COORDINATOR_ADDRESS": "job-0-0.job:8476",
    "JAX_NUM_PROCESSES": "4",
    "JOB_COMPLETION_INDEX": "3",
}
SLURM = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "4"}


@pytest.mark.parametrize(
    ("flags", "environ", "found"),
    [
        ((None, None, None), {}, None),
        (("host:1234", 2, 1), JOBSET, Cluster("host:1234", 2, 1)),
        (("auto", None, None), {}, Cluster()),
        ((None, 1, None), JOBSET, None),
        ((None, None, None), JOBSET, Cluster("job-0-0.job:8476", 4, 3)),
        ((None, None, None), JOBSET | {"JAX_PROCESS_ID": "2"}, Cluster("job-0-0.job:8476", 4, 2)),
        ((None, None, None), JOBSET | {"JAX_NUM_PROCESSES": "1"}, None),
        ((None, None, None), {"JOB_COMPLETION_INDEX": "3"}, None),
        ((None, None, None), SLURM, Cluster()),
        (
            (None, None, None),
            SLURM | {"SLURM_STEP_NUM_TASKS": "2"},
            Cluster(local_device_ids=(0, 1, 2, 3)),
        ),
        ((None, None, None), SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        ((None, None, None), {"TPU_WORKER_HOSTNAMES": "a,b"}, Cluster()),
        ((None, None, None), {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ((None, None, None), {"TPU_WORKER_HOSTNAMES": "WARNING: none found, please set it"}, None),
        ((None, None, None), {"MEGASCALE_NUM_SLICES": "2"}, Cluster()),
    ],
)
def test_flags_come_before_the_environment_and_one_process_needs_none(flags, environ, found):
    assert cluster(*flags, environ) == found


@pytest.mark.parametrize(
    ("flags", "environ", "says"),
    [
        (("host:1234", 2, None), {}, "--process_id is missing"),
        ((None, None, 1), {}, "--coordinator and --num_processes is missing"),
        (("host:1234", 2, 2), {}, "process 2 of 2 cannot be"),
        (("host", 2, 0), {}, "must be host:port and two numbers"),
        ((None, None, None), {"JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_NUM_PROCESSES and JOB_"),
        ((None, None, None), JOBSET | {"JAX_PROCESS_ID": "x"}, "two numbers, not"),
    ],
)
def test_what_does_not_fit_together_is_refused(flags, environ, says):
    with pytest.raises(InputError, match=says):
        cluster(*flags, environ)


def test_a_port_in_use_is_refused():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(InputError, match=r"cannot listen on .* choose another port"):
            initialize(Cluster(address, 2, 0))


@pytest.mark.parametrize("index", [0, 1])
def test_processes_that_stay_alone_say_so_and_end(index, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lpd_jax", "train", "--config=configs/digits.py"),
            *(f"--workdir={tmp_path}", f"--coordinator={address}", "--num_processes=2"),
            *(f"--process_id={index}", "--join_timeout=1"),
        ],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"lpd: process {index} of 2 did not meet all the others at {address}" in done.stderr
    assert "Check failure stack trace" not in done.stderr
