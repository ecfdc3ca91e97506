"""One of two processes, of which the second sees no file that the tasks have written.

python -m tests.multiprocess.stale WORKDIR PORT INDEX

A shared disk can show a process what was there some seconds ago. Were each to decide for itself
what is left to do, the second would start programs that the first never joins.
"""

import pathlib
import sys

import numpy as np

from lpd_jax import distributed, storage
from lpd_jax.sampler import Sampler
from lpd_jax.tasks import ablate, build, edit, encode, evaluate, sample
from tests.multiprocess import tiny

WRITTEN = ("samples.png", "edits.png", ".npz", "dataset_info.json", ".array_record")


def main(workdir: pathlib.Path, port: str, index: int) -> None:
    """Samples, edits and judges twice, the second time with nothing left to do."""
    distributed.initialize(distributed.Cluster(f"127.0.0.1:{port}", 2, index), join_timeout=60)
    told = distributed.from_first({"by": index, "text": "é" * (3 + index)})
    assert told == {"by": 0, "text": "ééé"}
    config = tiny.get_config()
    first = run(config, workdir)
    if index == 1:
        is_file = pathlib.Path.is_file
        pathlib.Path.is_file = lambda p: not str(p).endswith(WRITTEN) and is_file(p)
        Sampler.sample = Sampler.edit = None  # to be called by neither, and not by this one alone
    assert run(config, workdir) == first
    print("found done what was done:", *first)
    distributed.barrier("the end")


def run(config, workdir: pathlib.Path) -> list[str]:
    """Names of what the tasks made, or found made."""
    about = build.about(config, workdir)
    labels = np.tile([0, 1], 4)  # as many as are sampled: one compiled program
    images = evaluate._generate(
        config, workdir, about, lambda: build.sampler(config, workdir), labels, config.sample.steps
    )
    ablate._share(config, storage.absolute(workdir), storage.absolute(workdir / "variant"))
    places = (task.run(config, workdir) for task in (encode, sample, edit))
    return [str(images.sum()), *(place.name for place in places)]


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
