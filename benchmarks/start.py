"""Seconds from the start of a process to its first image, by parts.

    python benchmarks/start.py --model=L --segments=4 --json=results.jsonl

Writes models with random weights to a temporary directory, as training leaves them, and starts one
process after the other that reads them and draws. Prints one JSON line for each way:

compile      `Sampler.sample`, nothing compiled before
cache        the same, with the persistent compilation cache that the first one filled
steps        `Sampler.stream`, nothing compiled before
steps_cache  the same, with the cache
executable   `program.generate` from a file of `jax.experimental.serialize_executable`: no tracing

Parts, in seconds of the clock (`..._s`) and of all cores (`..._cpu_s`, which other work on the
machine changes less):

python   until this file runs            imports  jax and this package
devices  the first question for one      read     parameters, laid out for sampling
draw     labels to image, of which `lower_s` is HLO, `compile_s` XLA or reading its cache,
again    a second image, and the rest, `trace_s`, Python tracing the program
image    all to the first image          look     all to the first `Partial`
"""

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rows import leave, tunables

WAYS = ("compile", "cache", "steps", "steps_cache", "executable")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="L", choices=("L", "XL", "XXL"))
    parser.add_argument("--pixels", type=int, default=256, choices=(256, 512))
    parser.add_argument("--depth", type=int, default=0, help="layers, if not the model's")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--segments", type=int, default=4, help="K, compiled loop bodies")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--ways", nargs="*", default=WAYS, choices=WAYS)
    parser.add_argument("--repeats", type=int, default=1, help="processes of each way")
    parser.add_argument("--workdir", type=Path, help="models, in place of random ones")
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--born", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=(*WAYS, "save"), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="file that the lines are added to")
    return parser.parse_args()


class Clock:
    """Seconds of the clock and of all cores, part by part, from the birth of this process."""

    def __init__(self, born: float):
        self.born, self.wall, self.cpu, self.parts = born, born, 0.0, {}
        self("python")

    def __call__(self, part: str) -> None:
        """What happened since the last call was `part`."""
        wall, usage = time.time(), resource.getrusage(resource.RUSAGE_SELF)
        cpu = usage.ru_utime + usage.ru_stime
        self.parts |= {f"{part}_s": wall - self.wall, f"{part}_cpu_s": cpu - self.cpu}
        self.wall, self.cpu = wall, cpu

    def total(self, name: str) -> None:
        """Everything until now is `name`."""
        self.parts |= {f"{name}_s": self.wall - self.born, f"{name}_cpu_s": self.cpu}


def child(args) -> None:
    """What a new process does until it holds an image; prints the parts."""
    clock = Clock(args.born)
    import jax
    import numpy as np

    from lpd_jax.sampler import Sampler

    clock("imports")
    spent = {"lower": 0.0, "compile": 0.0}
    events = {
        "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
        "/jax/core/compile/backend_compile_duration": "compile",
    }

    def note(event: str, seconds: float, **_):
        if event in events:
            spent[events[event]] += seconds

    jax.monitoring.register_event_duration_secs_listener(note)
    jax.devices()
    clock("devices")
    sampler = Sampler.load(args.workdir, dtype=args.dtype)
    jax.block_until_ready((sampler.decoder_params, sampler.tokenizer_params))
    clock("read")
    reading = dict(spent)  # what laying out the parameters compiles
    labels = np.arange(args.batch) % len(sampler.class_names)

    def look():
        """To the first of the unfinished images, and its stream."""
        options = {"steps": args.steps, "guidance": 4.8, "segments": args.segments}
        stream = sampler.stream(labels, **options)
        next(stream)
        return stream

    def sample():
        sizes = sampler.defaults.sizes(sampler.decoder.config.num_tokens, args.steps)
        rule = sampler.defaults.rule(4.8)
        sampler.sample(labels, sizes, None, rule, segments=args.segments)

    draw = sample
    if args.child in ("executable", "save"):
        draw = executable(args, sampler, labels)
        clock("unpickle")
    elif args.child.startswith("steps"):
        stream = look()
        clock("first")
        clock.total("look")

        def draw():
            for _ in stream:
                pass

    draw()
    clock("draw")
    clock.total("image")
    if args.child.startswith("steps"):
        stream = look()
    draw()
    clock("again")
    parts = clock.parts | {f"{name}_s": spent[name] - reading[name] for name in spent}
    if args.child in ("compile", "cache"):
        known = parts["lower_s"] + parts["compile_s"] + parts["again_s"]
        parts["trace_s"] = parts["draw_s"] - known
    print(json.dumps(parts))


