"""Several processes as one job: how they find each other, wait for each other, and stop together.

Everything here does nothing, at no cost, when there is one process.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from lpd_jax.errors import InputError

PREEMPTED = 75  # EX_TEMPFAIL of sysexits.h: start the same command again


class Preempted(Exception):
    """The scheduler wants the machine back; everything is saved. The message says what."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where the processes of a job meet. What is None is left to jax's own detection.

    Attributes:
        coordinator: host:port on which process 0 listens.
        num_processes, process_id: how many there are, and which one this is, from 0.
        local_device_ids: accelerators of the host that this process takes.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    local_device_ids: tuple[int, ...] | None = None


def cluster(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    environ: Mapping[str, str],
) -> Cluster | None:
    """The cluster that flags or, without flags, the environment describes; None: one process.

    Of the environment it reads, the first that is there:

    * `JAX_COORDINATOR_ADDRESS` with `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`; instead of the last,
      `JOB_COMPLETION_INDEX`, which Kubernetes gives the pods of an indexed Job (GKE JobSet);
    * `SLURM_STEP_NUM_TASKS` > 1, that of `srun`. With one task on a node it takes all the GPUs of
      the node, else one each;
    * several `TPU_WORKER_HOSTNAMES` (TPU slices on GKE), or `MEGASCALE_NUM_SLICES` > 1.

    Args:
        coordinator: host:port; "auto" leaves all to jax, which asks the metadata server on TPU VMs.
        num_processes, process_id: with host:port, both.
        environ: such as `os.environ`.

    Raises:
        InputError: what belongs together is not complete or contradicts itself.
    """
    if (coordinator, num_processes, process_id) == (None, None, None):
        return _from_environment(environ)
    if coordinator == "auto" and num_processes is process_id is None:
        return Cluster()
    if num_processes == 1 and not process_id:
        return None
    flags = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    return _complete(flags, "--")


def _from_environment(environ: Mapping[str, str]) -> Cluster | None:
    if "JAX_COORDINATOR_ADDRESS" in environ:
        index = "JAX_PROCESS_ID" if "JAX_PROCESS_ID" in environ else "JOB_COMPLETION_INDEX"
        names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", index)
        values = {name: environ.get(name) for name in names}
        if values["JAX_NUM_PROCESSES"] == "1":
            return None
        return _complete(values, "")
    if int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        gpus = int(environ.get("SLURM_GPUS_ON_NODE", "0"))
        one_each = environ["SLURM_STEP_NUM_TASKS"] == environ.get("SLURM_STEP_NUM_NODES")
        return Cluster(local_device_ids=tuple(range(gpus)) if one_each and gpus else None)
    hosts = environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    if " " in hosts[0]:  # libtpu leaves a warning there when it finds no hosts
        hosts = []
    if len(hosts) > 1 or int(environ.get("MEGASCALE_NUM_SLICES") or "1") > 1:
        return Cluster()
    return None


def _complete(values: Mapping[str, str | int | None], prefix: str) -> Cluster:
    """Three values, by their names in the order of `Cluster`, checked."""
    missing = [f"{prefix}{name}" for name, value in values.items() if value is None]
    names = ", ".join(f"{prefix}{name}" for name in values)
    if missing:
        raise InputError(f"{names} go together; {' and '.join(missing)} is missing.")
    address, count, index = values.values()
    port = str(address).rpartition(":")[2]
    if not (str(count).isdecimal() and str(index).isdecimal() and port.isdecimal()):
        raise InputError(
            f"{names} must be host:port and two numbers, not {address} {count} {index}."
        )
    if not int(index) < int(count):
        raise InputError(
            f"process {index} of {count} cannot be: the processes are numbered 0 to "
            f"{int(count) - 1}."
        )
    return Cluster(str(address), int(count), int(index))


def initialize(where: Cluster, *, join_timeout: int = 300, heartbeat_timeout: int = 100) -> None:
    """Joins the job; before anything asks jax for its devices.

    Args:
        where: from `cluster`.
        join_timeout: seconds to wait for the others; then the process ends with one sentence and
            exit code 2.
        heartbeat_timeout: seconds of silence after which a process counts as dead, and jax ends
            all the others.

    Raises:
        InputError: the port is taken, or jax cannot tell the cluster.
    """
    name = f"process {where.process_id} of {where.num_processes}"
    if where.process_id == 0:
        _check_port(where.coordinator)
    meeting = f"at {where.coordinator} " if where.coordinator else ""
    # jax itself would abort the process, with a stack of C++ frames.
    alarm = threading.Timer(
        join_timeout,
        _give_up,
        (
            f"{name if where.coordinator else 'this process'} did not meet all the others "
            f"{meeting}within {join_timeout} s; see that every process was started, with the same "
            "coordinator, and that its port is reachable.",
        ),
    )
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            where.coordinator,
            where.num_processes,
            where.process_id,
            where.local_device_ids,
            # Given three of the four values, jax would still look for the last one.
            cluster_detection_method="deactivate" if where.coordinator else None,
            initialization_timeout=join_timeout + 60,
            heartbeat_timeout_seconds=heartbeat_timeout,
            shutdown_timeout_seconds=heartbeat_timeout,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the processes of this job cannot be found out ({str(error).splitlines()[0]}); give "
            "--coordinator, --num_processes and --process_id."
        ) from error
    finally:
        alarm.cancel()


