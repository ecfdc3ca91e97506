"""The training step of the decoder: speed, what bounds it, and what input and checkpoints add.

    python benchmarks/train.py --model=L --batch=4 --dtype=float32 --json=train.jsonl
    python benchmarks/train.py --model=digits --batch=64 --dropout=0 --unroll=4 --steps=50

Trains on random codes from a code dataset written for it, in one process on all devices. Prints one
JSON line (and appends it to the file of --json):

step_s, images_per_s: of the step alone, on a batch that is already there.
products_s, step_over_products: the same matrix products (forward, and two for each in the backward
    pass) alone, each timed in the layout that suits it best; `products` lists them. Scores that are
    always masked are not counted.
peak_tflops, mfu: a large square product of the same dtype; the share of it that the step reaches.
input_share: time the loop waits for its next batch and its way to the device, of the step.
checkpoint_stall_steps: steps lost to a checkpoint, written while training goes on.

Times are the best of several runs, taken in turns, as other processes only add. Input and
checkpoint are averages over the steps of a run.
"""

import argparse
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rows import leave, tunables
from tqdm import tqdm

from lpd_jax import parallel
from lpd_jax.generation import groups
from lpd_jax.models.decoder import Decoder, DecoderConfig
from lpd_jax.models.initial import init_decoder
from lpd_jax.training.objectives import decoder_loss
from lpd_jax.training.optimizer import OptimizerConfig
from lpd_jax.training.step import Part, prepare

# name -> width, depth, heads, codes, rows of the grid at 256 px (digits: 32 px)
MODELS = {
    "digits": (128, 4, 4, 128, 8),
    "L": (1024, 24, 16, 16384, 16),
    "XL": (1280, 36, 20, 16384, 16),
    "XXL": (1536, 48, 24, 16384, 16),
}
CLASSES = 1000


class Product(NamedTuple):
    """A matrix product of the forward pass, `count` times in a step, with its two gradients."""

    name: str
    equation: str
    left: tuple[int, ...]
    right: tuple[int, ...]
    count: int

    @property
    def flops(self) -> int:
        """Of one forward product."""
        sizes = {}
        for labels, shape in zip(self.equation.split("->")[0].split(","), self[2:4], strict=True):
            sizes |= dict(zip(labels, shape, strict=True))
        return 2 * math.prod(sizes.values())

    @property
    def equations(self) -> tuple[str, str, str]:
        """Forward, gradient of the left, gradient of the right."""
        inputs, out = self.equation.split("->")
        left, right = inputs.split(",")
        return self.equation, f"{out},{right}->{left}", f"{left},{out}->{right}"


def products(config: DecoderConfig, batch: int) -> list[Product]:
    """Every matrix product that a step needs: layers, attention without what is masked, head."""
    n, d, heads, depth = config.num_tokens, config.width, config.heads, config.depth
    k, f, places = d // heads, round(d * config.mlp_ratio), 2 * n
    rows = batch * places
    flat, scores, values = "md,df->mf", "bhtk,bhsk->bhts", "bhts,bhsk->bhtk"

    def attention(name, asking, seen):
        asks, keys = (batch, heads, asking, k), (batch, heads, seen, k)
        return (
            Product(f"{name} scores", scores, asks, keys, depth),
            Product(f"{name} values", values, (batch, heads, asking, seen), keys, depth),
        )

    return [
        Product("qkv", flat, (rows, d), (d, 3 * d), depth),
        *attention("context", n, n),
        *attention("query", n, places),
        Product("proj", flat, (rows, d), (d, d), depth),
        Product("up", flat, (rows, d), (d, f), depth),
        Product("down", flat, (rows, f), (f, d), depth),
        Product("head", flat, (batch * n, d), (d, config.vocab_size), 1),
    ]


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of a call and of what it started."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def timed_products(config: DecoderConfig, batch: int) -> dict[str, Callable[[], float]]:
    """Name -> seconds of all three products of a kind, over all layers; compiled and warm."""

    def timer(product: Product) -> Callable[[], float]:
        left, right = (jnp.ones(shape, config.dtype) for shape in product[2:4])
        forward, to_left, to_right = (
            jax.jit(lambda a, b, e=e: jnp.einsum(e, a, b)) for e in product.equations
        )
        out = forward(left, right)

        def run() -> float:
            parts = ((forward, left, right), (to_left, out, right), (to_right, left, out))
            return product.count * sum(seconds(lambda p=p: p[0](*p[1:])) for p in parts)

        return run

    timers = {product.name: timer(product) for product in products(config, batch)}
    for run in timers.values():
        run()
    return timers