def executable(args, sampler, labels):
    """The one program as a function of nothing, from the file that "save" writes."""
    import jax
    from jax.experimental import serialize_executable

    from lpd_jax import parallel
    from lpd_jax.generation.orders import LocalityAware
    from lpd_jax.generation.plan import make_plan
    from lpd_jax.generation.program import generate

    file, decoder = args.scratch / "executable.pickle", sampler.decoder
    sizes = sampler.defaults.sizes(decoder.config.num_tokens, args.steps)
    plan, rule = make_plan(sizes, args.segments), sampler.defaults.rule(4.8)
    place = parallel.batch_sharding(sampler.mesh)
    labels, indices = jax.device_put((labels.astype("int32"), labels.astype("int32")), place)
    params = sampler.decoder_params, sampler.tokenizer_params
    given = params, labels, indices, jax.random.key(0), LocalityAware()
    with parallel.use(sampler.mesh):
        if args.child == "save":
            lowered = generate.lower(decoder, sampler.tokenizer, *given, plan, rule)
            file.write_bytes(pickle.dumps(serialize_executable.serialize(lowered.compile())))
        compiled = serialize_executable.deserialize_and_load(
            *pickle.loads(file.read_bytes()), execution_devices=list(sampler.mesh.devices.flat)
        )

    return lambda: jax.device_get(compiled(*given, rule))


def write_models(args, directory: Path) -> None:
    """Model directories of the networks with their random parameters, as training leaves them."""
    import dataclasses

    from generation import networks

    from lpd_jax.checkpoint import save_model

    stacked = argparse.Namespace(**vars(args), layers="scan", unroll=1)
    decoder, tokenizer, params = networks(stacked)
    config = dataclasses.asdict(decoder.config)
    about = {"kind": "decoder", "config": config, "tokenizer": "random", "label_drop": 0.1}
    about["class_names"] = [str(i) for i in range(decoder.config.num_classes)]
    save_model(directory / "decoder/model", about, params[0])
    about = {"kind": "tokenizer", "config": dataclasses.asdict(tokenizer.config)}
    save_model(directory / "tokenizer/model", about | {"fingerprint": "random"}, params[1])


def measure(args, workdir: Path, scratch: Path) -> None:
    """Starts the processes, prints and writes a row for each."""
    names = ("model", "pixels", "depth", "steps", "batch", "segments", "dtype")
    own = [f"--{name}={getattr(args, name)}" for name in names]
    own += [f"--workdir={workdir}", f"--scratch={scratch}"]
    caching = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}

    def start(way: str, environment: dict) -> dict:
        done = subprocess.run(
            [sys.executable, __file__, *own, f"--child={way}", f"--born={time.time()}"],
            check=True,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        return json.loads(done.stdout.splitlines()[-1])

    if "executable" in args.ways:
        start("save", {})
    for way in args.ways:
        kind = "steps" if way.startswith("steps") else "program"
        cache = {"JAX_COMPILATION_CACHE_DIR": str(scratch / f"cache_{kind}"), **caching}
        for _ in range(args.repeats):
            parts = start(way, {} if way == "executable" else cache)
            model = "trained" if args.workdir else args.model
            row = {"what": "start", "way": way, "model": model, "depth": args.depth}
            row |= {"batch": args.batch, "segments": args.segments, "dtype": args.dtype}
            row |= {name: round(seconds, 2) for name, seconds in parts.items()}
            row |= {"device": "cpu", **tunables()}
            leave(row, args.json)


def main():
    args = parse()
    if args.child:
        child(args)
        return
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        if not args.workdir:
            write_models(args, scratch)
        measure(args, args.workdir or scratch, scratch)


if __name__ == "__main__":
    main()
