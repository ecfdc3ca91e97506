"""Kills an evaluation again and again: no image is left out, counted twice or changed.

    python launch/drill_evaluate.py --models=runs/digits --workdir=runs/drill --kills=20

Judges images of a trained digits model twice, by the command line: once in one go, once killed by
SIGKILL at random points, each time by one of

  image  after a random number of images
  write  while what was seen in a batch is being written, or joined to that in those before
  start  at a random time of the start

The process sends the signal to itself, so that the points depend on the seed and not on the load of
the machine. Compares what was seen in the images and the images themselves bit by bit, and the
figures; counts how many images were made again. Exits with 1 if anything differs, or a kill cost
more than a batch.
"""

import argparse
import itertools
import json
import os
import random
import signal
import sys
import threading
from pathlib import Path

from drilled import begin

KINDS = ("image", "write", "image", "start")
FIGURES = ("class_accuracy", "frechet", "frechet_ratio", "near_copies", "count")


def child(workdir: Path, kind: str, target: int, delay: float, arguments: list[str]) -> None:
    """The command line, which ends itself as told and notes which images it has made.

    Args:
        workdir: of the run.
        kind: of the end, or "none".
        target: images that are made before it, or files written.
        delay: seconds that it waits at the start.
        arguments: of the command line.
    """

    def end() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if kind == "start":
        timer = threading.Timer(delay, end)
        timer.daemon = True
        timer.start()
    from lpd_jax import __main__ as command
    from lpd_jax.evaluation import keeping, units

    made, written = 0, 0
    write_pngs, savez = keeping.write_pngs, units.np.savez

    def noted(directory, rows, images):
        nonlocal made
        write_pngs(directory, rows, images)
        if directory.name == "images":
            with (workdir / "made.jsonl").open("a") as file:
                file.write(json.dumps(rows.tolist()) + "\n")
            made += len(rows)
            if kind == "image" and made >= target:
                end()

    def cut(file, **arrays):
        nonlocal written
        written += 1
        if kind == "write" and written >= target:
            savez(file, **{name: array[:5] for name, array in arrays.items()})
            end()
        savez(file, **arrays)

    keeping.write_pngs, units.np.savez = noted, cut
    sys.argv = ["lpd", *arguments]
    command.run()


def run(given, workdir: Path, kind: str = "none", target: int = 0, delay: float = 0) -> int:
    """Judges in `workdir`, or goes on there, in a process of its own; its exit code."""
    workdir.mkdir(parents=True, exist_ok=True)
    arguments = [
        *("evaluate", "--config=configs/digits.py", f"--workdir={workdir}"),
        *(f"--checkpoint={given.models.absolute()}", "--config.evaluate.keep=png"),
        f"--config.evaluate.num_images={given.images}",
        f"--config.sample.batch_size={given.batch}",
    ]
    cache = given.workdir.absolute() / "cache"
    return begin(__file__, workdir, cache, (kind, target, delay), arguments).wait()


def made(workdir: Path) -> list[list[int]]:
    """Indices of the images of each batch that was ever made there."""
    return [json.loads(line) for line in (workdir / "made.jsonl").read_text().splitlines()]


def again(workdir: Path) -> list[int]:
    """How many images were made again after each kill that cost some."""
    batches = made(workdir)
    costs = [a[-1] + 1 - b[0] for a, b in itertools.pairwise(batches)]
    return [cost for cost in costs if cost > 0]


def differences(whole: Path, killed: Path, images: int) -> list[str]:
    """One sentence for each thing in which the two evaluations differ."""
    import numpy as np

    from lpd_jax.evaluation.units import Units

    found = []
    places = [next(path.glob("report/*/report.json")).parent for path in (whole, killed)]
    seen = [
        [*Units(next(place.glob("looks-*")), images).read()] for place in places
    ]  # raises where an image is absent or there twice
    for unit, (a, b) in enumerate(zip(*seen, strict=True)):
        if any(not np.array_equal(a[name], b[name]) for name in a):
            found.append(f"what was seen in unit {unit} differs")
    pictures = [{f.name: f.read_bytes() for f in place.glob("images/*.png")} for place in places]
    if pictures[0] != pictures[1] or len(pictures[0]) != images:
        found.append(f"images differ: {len(pictures[0])} and {len(pictures[1])} of {images}")
    reports = [json.loads((place / "report.json").read_text())["samples"] for place in places]
    found += [f"{name} differs" for name in FIGURES if reports[0][name] != reports[1][name]]
    if {row for rows in made(killed) for row in rows} != {*range(images)}:
        found.append("not all images were made")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="workdir of the quickstart")
    parser.add_argument("--workdir", type=Path, required=True, help="new directory")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    whole, killed = (given.workdir.absolute() / name for name in ("whole", "killed"))
    if run(given, whole):
        raise SystemExit(f"the evaluation failed, see {whole}/output.log")
    for number in range(given.kills):
        kind = KINDS[number % len(KINDS)]
        # On average as far as leaves something to do for the last.
        most = 2 * given.images // given.kills
        target = draw.randint(1, max(1, most // given.batch) if kind == "write" else most)
        code = run(given, killed, kind, target, draw.uniform(0, 8))
        if code != -signal.SIGKILL:
            raise SystemExit(f"{kind} ended it with code {code}, see {killed}/output.log")
        files = sorted(file.name for file in killed.glob("report/*/looks-*/[0-9]*.npz"))
        print(f"{number + 1}/{given.kills} {kind}: {len(files)} files {files[-1:]}", flush=True)
    if run(given, killed):
        raise SystemExit(f"the evaluation failed, see {killed}/output.log")
    if found := differences(whole, killed, given.images):
        raise SystemExit("\n".join(found))
    costs = again(killed)
    print(
        f"{given.kills} kills, {given.images} images: none lost, none twice; what was seen, the "
        f"images and the figures are those of one go, bit by bit; {sum(costs)} images were made "
        f"again ({sum(costs) / given.kills:.0f} a kill, at most {max(costs, default=0)})"
    )
    if max(costs, default=0) > given.batch:
        raise SystemExit(f"a kill cost more than a batch of {given.batch}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        folder, kind, target, delay, *arguments = sys.argv[2:]
        child(Path(folder), kind, int(target), float(delay), arguments)
    else:
        main()
