"""The parts of `gpu.py` that run our code; each prints JSON lines.

    python benchmarks/gpu_jobs.py generate --model=L --batches=1,64
    python benchmarks/gpu_jobs.py profile --model=L --batches=1 --tiny

Times are medians of repeats after a warm-up, from the call to the end on the device. Weights and
codes are random. Needs neither Grain nor TFDS nor ml_collections.
"""

import argparse
import functools
import json
import platform
import re
import tempfile
import time
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from train import MODELS, Run, peak_flops, products

from lpd_jax.generation.addresses import draw_orders, image_keys
from lpd_jax.generation.groups import group_sizes, official
from lpd_jax.generation.loop import generate_codes
from lpd_jax.generation.orders import LocalityAware
from lpd_jax.generation.plan import make_plan
from lpd_jax.generation.program import generate, tokenizer_parts
from lpd_jax.generation.sampling import sampling_rule
from lpd_jax.models.decoder import Decoder, DecoderConfig
from lpd_jax.models.initial import init_decoder, init_tokenizer
from lpd_jax.models.tokenizer import Tokenizer, TokenizerConfig
from lpd_jax.trained import lay_out

# (model, pixels) -> steps, guidance: the official evaluation scripts
SETTINGS = {
    ("L", 256): (20, 4.8),
    ("XL", 256): (20, 4.9),
    ("XXL", 256): (20, 5.9),
    ("L", 512): (48, 7.3),
    ("XL", 512): (48, 7.3),
}
TINY = TokenizerConfig(
    ch=8, ch_mult=(1, 2), num_res_blocks=1, z_channels=8, codebook_size=32, norm_groups=4
)


