"""The command line: python -m lpd_jax TASK --config=configs/digits.py --workdir=runs/digits

Any field of the config can be set after it: --config.train.steps=1000. Tasks, in the order of the
chain; each goes on where it stopped:

  train_tokenizer  learns to turn images into codes and back
  encode           turns all images into codes
  train            trains the decoder on the codes
  sample           generates images of chosen classes
  evaluate         judges generated images against real ones and writes the report
  pipeline         runs the five above
  edit             generates parts of images anew: inpainting, outpainting, another class
  export           the compiled sampler in a file that runs without this package
  convert          official PyTorch weights in, and ours out
  orders           writes generation orders to files, with pictures
  ablate           runs a list of config differences and makes a table

Several processes (--coordinator=host:port --num_processes=2 --process_id=0, or what Slurm, a GKE
JobSet or a TPU slice says of itself) work as one; only process 0 writes files and shows progress.

Exit codes: 0 done; 2 the input is wrong, one sentence says how; 75 asked to stop by SIGTERM or
SIGUSR1 while training, and saved: start the same command again.
"""

import importlib
import logging
import os
import pkgutil
import re
import sys
import traceback

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from lpd_jax import distributed, storage, tasks
from lpd_jax.errors import InputError

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file; fields are set by --config.section.field=value.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory that the task reads and writes; gs://bucket/..."
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Directory of the models to use, if not the workdir: config.checkpoint."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0 of several; 'auto' asks the TPU VM for all three."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes work together.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")
_JOIN_TIMEOUT = flags.DEFINE_integer(
    "join_timeout", 300, "Seconds to wait at the start for the other processes.", lower_bound=1
)
_HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
    "heartbeat_timeout", 100, "Seconds after which a silent process ends the job.", lower_bound=1
)
_NOT_TASKS = ("build", "start", "workdir")
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
    for where in filter(None, (_WORKDIR.value, _CONFIG.value.get("checkpoint"))):
        storage.check(where)
    # Orbax tells at INFO what it does; ours are the only messages of that level people ask for.
    if not flags.FLAGS["verbosity"].present:
        absl_logging.set_verbosity(absl_logging.WARNING)
    where = distributed.cluster(
        _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, os.environ
    )
    if where is not None:
        distributed.initialize(
            where, join_timeout=_JOIN_TIMEOUT.value, heartbeat_timeout=_HEARTBEAT_TIMEOUT.value
        )
    first = where is None or jax.process_index() == 0
    logging.getLogger("lpd_jax").setLevel(logging.INFO if first else logging.WARNING)
    importlib.import_module(f"lpd_jax.tasks.{argv[1]}").run(_CONFIG.value, _WORKDIR.value)
    if where is not None:
        distributed.barrier("the end")  # process 0 may be writing still


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
    """Entry point: problems with the input become one sentence and exit code 2.

    With several processes, one that fails in another way ends at once: the orderly end would wait
    for the others, and they for it.
    """
    sys.modules["__main__"].__doc__ = __doc__  # what --help shows, also under the `lpd` script
    try:
        app.run(main, flags_parser=_parse)
    except InputError as error:
        print(f"lpd{_which()}: {error}", file=sys.stderr)
        sys.exit(2)
    except distributed.Preempted as stop:
        if not _which():
            print(f"lpd: {stop}", file=sys.stderr)
        sys.exit(distributed.PREEMPTED)
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        print(
            f"lpd{_which()}: failed with the error above; if that speaks of a connection or a "
            "peer, another process ended first and its output says why. Once mended, run the same "
            "command in all processes; training goes on from its last checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


def _which() -> str:
    """Names this process in messages, if it is not the first."""
    several = jax.distributed.is_initialized() and jax.process_index() != 0
    return f" (process {jax.process_index()})" if several else ""


if __name__ == "__main__":
    run()
