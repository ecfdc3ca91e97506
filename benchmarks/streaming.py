"""Generation that is watched beside the one program: `Sampler.stream` over `Sampler.sample`.

    python benchmarks/streaming.py --model=L --depth=4 --json=results.jsonl
    python benchmarks/streaming.py --workdir=runs/digits --batch=10

Prints one JSON line. Without `--workdir` weights are random. All times are the best of `--repeats`
runs in turn, so that a busy machine slows every part alike; `..._cpu_s` are seconds of all cores,
which other work changes less:

program_s  labels to images in one program
steps_s    the same in one program per step, nothing looked at before the end
every_K_s  with a look after every K-th step (`--every`)
arrivals_s of the best run of every_1_s: from the call to each `Partial`

`..._ratio` are over program_s. `same_bits` says whether the last images of all ways are equal.
"""

import argparse
import time
from pathlib import Path

import jax
import numpy as np
from generation import networks, peak_mib
from rows import leave, tunables

from lpd_jax import parallel
from lpd_jax.sampler import Sampler


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", help="trained models, in place of random ones")
    parser.add_argument("--model", default="L", choices=("L", "XL", "XXL"))
    parser.add_argument("--pixels", type=int, default=256, choices=(256, 512))
    parser.add_argument("--depth", type=int, default=0, help="layers, if not the model's")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--segments", type=int, default=4, help="K, compiled steps")
    parser.add_argument("--layers", default="unrolled", choices=("unrolled", "scan"))
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--guidance", type=float, default=4.8)
    parser.add_argument("--every", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file that the line is added to")
    return parser.parse_args()


def load(args) -> Sampler:
    """The trained models of a workdir, or random ones of the size that is asked for."""
    mesh = parallel.make_mesh(parallel.MeshConfig(), jax.devices()[:1])
    if args.workdir:
        return Sampler.load(args.workdir, mesh, dtype=args.dtype)
    decoder, tokenizer, params = networks(argparse.Namespace(**vars(args), unroll=1))
    return Sampler(
        decoder=decoder,
        decoder_params=params[0],
        tokenizer=tokenizer.clone(decode_dtype=args.dtype),
        tokenizer_params=params[1],
        class_names=tuple(map(str, range(decoder.config.num_classes))),
        guidable=True,
        mesh=mesh,
    )


def best_of(repeats: int, runs: dict) -> dict[str, tuple[float, float]]:
    """Least seconds of the clock and of all cores of each function, after one untimed call."""
    best = {}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            start, cpu = time.perf_counter(), time.process_time()
            run()
            spent = time.perf_counter() - start, time.process_time() - cpu
            best[name] = tuple(map(min, spent, best.get(name, spent)))
    return best


def measure(args) -> dict:
    """One row of figures."""
    sampler, last, arrivals = load(args), {}, []
    labels = np.arange(args.batch) % len(sampler.class_names)
    sizes = sampler.defaults.sizes(sampler.decoder.config.num_tokens, args.steps)
    rule = sampler.defaults.rule(args.guidance)

    def program():
        samples = sampler.sample(labels, sizes, None, rule, segments=args.segments)
        last["program"] = samples.images

    def stream(every: int):
        start = time.perf_counter()
        options = {"steps": args.steps, "guidance": args.guidance, "segments": args.segments}
        partials = sampler.stream(labels, **options, every=every)
        times = []
        for partial in partials:
            times.append(time.perf_counter() - start)
            last[every] = partial.images
        arrivals.append((every, times))

    ways = {"steps": args.steps} | {f"every_{k}": k for k in args.every}
    runs = {"program": program}
    runs |= {name: lambda every=every: stream(every) for name, every in ways.items()}
    best = best_of(args.repeats, runs)
    row = {
        "what": "streaming",
        "model": "trained" if args.workdir else args.model,
        "depth": sampler.decoder.config.depth,
        "steps": args.steps,
        "segments": args.segments,
        "batch": args.batch,
        "dtype": args.dtype,
    }
    for i, unit in enumerate(("s", "cpu_s")):
        row |= {f"{name}_{unit}": round(times[i], 4) for name, times in best.items()}
        ratio = {name: round(best[name][i] / best["program"][i], 3) for name in ways}
        row |= {f"{name}_{unit.removesuffix('s')}ratio": x for name, x in ratio.items()}
    watched = [times for every, times in arrivals if every == 1]
    if watched:
        quickest = min(watched, key=lambda times: times[-1])
        row["arrivals_s"] = [round(seconds, 3) for seconds in quickest]
    row["same_bits"] = all(np.array_equal(last["program"], images) for images in last.values())
    return row | {"peak_mib": peak_mib()}


def main():
    args = parse()
    row = measure(args)
    row |= {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    row |= tunables()
    leave(row, args.json)


if __name__ == "__main__":
    main()
