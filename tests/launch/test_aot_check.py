"""The check before a pod is paid for, run as people run it, on the smallest programs."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = (
    "--config=digits",
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
    # libtpu reads XLA_FLAGS too, and does not know those of `tests/conftest.py`.
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


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
    for row, part in ((train, "layers, backward"), (generation, "VQ decoder")):
        account = row["account"]
        assert account["cycles"] == row["cost"]["cycles"] > 0
        assert sum(p["cycles"] for p in account["parts"].values()) == account["cycles"]
        assert account["parts"][part]["flops"] > 0 and 0 < account["utilisation"] < 1
        assert len(account["lines"]) == 12 and account["kernels"] == []
        assert f"  {part}" in done.stdout
    assert (generation["model"], generation["segments"]) == ("digits", 1)
    # The same program is as dear as itself, by part.
    command = [sys.executable, "launch/aot_diff.py", str(file), str(file)]
    diff = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "VQ decoder" in diff and diff.count("+0.0 %") > 4 and "-0.0" not in diff


@needs_libtpu
def test_a_mesh_that_does_not_cover_the_topology_is_one_sentence():
    done = aot_check("--topology=v5e:2x2", "--config.mesh.fsdp=3")
    assert done.returncode == 2
    assert done.stderr.startswith("aot_check: mesh") and "4 device" in done.stderr


def test_without_a_topology_it_says_what_to_give():
    done = aot_check()
    assert done.returncode == 2
    assert "give --config and --topology" in done.stderr