def peak_flops(dtype: str, repeats: int = 5, sides: tuple[int, ...] = (2048, 4096)) -> float:
    """FLOP/s of the best of some large square products."""
    best = 0.0
    for side in sides:
        x = jnp.ones((side, side), dtype)
        square = jax.jit(jnp.dot)
        seconds(lambda s=square, x=x: s(x, x))
        time_ = min(seconds(lambda s=square, x=x: s(x, x)) for _ in range(repeats))
        best = max(best, 2 * side**3 / time_)
    return best


def write_codes(path: Path, config: DecoderConfig, images: int):
    """A code dataset of random codes, written and read as `encode` and `train` do: `Arrays`."""
    # Here, as `gpu_jobs.py` runs the step where neither Grain nor TFDS is installed.
    from lpd_jax.data import codes as code_dataset
    from lpd_jax.data.sources import Arrays

    spec = code_dataset.CodesSpec(
        tokenizer={"fingerprint": "random"},
        grid=config.grid,
        codebook_size=config.vocab_size,
        views=2,
        class_names=tuple(map(str, range(config.num_classes))),
        split_sizes={"train": images},
    )
    rng = np.random.default_rng(0)
    for shard in code_dataset.missing_shards(path, spec):
        size = shard.stop - shard.start
        codes = rng.integers(0, config.vocab_size, (size, *spec.shape))
        labels = rng.integers(0, config.num_classes, size)
        code_dataset.write_shard(path, spec, shard, codes, labels)
    code_dataset.finalize(path, spec)
    return Arrays(code_dataset.load_codes(path, "train"))


class Run:
    """A decoder that is being trained: `step(batch)` does one step."""

    def __init__(self, config: DecoderConfig, accumulate: int, loss_chunk: int):
        network = Decoder(config)
        self.mesh = parallel.make_mesh(parallel.MeshConfig())
        steps = [s for s in (256, 128, 64, 32, 24, 20, 16, 12, 8) if s <= config.num_tokens]
        steps_of = np.stack(
            [groups.step_of(groups.group_sizes(config.num_tokens, s, "cosine")) for s in steps]
        )
        key = jax.random.key(0)
        part = Part(
            lambda key: init_decoder(network, key),
            decoder_loss(network, steps_of, 0.1, loss_chunk),
            OptimizerConfig(schedule="constant", accumulate=accumulate),
        )
        start, self._step = prepare(
            {"decoder": part}, key=key, mesh=self.mesh, rules=parallel.RULES
        )
        self.state, _ = parallel.born_sharded(start, self.mesh, parallel.RULES, key)

    def put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """A batch on the devices."""
        return parallel.put_batch({name: batch[name] for name in ("codes", "label")}, self.mesh)

    def step(self, batch: dict[str, jax.Array]) -> jax.Array:
        """One step; the loss."""
        with parallel.use(self.mesh):
            self.state, metrics = self._step(self.state, batch)
        return metrics["loss"]


def input_share(run: Run, batches, steps: int) -> float:
    """Share of the time that a loop like that of training waits for its batches."""
    begin, waited, loss = time.perf_counter(), 0.0, None
    for _ in tqdm(range(steps), desc="input", leave=False):
        start = time.perf_counter()
        batch = run.put(next(batches))
        waited += time.perf_counter() - start
        jax.block_until_ready(loss)
        loss = run.step(batch)
    jax.block_until_ready(loss)
    return waited / (time.perf_counter() - begin)


