"""The largest batch of every published model on every TPU: writes the table of docs/pods.md.

    python launch/aot_table.py             compiles what is missing, then writes the table
    python launch/aot_table.py --write     writes the table from what is there

Each compilation is a process of `aot_check.py` (minutes on one core) and leaves one JSON line, so
that the work can be stopped and started again. The published batch of a model comes first on its
first slice; `lpd_jax.compiled.batches` says what follows.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lpd_jax.compiled.batches import next_batch  # noqa: E402

LINES = ROOT / "benchmarks/results/aot.jsonl"
DOCUMENT = ROOT / "docs/pods.md"
BEGIN, END = "<!-- aot_table.py begins -->", "<!-- aot_table.py ends -->"
GIB = 2**30

# model -> config, published batch (official `scripts/train`)
MODELS = {
    "L 256": ("configs/lpd_256.py:L", 2048),
    "XL 256": ("configs/lpd_256.py:XL", 1024),
    "XXL 256": ("configs/lpd_256.py:XXL", 1024),
    "L 512": ("configs/lpd_512.py:L", 512),
    "XL 512": ("configs/lpd_512.py:XL", 256),
}
TOPOLOGIES = ("v5e:16x16", "v5p:4x4x4", "v4:4x4x4", "v6e:16x16")
SETTINGS = ("--config.mesh.fsdp=16", "--config.decoder.remat=full")


def cells() -> list[tuple[str, str]]:
    """(model, topology), the topologies that compile fastest and the largest models first."""
    return [(model, topology) for topology in TOPOLOGIES for model in reversed(MODELS)]


def measure(model: str, topology: str, batch: int) -> dict[str, Any]:
    """One row, from a process of its own.

    Raises:
        SystemExit: the check itself failed; its output says why.
    """
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "row.jsonl"
        command = [sys.executable, str(ROOT / "launch/aot_check.py"), "--what=train"]
        command += [f"--config={MODELS[model][0]}", f"--topology={topology}", f"--batch={batch}"]
        command += [f"--json={file}", *SETTINGS]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if not file.is_file():
            sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        return {"model": model, **json.loads(file.read_text())}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line per cell that was compiled; "≥" where larger batches are left to try."""
    heads = ("model, px", "slice", "batch", "published", "memory, GiB", "TFLOP")
    heads += ("all-gather", "reduce", "other")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for model in MODELS:
        for topology in TOPOLOGIES:
            own = [r for r in rows if (r["model"], r["topology"]) == (model, topology)]
            fitting = [row for row in own if row["fits"]]
            if not own:
                continue
            published = MODELS[model][1]
            fits = any(row["batch"] >= published for row in fitting)
            mark = f"{published} {'fits' if fits else 'does not fit'}"
            cells = [model.replace(" ", ", "), topology]
            if not fitting:
                lines.append(f"| {' | '.join([*cells, 'none', mark, *['-'] * 5])} |")
                continue
            best = max(fitting, key=lambda row: row["batch"])
            known = next_batch(own, published, topology) is None
            moved = dict(best["cost"]["collective_bytes"])
            reduced = moved.pop("all-reduce", 0) + moved.pop("reduce-scatter", 0)
            gathered = moved.pop("all-gather", 0)
            cells += [f"{'' if known else '≥ '}{best['batch']}", mark]
            cells += [f"{best['peak'] / GIB:.1f} of {best['limit'] / GIB:g}"]
            cells += [f"{best['cost']['flops'] / 1e12:.1f}"]
            cells += [f"{size / 1e9:.2f} GB" for size in (gathered, reduced, sum(moved.values()))]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def read_lines() -> list[dict[str, Any]]:
    """The rows measured so far."""
    return [json.loads(line) for line in LINES.open()] if LINES.is_file() else []


def write(rows: list[dict[str, Any]]) -> None:
    """Puts the table between its marks in the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="compile nothing")
    parser.add_argument("--model", action="append", choices=MODELS, help="these alone")
    options = parser.parse_args()
    rows = read_lines()
    LINES.parent.mkdir(exist_ok=True)
    wanted = [] if options.write else [c for c in cells() if c[0] in (options.model or MODELS)]
    for model, topology in tqdm(wanted, unit="cell"):
        own = [r for r in rows if (r["model"], r["topology"]) == (model, topology)]
        kin = [r for r in rows if r["model"] == model and r["topology"] != topology]
        while (batch := next_batch(own, MODELS[model][1], topology, kin)) is not None:
            own.append(measure(model, topology, batch))
            rows.append(own[-1])
            with LINES.open("a", encoding="utf-8") as file:
                file.write(json.dumps(own[-1]) + "\n")
    write(read_lines())


if __name__ == "__main__":
    main()
