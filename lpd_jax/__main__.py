"""The command line: `python -m lpd_jax TASK --config=configs/digits.py --workdir=runs/digits`.

Any config field can be set after it: `--config.train.steps=1000`.
"""

import importlib
import logging
import pkgutil
import sys

from absl import app, flags
from ml_collections import config_flags

from lpd_jax import tasks
from lpd_jax.errors import InputError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file; fields are set by --config.section.field=value.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory that the task reads and writes.")
_NOT_TASKS = ("build", "workdir")
TASKS = tuple(m.name for m in pkgutil.iter_modules(tasks.__path__) if m.name not in _NOT_TASKS)


def main(argv: list[str]) -> None:
    """Runs the task named first on the command line."""
    if len(argv) != 2 or argv[1] not in TASKS:
        asked = f"unknown task {argv[1]!r}" if len(argv) == 2 else "name one task"
        raise InputError(f"{asked}: choose from {', '.join(TASKS)}.")
    for name, value in (("config", _CONFIG.value), ("workdir", _WORKDIR.value)):
        if value is None:
            raise InputError(
                f"--{name} is missing; try --config=configs/digits.py --workdir=runs/digits."
            )
    logging.getLogger("lpd_jax").setLevel(logging.INFO)  # absl stays at warnings: Orbax talks
    importlib.import_module(f"lpd_jax.tasks.{argv[1]}").run(_CONFIG.value, _WORKDIR.value)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    # A config file runs while flags are parsed, and whatever is wrong with it is raised as it is.
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise InputError(" ".join(str(error.args[0] if error.args else error).split())) from error


def run() -> None:
    """Entry point: problems with the input become one sentence and exit code 2."""
    try:
        app.run(main, flags_parser=_parse)
    except InputError as error:
        print(f"lpd: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    run()
