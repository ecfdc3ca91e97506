"""The figures of a benchmark, as JSON lines."""

import json
import os
from pathlib import Path
from typing import Any


def tunables() -> dict[str, str]:
    """What glibc was told: large pages matter on CPUs."""
    return {"glibc_tunables": os.environ.get("GLIBC_TUNABLES", "")}


def leave(row: dict[str, Any], file: Path | None) -> None:
    """Prints a row, and appends it to the file of --json, if there is one."""
    line = json.dumps(row)
    print(line, flush=True)
    if file:
        with file.open("a") as opened:
            opened.write(line + "\n")
