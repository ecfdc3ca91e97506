"""One of two processes, of which the second sees no file that the tasks have written.

python -m tests.multiprocess.stale WORKDIR PORT INDEX

A shared disk can show a process what was there some seconds ago. Were each to decide for itself
what is left to do, the second would start programs that the first never joins.
"""

import functools
import pathlib
import sys

import jax
import numpy as np

from lpd_jax import distributed, storage
from lpd_jax.evaluation.judge import fit_judge, look_at
from lpd_jax.sampler import Sampler
from lpd_jax.tasks import ablate, build, edit, encode, evaluate, judging, measuring, sample
from tests.evaluation.test_units import network
from tests.multiprocess import tiny

WRITTEN = ("samples.png", "edits.png", ".npz", "dataset_info.json", ".array_record")


def main(workdir: pathlib.Path, port: str, index: int) -> None:
    """Samples, edits and judges twice, the second time with nothing left to do."""
    distributed.initialize(distributed.Cluster(f"127.0.0.1:{port}", 2, index), join_timeout=60)
    told = distributed.from_first({"by": index, "text": "é" * (3 + index)})
    assert told == {"by": 0, "text": "ééé"}
    config = tiny.get_config()
    first = run(config, workdir)
    every_image_is_looked_at_once(config, workdir)
    measuring.network = lambda path: network(side=32)
    evaluate.run(tiny.evaluated("", str(workdir / "real.npz")), workdir)
    if index == 1:
        is_file = pathlib.Path.is_file
        pathlib.Path.is_file = lambda p: not str(p).endswith(WRITTEN) and is_file(p)
        # To be called by neither, and not by this one alone.
        Sampler.sample = Sampler.edit = Sampler.batches = None
    assert run(config, workdir) == first
    print("found done what was done:", *first)
    distributed.barrier("the end")


def every_image_is_looked_at_once(config, workdir: pathlib.Path) -> None:
    """11 in batches of 8: of the second this process holds three or none."""
    sampler, labels = build.sampler(config, workdir), np.arange(11) % 3
    wanted = build.generate(config, config.sample, sampler, labels).images
    rows = [x.rows for x in build.batches(config, config.sample, sampler, labels)]
    assert [len(x) for x in rows] == ([4, 3] if jax.process_index() == 0 else [4, 0])
    judge = fit_judge((wanted, labels), (wanted, labels))
    looks, shown = look_at(judge, build.batches(config, config.sample, sampler, labels), 10)
    np.testing.assert_array_equal(looks.levels, judge.look(wanted).levels)
    np.testing.assert_array_equal(looks.classes, judge.look(wanted).classes)
    np.testing.assert_array_equal(shown, wanted[:10])


def run(config, workdir: pathlib.Path) -> list[str]:
    """Names of what the tasks made, or found made."""
    about = build.about(config, workdir)
    labels = np.tile([0, 1], 4)  # as many as are sampled: one compiled program
    rng = np.random.default_rng(0)
    real = rng.integers(0, 255, (8, *about["image_size"], 3), dtype=np.uint8), labels
    sampler = functools.cache(lambda: build.sampler(config, workdir))
    looks, shown = judging.look(
        config, workdir, about, sampler, fit_judge(real, real), config.sample.steps
    )
    assert len(shown) == len(looks.levels) == 8
    ablate._share(config, storage.absolute(workdir), storage.absolute(workdir / "variant"))
    places = (task.run(config, workdir) for task in (encode, sample, edit))
    return [str(looks.levels.sum()), str(shown.sum()), *(place.name for place in places)]


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
