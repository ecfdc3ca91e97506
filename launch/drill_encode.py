"""Kills two encoding jobs in one workdir again and again and shows that no image suffers.

    python launch/drill_encode.py --workdir=runs/drill_encode --kills=30

Encodes random images, some of them damaged, with a random tokenizer: once in one go, once by two
jobs that do not know of each other, of which one or the other is killed (SIGKILL) at a random time
after it has read its first image, and started again. At the end every file must be there, no image
lost, doubled or encoded under another view, and the list of skipped images that of the run in one
go. Exits with 1 if anything differs. About 10 s a kill on two CPU cores.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from drilled import begin

IMAGES, CLASSES, SHARD = 120, 4, 3  # a class, and images in a file


def child(delay: float, arguments: list[str]) -> None:
    """The command line, which ends itself `delay` seconds after its first image, or never."""
    from lpd_jax.data import folder

    def end() -> None:
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGKILL)

    read, begun = folder.Folder.__getitem__, threading.Event()

    def slowly(self, i):
        if delay >= 0 and not begun.is_set():
            begun.set()
            threading.Thread(target=end, daemon=True).start()
        time.sleep(0.02)  # so that there is something to kill
        return read(self, i)

    folder.Folder.__getitem__ = slowly
    from lpd_jax import __main__ as command

    sys.argv = ["lpd", *arguments]
    command.run()


def start(workdir: Path, images: Path, cache: Path, delay: float) -> subprocess.Popen:
    """A job that encodes in `workdir`."""
    fields = {
        "data.source": "folder",
        "data.path": images,
        "data.size": 16,
        "data.flip": True,
        "mesh.data": 1,
        "encode.batch_size": 16,
        "encode.shard_size": SHARD,
        "reading.bad_share": 0.1,
    }
    arguments = ["encode", "--config=digits", f"--workdir={workdir}"]
    arguments += [f"--config.{name}={value}" for name, value in fields.items()]
    return begin(__file__, workdir, cache, (delay,), arguments)


def prepare(place: Path) -> None:
    """Images, a random tokenizer, and two workdirs with it."""
    import jax
    import numpy as np
    from PIL import Image

    from lpd_jax import checkpoint
    from lpd_jax.configs import digits
    from lpd_jax.models.initial import init_tokenizer
    from lpd_jax.tasks import build
    from lpd_jax.tasks.workdir import plain

    rng = np.random.default_rng(0)
    for number in range(CLASSES):
        directory = place / f"images/{number}"
        directory.mkdir(parents=True)
        for i in range(IMAGES):
            pixels = rng.integers(0, 256, (20, 20, 3), np.uint8)
            Image.fromarray(pixels).save(directory / f"{i:03d}.png")
            if i % 40 == 7:
                (directory / f"{i:03d}.png").write_bytes(b"damaged")
    network = build.tokenizer(digits.get_config())
    params = jax.jit(lambda key: init_tokenizer(network, key))(jax.random.key(0))
    about = plain({"kind": "tokenizer", "config": network.config, "fingerprint": "random"})
    checkpoint.save_model(place / "whole/tokenizer/model", about, params)
    shutil.copytree(place / "whole", place / "killed")


def drill(place: Path, kills: int, draw: random.Random) -> int:
    """Kills jobs until enough of them have died; how many did."""
    killed = 0

    def begun() -> subprocess.Popen:
        return start(place / "killed", place / "images", place / "cache", draw.uniform(0, 2.5))

    jobs = [begun(), begun()]
    while killed < kills:
        time.sleep(0.05)
        for number, job in enumerate(jobs):
            if (code := job.poll()) is None:
                continue
            if code == 0:  # it was faster than its end: begin anew with half of the files
                files = sorted((place / "killed/codes").glob("codes-*"))
                for file in draw.sample(files, len(files) // 2):
                    file.unlink()
            elif code == -signal.SIGKILL:
                killed += 1
                there = len([*(place / "killed/codes").glob("codes-*")])
                print(f"{killed}/{kills} killed with {there} files there", flush=True)
            else:
                raise SystemExit(f"a job ended with code {code}, see {place}/killed/output.log")
            jobs[number] = begun()
    for job in jobs:
        job.kill()
        job.wait()
    return killed


def differences(place: Path) -> list[str]:
    """One sentence for each thing in which the two datasets differ."""
    import numpy as np

    from lpd_jax.data.codes import load_codes

    found = []
    for split in ("train", "heldout"):
        one, two = (load_codes(place / name / "codes", split) for name in ("whole", "killed"))
        index = two["index"]
        if len(np.unique(index)) != len(index):
            found.append(f"{split}: {len(index) - len(np.unique(index))} images are doubled")
        if lost := set(one["index"].tolist()) - set(index.tolist()):
            found.append(f"{split}: {len(lost)} images are lost")
        for name in one:
            if one[name].tobytes() != two[name].tobytes():
                found.append(f"{split}: {name} differ")
    lists = [
        sorted(
            json.dumps(json.loads(row) | {"path": ""})
            for row in (place / name / "codes/skipped.jsonl").read_text().splitlines()
        )
        for name in ("whole", "killed")
    ]
    if lists[0] != lists[1]:
        found.append(f"{len(lists[0])} images were skipped in one go, {len(lists[1])} with kills")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, required=True, help="new directory")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    place = given.workdir.absolute()
    prepare(place)
    for name in ("whole", "killed"):
        if name == "killed":
            count = drill(place, given.kills, random.Random(given.seed))
        if code := start(place / name, place / "images", place / "cache", -1).wait():
            raise SystemExit(f"encoding ended with code {code}, see {place / name}/output.log")
    if found := differences(place):
        raise SystemExit("\n".join(found))
    print(
        f"{count} kills of one of two jobs: {CLASSES * IMAGES} images, 0 lost, doubled or under "
        "another view; codes and skipped images are those of the run in one go, bit by bit"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        _, delay, *arguments = sys.argv[2:]
        child(float(delay), arguments)
    else:
        main()
