"""Images per second and memory of the Inception-v3 of FID: ours, and torch-fidelity's beside it.

    PYTHONPATH=. python benchmarks/evaluation.py --batch=16 [--pixels=256] [--json=FILE]

Both networks have random weights and take the same uint8 images, resize included, to pool3 and
logits (ours gives the spatial features too). They take turns in one process, so that what else
runs on the machine slows both. Memory is the largest that a process of one network alone has had,
less what it had before its first batch. Where torch-fidelity is not installed, ours is measured
alone.
"""

import argparse
import functools
import importlib.util
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rows import leave, tunables


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-of", choices=("ours", "torch"), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="file that the line is added to")
    return parser.parse_args()


def ours() -> Callable[[np.ndarray], object]:
    """Images uint8 [B, H, W, 3] -> features, of our network."""
    import jax

    from lpd_jax.evaluation.inception import abstract_variables, apply_inception

    draw = np.random.default_rng(0)
    variables = jax.tree.map(
        # Of a size that keeps activations in range.
        lambda leaf: (
            draw.standard_normal(leaf.shape, np.float32) / math.sqrt(math.prod(leaf.shape[:-1]))
        ),
        abstract_variables(),
    )
    variables = jax.device_put(variables)
    run = jax.jit(apply_inception)
    return lambda images: jax.block_until_ready(run(variables, images))


def theirs() -> Callable[[np.ndarray], object]:
    """The same of torch-fidelity's network."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # Without a file of weights it would fetch the trained ones.
    strict = FeatureExtractorInceptionV3.load_state_dict
    FeatureExtractorInceptionV3.load_state_dict = functools.partialmethod(strict, strict=False)
    with tempfile.TemporaryDirectory() as directory:
        torch.save({}, f"{directory}/nothing.pth")
        features = ["2048", "logits_unbiased"]
        network = FeatureExtractorInceptionV3("random", features, f"{directory}/nothing.pth")
    network.eval()

    def run(images):
        with torch.inference_mode():
            return network(torch.from_numpy(images).permute(0, 3, 1, 2))

    return run


NETWORKS = {"ours": ours, "torch": theirs}


def random_images(args) -> np.ndarray:
    """uint8 [B, H, W, 3]."""
    shape = args.batch, args.pixels, args.pixels, 3
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def peak_mib() -> float:
    """The most memory that this process has had."""
    # Not getrusage's: that of a new process begins with the peak of the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def print_memory(args) -> None:
    """Prints the MiB that batches of one network take in this process."""
    run, images = NETWORKS[args.memory_of](), random_images(args)
    before = peak_mib()
    for _ in range(2):
        run(images)
    print(round(peak_mib() - before))


def measure(args) -> dict:
    """One row of figures."""
    names = ["ours"]
    if importlib.util.find_spec("torch_fidelity"):
        names.append("torch")
    images, row = random_images(args), {"batch": args.batch, "pixels": args.pixels}
    networks, best = {name: NETWORKS[name]() for name in names}, {}
    for name, run in networks.items():
        start = time.perf_counter()
        run(images)
        row[f"{name}_first_batch_s"] = round(time.perf_counter() - start, 1)
    for _ in range(args.repeats):
        for name, run in networks.items():
            start = time.perf_counter()
            run(images)
            best[name] = min(best.get(name, np.inf), time.perf_counter() - start)
    for name in names:
        row[f"{name}_images_per_s"] = round(args.batch / best[name], 2)
        command = [sys.executable, *sys.argv, f"--memory-of={name}"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        row[f"{name}_peak_mib"] = int(done.stdout)
    if "torch" in best:
        row["speed_over_torch"] = round(best["torch"] / best["ours"], 3)
        import torch

        row["torch"] = torch.__version__
    return row


def main():
    args = parse()
    if args.memory_of:
        print_memory(args)
        return
    import jax

    row = measure(args)
    row |= {"device": jax.devices()[0].device_kind, "cores": os.cpu_count(), "jax": jax.__version__}
    row |= tunables()
    leave(row, args.json)


if __name__ == "__main__":
    main()
