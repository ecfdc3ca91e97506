"""The command line: python -m lpd_jax TASK --config=digits --workdir=runs/digits

Any field of the config can be set after it: --config.train.steps=1000. Tasks, in the order of the
chain; each goes on where it stopped (TASK --help says more):

  train_tokenizer  learns to turn images into codes and back
  encode           turns all images into codes
  train            trains the decoder on the codes
  sample           generates images of chosen classes
  evaluate         judges generated images against real ones and writes the report
  pipeline         runs the five above
  reference        statistics of real images, for evaluate
  search           finds the guidance with the best FID
  edit             generates parts of images anew: inpainting, outpainting, another class
  gallery          one page that shows, by class, what sample and edit made
  demo             a page in the browser: images appear as they are generated, and are edited
  export           the compiled sampler in a file that runs without this package
  convert          official PyTorch weights in, and ours out
  orders           writes generation orders to files, with pictures
  ablate           runs a list of config differences and makes a table
  likelihood       judges orders and numbers of steps by the bits that held-out codes cost
  attention        measures how far a trained decoder looks
  fit_schedule     fits group sizes to a trained decoder
  fit_order        asks a trained decoder which cells depend on each other, for an order

Several processes (--coordinator=host:port --num_processes=2 --process_id=0, or what Slurm, a GKE
JobSet or a TPU slice says of itself) work as one; only process 0 writes files and shows progress.

Exit codes: 0 done; 2 the input or the disk is to be put right, one sentence says how; 75 asked to
stop by SIGTERM, SIGUSR1 or Ctrl-C while training, and saved: start the same command again; 130
Ctrl-C elsewhere.
"""

import ast
import errno
import faulthandler
import functools
import importlib
import importlib.util
import logging
import os
import pkgutil
import platform
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path

import jax
from absl import flags
from absl import logging as absl_logging
from ml_collections import ConfigDict

import lpd_jax
from lpd_jax import config_files, config_help, distributed, logs, storage, tasks, xla
from lpd_jax.configs import base
from lpd_jax.errors import InputError
from lpd_jax.tasks import check

_LOG = logging.getLogger("lpd_jax")
_NOT_TASKS = (
    *("build", "check", "evaluators", "judging", "measuring"),
    *("inputs", "reconstructing", "results", "scoring", "start", "tokenizer_parts", "workdir"),
)
TASKS = tuple(m.name for m in pkgutil.iter_modules(tasks.__path__) if m.name not in _NOT_TASKS)
# What the machine, not the program, is to blame for.
_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "access is denied",
    errno.EPERM: "access is denied",
}


def run() -> None:
    """Entry point of `lpd` and `python -m lpd_jax`."""
    faulthandler.enable()
    sys.exit(command(sys.argv[1:]))


def command(arguments: list[str]) -> int:
    """Runs a command line and returns its exit code; what a person can mend is one sentence.

    With several processes, one that fails alone ends at once: the orderly end would wait for the
    others, and they for it.
    """
    try:
        _main(arguments)
    except InputError as error:
        print(f"lpd{_which()}: {error}", file=sys.stderr)
        return 2
    except distributed.Preempted as stop:
        if not _which():
            print(f"lpd: {stop}", file=sys.stderr)
        return distributed.PREEMPTED
    except KeyboardInterrupt:
        return _end("stopped by Ctrl-C; the same command goes on from what is complete.", 130)
    except Exception as error:
        sentence = _of_the_disk(error)
        if sentence is not None:
            return _end(sentence, 2)
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        return _end(
            "failed with the error above; if that speaks of a connection or a peer, another "
            "process ended first and its output says why. Once mended, run the same command in "
            "all processes; training goes on from its last checkpoint.",
            1,
        )
    return 0


def _main(arguments: list[str]) -> None:
    task, given, fields = _parse(arguments)
    if given.help or given.version:
        print(_version() if given.version else _help(task, given.config))
        return
    if task not in TASKS:
        asked = "name one task" if task is None else f"unknown task {task!r}"
        raise InputError(f"{asked}: choose from {', '.join(TASKS)}.")
    for name in ("config", "workdir"):
        if getattr(given, name) is None:
            raise InputError(f"--{name} is missing; try --config=digits --workdir=runs/digits.")
    sys.path.insert(0, os.getcwd())  # configs import each other, also under the `lpd` script
    config = config_files.load(given.config)
    config_files.override(config, fields)
    if given.checkpoint is not None:
        config.checkpoint = given.checkpoint
    if task == "demo":
        config.demo.config = config.demo.config or given.config
    for where in filter(None, (given.workdir, config.checkpoint)):
        storage.check(where)
    cluster = distributed.cluster(
        given.coordinator, given.num_processes, given.process_id, os.environ
    )
    if cluster is not None:
        distributed.initialize(
            cluster, join_timeout=given.join_timeout, heartbeat_timeout=given.heartbeat_timeout
        )
    _start_logging(given.verbosity, first=cluster is None or jax.process_index() == 0)
    _show(config, task, given)
    check.config(config, task)
    xla.keep_compiled()
    importlib.import_module(f"lpd_jax.tasks.{task}").run(config, given.workdir)
    if cluster is not None:
        distributed.barrier("the end")  # process 0 may be writing still


def _start_logging(verbosity: int, first: bool) -> None:
    # Libraries ask absl for flags, which are ours to parse.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    absl_logging.use_absl_handler()
    absl_logging.set_verbosity(verbosity)
    logs.setup(logging.INFO if first else logging.WARNING)


