"""The check before a pod is paid for, run as people run it, on the smallest programs."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = (
    "--config=configs/digits.py",
    "--config.data.size=8",
    "--config.decoder.width=32",
    "--config.decoder.depth=2",
    "--config.decoder.heads=2",
    "--config.decoder.unroll=1",
    "--config.decoder.dtype=bfloat16",
    "--config.tokenizer.ch=8",
    "--config.tokenizer.ch_mult=(1,1)",
    "--config.tokenizer.norm_groups=4",
    "--config.tokenizer.z_channels=8",
    "--config.train.schedules=(4,)",
    "--config.sample.steps=4",
    "--classes=10",
)
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install -e '.[aot]'"
)


def aot_check(*arguments):
    command = [sys.executable, "launch/aot_check.py", *TINY, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@needs_libtpu
def test_train_step_and_generation_compile_for_four_chips_and_ask_nothing_of_the_host(tmp_path):
    file = tmp_path / "rows.jsonl"
    done = aot_check("--topology=v5e:2x2", "--config.mesh.fsdp=2", "--batch=8", f"--json={file}")
    assert done.returncode == 0, done.stderr
    train, generation = map(json.loads, file.read_text().splitlines())
    assert train["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    assert train["fits"] and generation["fits"]
    assert train["cost"]["host_transfers"] == generation["cost"]["host_transfers"] == []
    # Adam keeps two arrays for each parameter, and two counts of 4 bytes.
    assert train["parts"]["optimizer"] == 2 * train["parts"]["parameters"] + 8
    assert train["cost"]["collective_bytes"]["all-gather"] > 0
    assert train["cost"]["flops"] > generation["cost"]["flops"] > 0
    assert train["cost"]["cycles"] > 0 and generation["cost"]["cycles"] > 0


@needs_libtpu
def test_a_mesh_that_does_not_cover_the_topology_is_one_sentence():
    done = aot_check("--topology=v5e:2x2", "--config.mesh.fsdp=3")
    assert done.returncode == 2
    assert done.stderr.startswith("aot_check: mesh") and "4 device" in done.stderr


def test_without_a_topology_it_says_what_to_give():
    done = aot_check()
    assert done.returncode == 2
    assert "give --config and --topology" in done.stderr
