"""What changed between two files of `launch/aot_check.py --json`, in expected cycles.

    python launch/aot_diff.py before.jsonl after.jsonl

For every program that is in both (the last row of each counts): cycles, utilisation, and the parts
of the work. Exit codes: 0; 2 when a file cannot be read or nothing is in both.
"""

import json
import sys
from pathlib import Path
from typing import Any

_PROGRAM = ("model", "what", "topology", "slices", "batch", "segments", "fields")


def read(file: str) -> dict[str, dict[str, Any]]:
    """Program -> its last row that has an account."""
    rows = map(json.loads, Path(file).read_text("utf-8").splitlines())
    return {
        " ".join(str(row[name]) for name in _PROGRAM if name in row): row
        for row in rows
        if row.get("account")
    }


def compare(before: dict[str, Any], after: dict[str, Any]) -> str:
    """One line for the whole and each part: million cycles before, after, and the change."""
    old, new = before["account"], after["account"]
    names = dict.fromkeys([*old["parts"], *new["parts"]])
    nothing = {"cycles": 0}
    pairs = {name: [x["parts"].get(name, nothing)["cycles"] for x in (old, new)] for name in names}
    lines = []
    for name, (a, b) in {"all": (old["cycles"], new["cycles"]), **pairs}.items():
        change = f"{100 * (b - a) / a + 0:+.1f} %" if a else "new"
        lines.append(f"  {name:<24}{a / 1e6:12.2f} M{b / 1e6:12.2f} M{change:>10}")
    used = " -> ".join(f"{x['utilisation']:.3f}" for x in (old, new))
    return "\n".join([*lines, f"  {'utilisation':<24}{used}"])


def main(argv: list[str]) -> int:
    """Prints the comparison; returns the exit code."""
    try:
        before, after = map(read, argv)
    except (ValueError, OSError) as error:
        print(f"aot_diff: give two files of aot_check.py --json ({error}).", file=sys.stderr)
        return 2
    both = [name for name in after if name in before]
    if not both:
        print("aot_diff: no program is in both files.", file=sys.stderr)
        return 2
    for name in both:
        commits = " -> ".join(row.get("commit", "?") for row in (before[name], after[name]))
        print(f"{name} ({commits})\n{compare(before[name], after[name])}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