def _show(config: ConfigDict, task: str, given: flags.FlagValues) -> None:
    """Says what is run: the fields that are not as in `configs/base.py`."""
    _LOG.info(
        "%s --config=%s --workdir=%s, which differs from configs/base.py (all of it will be in "
        "config.json beside the results) in\n%s",
        task,
        given.config,
        given.workdir,
        config_files.differences(config),
    )


def _define() -> flags.FlagValues:
    """The flags, apart from those that set fields; a new set of them for each command."""
    mine = flags.FlagValues()
    mine.set_gnu_getopt(True)  # the task may come anywhere
    text = functools.partial(flags.DEFINE_string, flag_values=mine, default=None)
    number = functools.partial(flags.DEFINE_integer, flag_values=mine, lower_bound=0)
    switch = functools.partial(flags.DEFINE_boolean, flag_values=mine, default=False)
    text("config", help="Config file, or a shipped one: digits, folder_small, lpd_256:XL.")
    text("workdir", help="Directory that the task reads and writes; gs://bucket/...")
    text("checkpoint", help="Directory of the models to use, if not the workdir.")
    text("coordinator", help="host:port of process 0 of several; auto: ask the TPU VM.")
    number("num_processes", None, "How many processes work together.", lower_bound=1)
    number("process_id", None, "Which of them this one is, from 0.")
    number("join_timeout", 300, "Seconds to wait for the others at the start.", lower_bound=1)
    number("heartbeat_timeout", 100, "Seconds until a silent one counts as dead.", lower_bound=1)
    # Orbax tells at INFO what it does; ours are the only messages of that level people ask for.
    number("verbosity", -1, "Of libraries: 0 shows what they do, 1 more.", lower_bound=None)
    switch("version", help="Versions of this package, jax and Python.")
    switch("help", short_name="h", help="This; TASK --help: what the task does.")
    return mine


def _parse(arguments: list[str]) -> tuple[str | None, flags.FlagValues, list[str]]:
    """Task, flags, and those flags that set fields, such as --config.section.field=value."""
    given = _define()
    fields, others = [], []
    try:
        left = given.read_flags_from_files(arguments)
        while left:
            argument = left.pop(0)
            if not config_files.OVERRIDE.match(argument):
                others.append(argument)
                continue
            if (
                "=" not in argument
                and left
                and not left[0].startswith("--")
                and left[0] not in TASKS
            ):
                argument = f"{argument}={left.pop(0)}"
            fields.append(argument)
        _, *tasks_named = given(["lpd", *others])
    except flags.UnrecognizedFlagError as error:
        near = get_close_matches(error.flagname, [*given], 1)
        hint = f"did you mean --{near[0]}?" if near else "lpd --help lists the flags."
        raise InputError(f"there is no flag --{error.flagname}; {hint}") from error
    except flags.Error as error:
        raise InputError(f"{str(error).removeprefix('flag ')}; lpd --help lists them.") from error
    if len(tasks_named) > 1:
        raise InputError(f"name one task, not {' and '.join(tasks_named)}.")
    return next(iter(tasks_named), None), given, fields


def _help(task: str | None, choice: str | None) -> str:
    """Help of the command or, for a task, what its file says of it and the fields that it reads."""
    if task not in TASKS:
        listed = _define().main_module_help().strip().partition("\n")[2]
        return f"{__doc__}\nFlags:\n{listed}"
    about = ast.get_docstring(ast.parse(_source(task))).removeprefix("Task: ")
    config = config_files.load(choice) if choice else base.get_config()
    return (
        f"{task}: {about}\n\nFields, set by --config.section.field=value, as they are "
        f"in {choice or 'configs/base.py'}:\n{config_help.listed(config, _sections(task))}\n\n"
        "lpd --help lists tasks and flags; configs/base.py all fields."
    )


def _source(task: str) -> str:
    return Path(importlib.util.find_spec(f"lpd_jax.tasks.{task}").origin).read_text("utf-8")


def _sections(task: str) -> set[str]:
    """Sections of the config that a task reads, with its helpers and the tasks that it runs.

    Not those that `build` and `check` read, which know every task.
    """
    found, seen, files = {task}, {"build", "check"}, [task]
    while files:
        name = files.pop()
        seen.add(name)
        source = _source(name)
        found |= config_help.read_by(source)
        for other in config_help.imported(source, "lpd_jax.tasks") - seen:
            if other not in TASKS or f" {other}.run(config" in source:
                files.append(other)
    return found


def _version() -> str:
    return (
        f"lpd_jax {lpd_jax.__version__}, jax {jax.__version__}, Python {platform.python_version()}"
    )


def _of_the_disk(error: BaseException | None) -> str | None:
    """The sentence for an error that has its cause in a disk; None for any other."""
    full = os.strerror(errno.ENOSPC)  # the writer of checkpoints passes on the text alone
    while error is not None:
        number = getattr(error, "errno", None) if isinstance(error, OSError) else None
        number = errno.ENOSPC if full in str(error) else number
        if number in _DISK:
            file = f" ({error.filename})" if getattr(error, "filename", None) else ""
            return (
                f"{_DISK[number]}{file}; put that right and run the same command again: what is "
                "complete stays."
            )
        error = error.__cause__
    return None


def _end(sentence: str, code: int) -> int:
    """Says why this process ends; among several it ends here and now."""
    print(f"lpd{_which()}: {sentence}", file=sys.stderr, flush=True)
    if jax.distributed.is_initialized():
        os._exit(code)
    return code


def _which() -> str:
    """Names this process in messages, if it is not the first."""
    several = jax.distributed.is_initialized() and jax.process_index() != 0
    return f" (process {jax.process_index()})" if several else ""


if __name__ == "__main__":
    run()