def _check_port(coordinator: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(coordinator.rpartition(":")[2])))
        except OSError as error:
            raise InputError(
                f"process 0 cannot listen on {coordinator} ({error.strerror}); choose another port."
            ) from error


def _give_up(sentence: str) -> None:
    print(f"lpd: {sentence}", file=sys.stderr, flush=True)
    os._exit(2)


def barrier(name: str) -> None:
    """Returns when every process has come here; files written before are there for all after."""
    multihost_utils.sync_global_devices(name)


def to_host(tree: Any) -> Any:
    """The whole of every (global) array of a tree, as NumPy arrays in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def rows_to_host(rows: np.ndarray, values: Any) -> Any:
    """Arrays of which every process holds some rows, whole and in order, in every process.

    Args:
        rows: int [P], which rows of the whole this process holds; each is held by one process.
        values: a tree of arrays [P, ...].
    """
    if jax.process_count() > 1:
        counts = multihost_utils.process_allgather(np.int32(len(rows))).tolist()

        def gather(x: np.ndarray) -> np.ndarray:
            # Every process must bring as many.
            spare = np.zeros((max(counts) - len(x), *x.shape[1:]), x.dtype)
            parts = multihost_utils.process_allgather(np.concatenate([x, spare]))
            return np.concatenate([part[:n] for part, n in zip(parts, counts, strict=True)])

        rows, values = jax.tree.map(gather, (rows, values))
    places = np.argsort(rows)
    return jax.tree.map(lambda x: x[places], values)


def greatest(value: int) -> int:
    """The greatest of what the processes pass, in every process; all of them call it."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.process_allgather(np.int32(value)).max())


def from_first(value: Any) -> Any:
    """What process 0 passed (JSON data), in every process; all of them call it.

    For decisions that a process would otherwise take from its own, possibly stale, view of a disk.
    """
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(text))))
    # Every process brings an array of this length; only that of process 0 is looked at.
    told = multihost_utils.broadcast_one_to_all(np.resize(text, length))
    return json.loads(np.asarray(told, np.uint8).tobytes())


def decided(decide: Callable[[], Any]) -> Any:
    """What `decide()` returns in process 0 (JSON data), in every process; all of them call it.

    Raises:
        InputError: in every process, that which `decide()` raised in process 0.
    """
    if jax.process_count() == 1:
        return decide()
    outcome, refusal = None, None
    if jax.process_index() == 0:
        try:
            outcome = decide()
        except InputError as error:
            refusal = str(error)
    outcome, refusal = from_first([outcome, refusal])
    if refusal is not None:
        raise InputError(refusal)
    return outcome


@contextlib.contextmanager
def first_process_first(name: str) -> Iterator[None]:
    """Runs the block in process 0, then in the others, which find what it left."""
    if jax.process_index() != 0:
        barrier(name)
    try:
        yield
    finally:  # what stops process 0 will most likely stop the others too, with the same sentence
        if jax.process_index() == 0:
            barrier(name)


@contextlib.contextmanager
def preemption() -> Iterator[Callable[[], bool]]:
    """Within the block SIGTERM, SIGUSR1 and Ctrl-C ask for a stop instead of ending the process.

    Yields:
        To be called after each step, in every process: True when all of them are to stop after
        this step, because one or more were asked to. From then on a second signal ends the
        process at once (with one process: from the first signal on).
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # Python allows signal handlers in the main thread only
    elif jax.process_count() == 1:
        with _signals((signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)) as asked:
            yield asked.is_set
    else:
        # jax has its own handler of SIGTERM, which tells the other processes and agrees with them
        # on the step; it counts calls, and the count must never go back.
        def agreed() -> bool:
            stop = multihost_utils.reached_preemption_sync_point(next(_calls()))
            if stop:
                for number in (signal.SIGTERM, signal.SIGINT):
                    signal.signal(number, signal.SIG_DFL)
            return stop

        def pass_on(number: int, _) -> None:
            if number == signal.SIGINT:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

        before = {n: signal.signal(n, pass_on) for n in (signal.SIGUSR1, signal.SIGINT)}
        try:
            yield agreed
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _signals(numbers: tuple[signal.Signals, ...]) -> Iterator[threading.Event]:
    """An event that the first of these signals sets; the second does what it did before.

    A second Ctrl-C ends the process at once, where Python would show a stack.
    """
    asked = threading.Event()

    def ask(*_) -> None:
        asked.set()
        restore()
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, signal.SIG_DFL)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield asked
    finally:
        restore()


@functools.cache
def _calls() -> Iterator[int]:
    return itertools.count()