def checkpoint_stall(run: Run, batch, path: Path, steps: int) -> dict[str, float]:
    """What a checkpoint adds to the steps after it, in steps; the seconds that it takes."""
    from lpd_jax.checkpoint import Checkpoints

    with Checkpoints(path) as checkpoints:
        start = time.perf_counter()
        for _ in tqdm(range(steps), desc="no checkpoint", leave=False):
            jax.block_until_ready(run.step(batch))
        plain = time.perf_counter() - start
        start = time.perf_counter()
        checkpoints.save(int(run.state.step), run.state, {"next_index": 0})
        call = time.perf_counter() - start
        for _ in tqdm(range(steps), desc="checkpoint", leave=False):
            jax.block_until_ready(run.step(batch))
        stall = (time.perf_counter() - start - plain) / (plain / steps)
        checkpoints.wait()
        return {
            "checkpoint_stall_steps": stall,
            "checkpoint_call_s": call,
            "checkpoint_written_s": time.perf_counter() - start,
        }


def measure(config: DecoderConfig, args: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """All figures of one setting."""
    from lpd_jax.data import pipeline

    source = write_codes(directory / "codes", config, max(1024, 4 * args.batch))
    batches = iter(pipeline.batches(source, batch_size=args.batch, transform=pipeline.choose_view))
    run = Run(config, args.accumulate, args.loss_chunk)
    batch = run.put(next(batches))
    compile_s = seconds(lambda: run.step(batch))
    timers = timed_products(config, args.batch)
    step_times, product_times = [], {name: [] for name in timers}
    for _ in tqdm(range(args.steps), desc="step and products"):
        step_times.append(seconds(lambda: run.step(batch)))
        for name, timer in timers.items():
            product_times[name].append(timer())
    del timers
    step_s = min(step_times)
    best = {name: min(times) for name, times in product_times.items()}
    needed, peak = (
        3 * sum(p.count * p.flops for p in products(config, args.batch)),
        peak_flops(config.dtype),
    )
    return {
        "step_s": step_s,
        "median_step_s": float(np.median(step_times)),
        "images_per_s": args.batch / step_s,
        "products_s": sum(best.values()),
        "step_over_products": step_s / sum(best.values()),
        "products": best,
        "tflop": needed / 1e12,
        "peak_tflops": peak / 1e12,
        "mfu": needed / step_s / (peak * jax.device_count()),
        "first_step_s": compile_s,
        "parameters": sum(x.size for x in jax.tree.leaves(run.state.params)),
        "input_share": input_share(run, batches, args.steps),
        **checkpoint_stall(run, batch, directory / "checkpoints", args.steps),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="L")
    parser.add_argument("--pixels", type=int, choices=(256, 512), default=256)
    parser.add_argument("--depth", type=int, help="layers, if not the model's")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3, help="steps of each measurement")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--remat", choices=("none", "dots", "full"), default="none")
    parser.add_argument("--attention", choices=("xla", "cudnn", "tokamax"), default="xla")
    parser.add_argument("--whole", action="store_true", help="compute all scores, masked ones too")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--loss_chunk", type=int, default=0)
    parser.add_argument("--unroll", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file to append the line to")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    width, depth, heads, codes, side = MODELS[args.model]
    side *= args.pixels // 256
    config = DecoderConfig(
        grid=(side, side),
        vocab_size=codes,
        num_classes=CLASSES,
        width=width,
        depth=args.depth or depth,
        heads=heads,
        dropout=args.dropout,
        dtype=args.dtype,
        remat=args.remat,
        unroll=args.unroll,
        attention=args.attention,
        attention_split=not args.whole,
    )
    with tempfile.TemporaryDirectory() as directory:
        figures = measure(config, args, Path(directory))
    figures = jax.tree.map(lambda x: float(f"{x:.4g}"), figures)
    settings = {name: value for name, value in vars(args).items() if name != "json"}
    machine = {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cores": len(os.sched_getaffinity(0)),
        "jax": jax.__version__,
        **tunables(),
        "python": platform.python_version(),
    }
    leave(settings | figures | machine, args.json)


if __name__ == "__main__":
    main()
