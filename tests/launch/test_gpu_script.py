"""The measurements for a GPU, rehearsed on a CPU: every part runs, and is run once."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu", ROOT / "benchmarks/gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(out, *options, **environ):
    command = [sys.executable, "benchmarks/gpu.py", "--tiny", f"--out={out}", *options]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, check=True
    ).stdout


def rows(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_every_part_of_ours_runs_at_a_tiny_size(tmp_path):
    start(tmp_path, "--minutes=12")
    found = rows(tmp_path)
    ends = {row["part"]: row["status"] for row in found if "status" in row}
    assert ends.pop("train_cudnn").startswith("failed")
    ends.pop("train_tokamax")  # has code of its own for CPUs, where it is installed
    assert set(ends.values()) == {"done"}, (ends, (tmp_path / "log.txt").read_text()[-3000:])
    by_kind = {row["what"]: row for row in found if "what" in row}
    assert {"ceilings", "generate", "profile", "train", "precision"} <= by_kind.keys()
    for row in found:
        if row.get("what") == "generate":
            assert row["codes_s"] > 0 and row["weights_read_gb"] >= 0
    assert by_kind["profile"]["busy_s"] > 0 and by_kind["profile"]["seconds_and_calls"]
    assert by_kind["train"]["images_per_s"] > 0
    (summary,) = [row for row in found if row["part"] == "tests" and "summary" in row]
    assert " passed" in summary["summary"] and summary["failed"] == []


def test_a_part_is_measured_written_down_and_not_measured_again(tmp_path):
    assert start(tmp_path, "--items", "correct", "--minutes=3", "--only", "ceilings") == (
        "ceilings: done\n"
    )
    measured, end = rows(tmp_path)
    assert measured["copy_gb_s"] > 0 and measured["device"] == "cpu"
    assert end == end | {"part": "ceilings", "status": "done"}
    again = start(tmp_path, "--only", "ceilings")
    assert again == "ceilings: there already\n" and len(rows(tmp_path)) == 2
    other = start(tmp_path / "b", "--only", "ceilings", f"--resume={tmp_path / 'results.jsonl'}")
    assert other == "ceilings: there already\n"


def test_a_part_that_fails_or_hangs_stops_nothing(gpu, tmp_path):
    results, log = tmp_path / "results.jsonl", tmp_path / "log.txt"
    line = "print('{\"a\": 1}', flush=True)"
    for name, code, says in (
        ("breaks", f"{line}; import none_of_that", "failed (1)"),
        # A process of its own that keeps the pipe open, as a test run may have.
        (
            "hangs",
            f"{line}; import subprocess; subprocess.run(['sleep', '60'])",
            "stopped after 3 s",
        ),
        ("works", line, "done"),
    ):
        part = gpu.Part("correct", name, ("-c", code), 3)
        assert gpu.run(part, 3, results, log) == says
    assert [row["part"] for row in rows(tmp_path) if row.get("a") == 1] == [
        "breaks",
        "hangs",
        "works",
    ]
    assert gpu.ended_well([results]) == {"works"}
    assert "none_of_that" in log.read_text()


def test_parts_have_names_of_their_own_and_fit_the_time(gpu, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out=x", "--official=lpd"])
    found = gpu.parts(gpu.arguments())
    names = [part.name for part in found]
    assert len(names) == len({*names})
    # What matters most comes first: it fits in 25 minutes if each part takes half its limit.
    first = found[: names.index("profile64")]
    assert sum(part.seconds for part in first) / 2 < 25 * 60
    assert {part.item for part in first} == {"correct", "generation", "profile", "training"}
    assert [n for n in names if n.startswith("official_")]
