"""The command line: python -m lpd_jax TASK --config=configs/digits.py --workdir=runs/digits

Any field of the config can be set after it: --config.train.steps=1000. Tasks, in the order of the
chain; each goes on where it stopped:

  train_tokenizer  learns to turn images into codes and back
  encode           turns all images into codes
  train            trains the decoder on the codes
  sample           generates images of chosen classes
  evaluate         judges generated images against real ones and writes the report
  pipeline         runs the five above
  convert          official PyTorch weights in, and ours out
  orders           writes generation orders to files, with pictures
  ablate           runs a list of config differences and makes a table
"""

import importlib
import logging
import os
import pkgutil
import re
import sys

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from lpd_jax import tasks
from lpd_jax.errors import InputError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file; fields are set by --config.section.field=value.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory that the task reads and writes.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Directory of the models to use, if not the workdir: config.checkpoint."
)
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
    if _CHECKPOINT.value is not None:
        _CONFIG.value.checkpoint = _CHECKPOINT.value
    # Orbax tells at INFO what it does; ours are the only messages of that level people ask for.
    if not flags.FLAGS["verbosity"].present:
        absl_logging.set_verbosity(absl_logging.WARNING)
    logging.getLogger("lpd_jax").setLevel(logging.INFO)
    importlib.import_module(f"lpd_jax.tasks.{argv[1]}").run(_CONFIG.value, _WORKDIR.value)


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; the config file runs here, and whatever is wrong with it is raised as it is."""
    for path in (a.partition("=")[2].partition(":")[0] for a in argv if a.startswith("--config=")):
        if not os.path.isfile(path):
            raise InputError(f"there is no config file {path}; the ready ones are in configs/.")
    sys.path.insert(0, os.getcwd())  # configs import each other, also under the `lpd` script
    try:
        rest = flags.FLAGS(argv)
        if _CONFIG.value is not None:
            _CONFIG.value.keys()  # a file that could not be loaded says so only when it is used
    except (AttributeError, KeyError) as error:
        # ml_collections says: 'stepz' Did you mean "steps" instead of "stepz"?
        name = re.search(r"\w+", str(error.args[0]))[0]
        nearest = re.search(r'"(\w+)" instead', str(error.args[0]))
        hint = f"did you mean {nearest[1]!r}?" if nearest else "the config file lists its fields."
        raise InputError(f"the config has no field {name!r}; {hint}") from error
    except (flags.Error, OSError, TypeError, ValueError) as error:
        # What a config file raised comes with its traceback; the last line says what is wrong.
        raise InputError(
            str(error).strip().splitlines()[-1].removeprefix("ValueError: ")
        ) from error
    return rest


def run() -> None:
    """Entry point: problems with the input become one sentence and exit code 2."""
    sys.modules["__main__"].__doc__ = __doc__  # what --help shows, also under the `lpd` script
    try:
        app.run(main, flags_parser=_parse)
    except InputError as error:
        print(f"lpd: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    run()
