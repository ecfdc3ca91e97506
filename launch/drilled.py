"""A process of a drill: the command line of the package, which ends itself as it was told to."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def begin(
    script: str, workdir: Path, cache: Path, told: Sequence[object], arguments: Sequence[str]
) -> subprocess.Popen:
    """Starts `script child WORKDIR TOLD ... ARGUMENTS ...`.

    Args:
        script: the drill; what follows "child" is for it to take apart.
        workdir: of the run; what the process says goes to its output.log.
        cache: directory of compiled programs, which all processes share.
        told: when it is to end itself.
        arguments: of the command line.
    """
    return subprocess.Popen(
        [sys.executable, script, "child", str(workdir), *map(str, told), *arguments],
        cwd=ROOT,
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
        stdout=(workdir / "output.log").open("a"),
        stderr=subprocess.STDOUT,
    )