def seconds(run, repeats: int) -> list[float]:
    """Of each call of a function, after one that is not counted."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return times


def peak(args, dtype: str) -> float:
    """FLOP/s of the best of some large products."""
    return peak_flops(dtype, 1, (128,)) if args.tiny else peak_flops(dtype, 10, (4096, 8192))


def median(times: list[float]) -> float:
    return float(f"{np.median(times):.5g}")


def peak_gib() -> float | None:
    """Most memory that the device held since the process began; None where it does not say."""
    stats = jax.devices()[0].memory_stats()
    return round(stats["peak_bytes_in_use"] / 2**30, 3) if stats else None


def show(**row) -> None:
    """One line, with what it was measured on."""
    machine = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }
    print(json.dumps(row | machine), flush=True)


def ceilings(args) -> None:
    """What the card reaches: a copy of a large array, and a large product."""
    size = 2**20 if args.tiny else 2**32
    x = jnp.ones(size // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    times = seconds(lambda: copy(x), 3 if args.tiny else 20)
    row = {"copy_gb_s": round(2 * x.nbytes / median(times) / 1e9, 1)}
    for dtype in ("bfloat16", "float32"):
        row[f"{dtype}_tflop_s"] = round(peak(args, dtype) / 1e12, 4)
    show(what="ceilings", **row)


def networks(args):
    """Decoder, tokenizer and their random parameters, as `Sampler.load` lays them out."""
    if args.tiny:
        tokenizer = Tokenizer(TINY, args.dtype)
        sizes = {"width": 32, "depth": 1, "heads": 2, "vocab_size": 32, "num_classes": 10}
        decoder = Decoder(DecoderConfig(grid=(4, 4), **sizes))
    else:
        tokenizer = Tokenizer(TokenizerConfig(), args.dtype)
        width, depth, heads, vocab, side = MODELS[args.model]
        grid = (side * args.pixels // 256,) * 2
        sizes = {"width": width, "depth": depth, "heads": heads, "vocab_size": vocab}
        decoder = Decoder(DecoderConfig(grid=grid, **sizes))
    params = jax.jit(lambda k: nn.unbox(init_decoder(decoder, k)))(jax.random.key(0))
    decoder, params = lay_out(decoder, params, args.layers, args.dtype)
    decoded = jax.jit(lambda k: init_tokenizer(tokenizer, k))(jax.random.key(1))
    return decoder, tokenizer, (params, decoded)


def programs(args, decoder, tokenizer, params, batch: int):
    """Name -> compiled function of nothing: labels to codes, and to images; and the plan."""
    steps, guidance = (4, 4.8) if args.tiny else SETTINGS[args.model, args.pixels]
    plan = make_plan(group_sizes(decoder.config.num_tokens, steps), args.segments)
    rule, order, key = sampling_rule(guidance=guidance), LocalityAware(), jax.random.key(0)
    indices, labels = jnp.arange(batch), jnp.arange(batch) % decoder.config.num_classes
    size = tuple(side * tokenizer.config.stride for side in decoder.config.grid)
    parts = tokenizer_parts(batch, 1, size)

    @jax.jit
    def codes(params, labels, indices, key, order, rule):
        orders = draw_orders(order, key, indices, decoder.config.grid, plan.group_sizes)
        _, keys = image_keys(key, indices)
        return generate_codes(decoder, params[0], labels, orders, keys, plan, rule)

    @jax.jit
    def images(params, labels, indices, key, order, rule):
        given = labels, indices, key, order, plan, rule, parts
        return generate(decoder, tokenizer, params, *given).images

    asked = params, labels, indices, key, order, rule
    functions = {"codes": codes} if args.no_pixels else {"codes": codes, "images": images}
    return {name: (function, asked) for name, function in functions.items()}, plan


def bytes_of_weights(decoder, params) -> int:
    """That every step reads: all but the tables that it looks up."""
    named = {name for name in params if name.startswith("blocks") or name in ("head", "norm")}
    return sum(x.nbytes for x in jax.tree.leaves({name: params[name] for name in named}))


def generation(args) -> None:
    """Latency and throughput, one line for each batch; ends at the first that does not fit."""
    decoder, tokenizer, params = networks(args)
    for batch in map(int, args.batches.split(",")):
        row = {"what": "generate", "model": args.model, "pixels": args.pixels, "batch": batch}
        row |= {"dtype": args.dtype, "layers": args.layers, "segments": args.segments}
        try:
            functions, plan = programs(args, decoder, tokenizer, params, batch)
            row["steps"] = len(plan.group_sizes)
            for name, (function, asked) in functions.items():
                start = time.perf_counter()
                compiled = function.lower(*asked).compile()
                row[f"{name}_compile_s"] = round(time.perf_counter() - start, 1)
                times = seconds(functools.partial(compiled, *asked), 3 if args.tiny else 10)
                row |= {f"{name}_s": median(times), f"{name}_best_s": round(min(times), 5)}
                row[f"{name}_images_per_s"] = round(batch / median(times), 3)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            show(**row, out_of_memory=True)
            return
        read = bytes_of_weights(decoder, params[0]) * len(plan.group_sizes)
        show(**row, weights_read_gb=round(read / 1e9, 2), peak_gib=peak_gib())


def profile(args) -> None:
    """The dearest operations of a program, summed over a trace, and how busy the device was."""
    decoder, tokenizer, params = networks(args)
    batch = int(args.batches.split(",")[0])
    functions, _ = programs(args, decoder, tokenizer, params, batch)
    for name, (function, asked) in functions.items():
        compiled = function.lower(*asked).compile()
        jax.block_until_ready(compiled(*asked))
        with tempfile.TemporaryDirectory() as directory:
            with jax.profiler.trace(directory):
                start = time.perf_counter()
                jax.block_until_ready(compiled(*asked))
                wall = time.perf_counter() - start
            (file,) = Path(directory).rglob("*.xplane.pb")
            spans = device_spans(jax.profiler.ProfileData.from_file(str(file)))
        row = {"what": "profile", "program": name, "model": args.model, "batch": batch}
        instructions = Counter(re.findall(r"= \S+ ([a-z-]+)\(", compiled.as_text()))
        row |= {"wall_s": round(wall, 5), "instructions": dict(instructions.most_common(25))}
        show(**row, **summary(spans))


def device_spans(trace) -> list[tuple[str, float, float]]:
    """Name, begin and end in seconds of what ran on the device: kernels of all its streams.

    On a CPU, which has no such tracks, what its threads were doing.
    """
    planes = list(trace.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    lines = [line for plane in devices or planes for line in plane.lines]
    lines = [line for line in lines if not devices or line.name.startswith("Stream")]
    return [
        (event.name, event.start_ns / 1e9, (event.start_ns + event.duration_ns) / 1e9)
        for line in lines
        for event in line.events
    ]


def summary(spans: list[tuple[str, float, float]]) -> dict:
    """Seconds and calls by operation, and how long the device had anything to do."""
    total, calls, busy, last = Counter(), Counter(), 0.0, 0.0
    for name, begin, end in spans:
        kind = re.sub(r"[._]?\d+$", "", name)
        total[kind] += end - begin
        calls[kind] += 1
    for _, begin, end in sorted(spans, key=lambda span: span[1]):
        busy += max(0.0, end - max(begin, last))
        last = max(last, end)
    top = {name: [round(s, 6), calls[name]] for name, s in total.most_common(25)}
    return {"spans": len(spans), "busy_s": round(busy, 6), "seconds_and_calls": top}


def precision(args) -> None:
    """Relative error of bfloat16 logits against float32 ones, all tokens given."""
    from precision import error, logits

    tiny = {"grid": (4, 4), "vocab_size": 32, "width": 32, "depth": 1, "heads": 2}
    config = DecoderConfig(**(tiny if args.tiny else {}), num_classes=1000)
    params = jax.jit(lambda k: nn.unbox(init_decoder(Decoder(config), k)))(jax.random.key(0))
    rng, n = np.random.default_rng(0), config.num_tokens
    inputs = {
        "tokens": rng.integers(0, config.vocab_size, (1, n), np.int32),
        "labels": rng.integers(0, 1000, 1, np.int32),
        "orders": rng.permutation(n)[None].astype(np.int32),
        "group_sizes": np.int32(group_sizes(n, 4) if args.tiny else official(n, 20)),
    }
    exact, rough = (logits(config, params, inputs, dtype) for dtype in ("float32", "bfloat16"))
    show(what="precision", **error(exact, rough))


def train(args) -> None:
    """The training step from codes that are there; ends at the first batch that does not fit."""
    sizes = {"width": 32, "depth": 1, "heads": 2, "vocab_size": 32, "grid": (4, 4)}
    common = {"num_classes": 1000, "dtype": args.dtype, "attention": args.attention}
    config = DecoderConfig(**(sizes if args.tiny else {}), **common)
    best = peak(args, args.dtype)
    for batch in map(int, args.batches.split(",")):
        row = {"what": "train", "model": "L", "batch": batch, "attention": args.attention}
        rng = np.random.default_rng(0)
        try:
            run = Run(config, accumulate=1, loss_chunk=0)
            codes = rng.integers(0, config.vocab_size, (batch, config.num_tokens), np.int32)
            given = run.put({"codes": codes, "label": rng.integers(0, 1000, batch, np.int32)})
            start = time.perf_counter()
            jax.block_until_ready(run.step(given))
            row["first_step_s"] = round(time.perf_counter() - start, 1)
            times = seconds(lambda run=run, given=given: run.step(given), 3 if args.tiny else 15)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            show(**row, out_of_memory=True)
            return
        needed = 3 * sum(p.count * p.flops for p in products(config, batch))
        row |= {"step_s": median(times), "images_per_s": round(batch / median(times), 2)}
        row |= {
            "mfu": round(needed / median(times) / best, 4),
            "peak_tflop_s": round(best / 1e12, 2),
        }
        show(**row, peak_gib=peak_gib())
        del run


def main() -> None:
    jobs = {f.__name__: f for f in (ceilings, profile, precision, train)}
    jobs["generate"] = generation
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=jobs)
    parser.add_argument("--model", default="L", choices=("L", "XL", "XXL"))
    parser.add_argument("--pixels", type=int, default=256, choices=(256, 512))
    parser.add_argument("--batches", default="64", help="comma-separated")
    parser.add_argument("--segments", type=int, default=8)
    parser.add_argument("--layers", default="unrolled", choices=("unrolled", "scan"))
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--attention", default="xla", choices=("xla", "cudnn", "tokamax"))
    parser.add_argument("--no-pixels", action="store_true", help="labels to codes only")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if args.tiny:
        args.segments, args.batches = 1, "2"
    jobs[args.job](args)


if __name__ == "__main__":
    main()
