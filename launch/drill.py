"""Kills a training run again and again and shows that nothing is lost and nothing is done twice.

    python launch/drill.py --codes=runs/digits/codes --workdir=runs/drill --kills=50
    python launch/drill.py --workdir=runs/drill_gan --kills=20

Trains a shrunk digits decoder twice on the same codes, or without codes a shrunk tokenizer against
a discriminator, by the command line: once in one go, once killed at random points, each time by one
of

  step   SIGKILL after a random number of steps
  save   SIGKILL while a checkpoint is being written
  start  SIGKILL at a random time of the start
  term   SIGTERM after a random number of steps: must save that step and exit with code 75

The process sends the signal to itself, from a thread, so that the points depend on the seed and
not on the load of the machine.

Compares parameters and optimizer state bit by bit, the rows of metrics (but for images a second and
the like), and the ids of the records that each step has read. Exits with 1 if anything differs.
About 10 s a kill on two CPU cores.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

from drilled import begin

STEPS_PER_KILL = 40  # more than a run that is killed gets done on average
SAVE_EVERY = 20
KINDS = ("step", "save", "start", "term")
# With everything that a run can carry from step to step.
DECODER = {
    "decoder.width": 64,
    "decoder.depth": 2,
    "decoder.heads": 2,
    "decoder.unroll": 2,
    "decoder.dropout": 0.1,
    "train.batch_size": 32,
    "train.ema_decay": 0.99,
}
TOKENIZER = {
    "tokenizer.ch": 8,
    "tokenizer.ch_mult": "(1,1,1)",
    "tokenizer.z_channels": 8,
    "tokenizer.norm_groups": 4,
    "train_tokenizer.batch_size": 16,
    "train_tokenizer.warmup_steps": 5,
    "train_tokenizer.ema_decay": 0.99,
    "tokenizer_loss.restart_every": 7,
    "tokenizer_loss.restart_below": 0.5,
    "discriminator.weight": 0.5,
    "discriminator.adaptive": True,
    "discriminator.start": 10,
    "discriminator.width": 8,
    "discriminator.layers": 2,
    "discriminator.lecam": 0.01,
}


def child(workdir: Path, kind: str, target: int, delay: float, arguments: list[str]) -> None:
    """The command line, which ends itself as told and writes down the ids of every batch.

    Args:
        workdir: of the run.
        kind: of the end, or "none".
        target: batches of the stream that are read before it.
        delay: seconds that it waits then.
        arguments: of the command line.
    """
    read = []  # positions of the stream that were asked for

    def reached() -> bool:
        return bool(read) and read[-1] >= target and (kind != "save" or saving(workdir))

    def end() -> None:
        while kind != "start" and not reached():
            time.sleep(0.002)
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGTERM if kind == "term" else signal.SIGKILL)

    if kind != "none":
        threading.Thread(target=end, daemon=True).start()
    from lpd_jax import __main__ as command
    from lpd_jax.data import pipeline

    class Recorded:
        """An iterator of batches that notes its position and what it hands out."""

        def __init__(self, batches):
            self._batches = batches
            self.get_state, self.set_state = batches.get_state, batches.set_state

        def __iter__(self):
            return self

        def __next__(self):
            read.append(self.get_state()["next_index"])
            batch = next(self._batches)
            with (workdir / "consumed.jsonl").open("a") as file:
                file.write(json.dumps([read[-1], batch["index"].tolist()]) + "\n")
            return batch

    make = pipeline.batches
    pipeline.batches = lambda *args, **settings: Recorded(iter(make(*args, **settings)))
    sys.argv = ["lpd", *arguments]
    command.run()


def run(
    workdir: Path, cache: Path, steps: int, kind: str = "none", target: int = 0, delay: float = 0
) -> int:
    """Trains in `workdir`, or goes on there, in a process of its own; its exit code."""
    decoder = trained(workdir).name == "decoder"
    task = "train" if decoder else "train_tokenizer"
    fields = {
        "mesh.data": 1,
        f"{task}.steps": steps,
        f"{task}.log_every": 1,
        f"{task}.save_every": SAVE_EVERY,
        **(DECODER | {"train.decay_start": steps // 2} if decoder else TOKENIZER),
    }
    arguments = [task, "--config=configs/digits.py", f"--workdir={workdir}"]
    arguments += [f"--config.{name}={value}" for name, value in fields.items()]
    return begin(__file__, workdir, cache, (kind, target, delay), arguments).wait()


def trained(workdir: Path) -> Path:
    """Where the run is: a decoder's where there are codes, else a tokenizer's."""
    return workdir / ("decoder" if (workdir / "codes").exists() else "tokenizer")


def saved(workdir: Path) -> int:
    """The newest complete checkpoint; 0 if there is none."""
    names = [p.name for p in (trained(workdir) / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def written(workdir: Path) -> int:
    """Steps with a row of metrics."""
    file = trained(workdir) / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def saving(workdir: Path) -> bool:
    """Whether a checkpoint is being written, or its process died over it."""
    return any((trained(workdir) / "checkpoints").glob("*tmp*"))


def kill(workdir: Path, cache: Path, steps: int, kind: str, draw: random.Random) -> dict:
    """Goes on training until it ends itself in one of the ways above; what was seen."""
    begin = saved(workdir)
    delay = draw.uniform(0, 8) if kind == "start" else draw.uniform(0, 0.05)
    code = run(workdir, cache, steps, kind, begin + draw.randint(1, 3 * SAVE_EVERY), delay)
    last, rows = saved(workdir), written(workdir)
    expected = (75, -signal.SIGTERM) if kind == "term" else (-signal.SIGKILL,)
    if code not in expected:
        raise SystemExit(f"{kind} ended the process with code {code}, see {workdir}/output.log")
    if code == 75 and rows != last:
        raise SystemExit(f"asked to stop, it had done {rows} steps and saved {last}")
    return {
        "kind": kind,
        "code": code,
        "done": last - begin,
        "again": max(rows - last, 0),
        "tmp": saving(workdir),
    }


def finish(workdir: Path, cache: Path, steps: int) -> None:
    """Lets the run come to its end."""
    if code := run(workdir, cache, steps):
        raise SystemExit(f"training ended with code {code}, see {workdir}/output.log")


def consumed(workdir: Path) -> dict[int, list[list[int]]]:
    """Position in the stream -> ids, for every batch that was ever read there."""
    found = collections.defaultdict(list)
    for line in (workdir / "consumed.jsonl").read_text().splitlines():
        try:
            position, ids = json.loads(line)
        except ValueError:
            continue  # cut short by a kill; the step was not done
        found[position].append(ids)
    return found


def differences(whole: Path, killed: Path, steps: int) -> list[str]:
    """One sentence for each thing in which the two runs differ."""
    import jax
    import numpy as np
    from orbax.checkpoint import v1 as ocp

    from lpd_jax.metrics import read_rows, without_clock

    found = []
    states = [
        ocp.load_checkpointables(trained(path) / f"checkpoints/{steps}")["state"]
        for path in (whole.absolute(), killed.absolute())
    ]
    leaves = [jax.tree_util.tree_leaves_with_path(state) for state in states]
    for (path, a), (_, b) in zip(*leaves, strict=True):
        if np.asarray(a).tobytes() != np.asarray(b).tobytes():
            found.append(f"state {jax.tree_util.keystr(path)} differs")
    rows = [without_clock(read_rows(trained(path))) for path in (whole, killed)]
    numbers = [row["step"] for row in rows[1]]
    if numbers != list(range(steps)):
        found.append(
            f"{len(set(range(steps)) - set(numbers))} steps lost, "
            f"{len(numbers) - len(set(numbers))} repeated"
        )
    if rows[0] != rows[1]:
        found.append("rows of metrics differ")
    one, many = consumed(whole), consumed(killed)
    if len(one) != steps or one.keys() != many.keys():
        found.append(f"{len(one)} batches were read in one go, {len(many)} with kills, not {steps}")
    wrong = [p for p in one if any(ids != one[p][0] for ids in many.get(p, ()))]
    if wrong:
        found.append(f"the records of {len(wrong)} batches differ, first at {wrong[0]}")
    return found


def table(kills: list[dict]) -> str:
    """What was done to the run, by kind."""
    lines = ["kind   kills  in a save  steps done  done again (dropped with the kill)"]
    for kind in KINDS:
        those = [k for k in kills if k["kind"] == kind]
        done, again = (sum(k[name] for k in those) for name in ("done", "again"))
        tmp = sum(k["tmp"] for k in those)
        lines.append(f"{kind:6}{len(those):6}{tmp:11}{done:12}{again:12}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codes", type=Path, help="codes of the digits config")
    parser.add_argument("--workdir", type=Path, required=True, help="new directory")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw, steps = random.Random(given.seed), STEPS_PER_KILL * given.kills
    whole, killed, cache = (given.workdir.absolute() / n for n in ("whole", "killed", "cache"))
    for workdir in (whole, killed):
        workdir.mkdir(parents=True)
        if given.codes:
            shutil.copytree(given.codes, workdir / "codes")
    finish(whole, cache, steps)
    kinds = [KINDS[i % len(KINDS)] for i in range(given.kills)]
    draw.shuffle(kinds)
    kills = []
    for number, kind in enumerate(kinds):
        kills.append(kill(killed, cache, steps, kind, draw))
        print(f"{number + 1}/{given.kills}", json.dumps(kills[-1]), flush=True)
    finish(killed, cache, steps)
    print(f"\n{table(kills)}\n")
    if found := differences(whole, killed, steps):
        raise SystemExit("\n".join(found))
    print(
        f"{len(kills)} kills, {steps} steps: 0 lost or repeated steps; state, metrics and records "
        "are those of the run in one go, bit by bit"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        folder, kind, target, delay, *arguments = sys.argv[2:]
        child(Path(folder), kind, int(target), float(delay), arguments)
    else:
        main()
