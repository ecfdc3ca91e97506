"""Seconds and images per second of generation, beside the matrix products it cannot do without.

    python benchmarks/generation.py --model=L --batch=1 --segments=8 --json=results.jsonl

Prints one JSON line. Weights are random: speed does not depend on them. All times are the best of
`--repeats` runs in turn, so that a busy machine slows every part alike:

loop_s      labels to codes in one program: orders, all steps, guidance, sampling
images_s    the same with the VQ decoder
products_s  the matrix products of the needed tokens alone: no padding, no other arithmetic
eager_s     the same steps without compilation, one dispatch per operation (`--eager`)
one_token_s the same model in N steps of one token (`--one-token`)

Dims: B batch, N tokens, S steps, D width, H heads, K head width, F hidden width, V codes.
"""

import argparse
import itertools
import resource
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from rows import leave, tunables

from lpd_jax.configs import lpd_256, lpd_512
from lpd_jax.generation.addresses import draw_orders, image_keys
from lpd_jax.generation.groups import group_sizes
from lpd_jax.generation.loop import generate_codes
from lpd_jax.generation.orders import LocalityAware
from lpd_jax.generation.plan import make_plan
from lpd_jax.generation.program import generate, tokenizer_parts
from lpd_jax.generation.sampling import sampling_rule
from lpd_jax.models.decoder import Decoder, DecoderConfig
from lpd_jax.models.initial import init_decoder, init_tokenizer
from lpd_jax.models.tokenizer import Tokenizer, TokenizerConfig
from lpd_jax.trained import lay_out


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="L", choices=("L", "XL", "XXL"))
    parser.add_argument("--pixels", type=int, default=256, choices=(256, 512))
    parser.add_argument("--depth", type=int, default=0, help="layers, if not the model's")
    parser.add_argument("--steps", type=int, default=0, help="20 at 256 px, 48 at 512 px")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--segments", type=int, default=8, help="K, compiled loop bodies")
    parser.add_argument("--layers", default="unrolled", choices=("unrolled", "scan"))
    parser.add_argument("--unroll", type=int, default=1, help="layers per iteration, with scan")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--no-guidance", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--eager", action="store_true", help="also without compilation")
    parser.add_argument("--one-token", action="store_true", help="also in N steps")
    parser.add_argument("--json", type=Path, help="file that the line is added to")
    return parser.parse_args()


def networks(args) -> tuple[Decoder, Tokenizer, tuple]:
    """Decoder, tokenizer and their random parameters, in the layout that is asked for."""
    config = (lpd_256 if args.pixels == 256 else lpd_512).get_config(args.model)
    size = {key: config.decoder[key] for key in ("width", "depth", "heads")}
    tokenizer = Tokenizer(TokenizerConfig(**config.tokenizer), args.dtype)
    decoder = Decoder(
        DecoderConfig(
            grid=(args.pixels // tokenizer.config.stride,) * 2,
            vocab_size=config.tokenizer.codebook_size,
            unroll=args.unroll,
            **size | ({"depth": args.depth} if args.depth else {}),
        )
    )
    key = jax.random.key(0)
    params = jax.jit(lambda k: nn.unbox(init_decoder(decoder, k)))(key)
    decoder, params = lay_out(decoder, params, args.layers, args.dtype)
    return decoder, tokenizer, (params, jax.jit(lambda k: init_tokenizer(tokenizer, k))(key))


def programs(args, decoder: Decoder, tokenizer: Tokenizer, params):
    """The plan, and compiled functions of nothing: labels to codes, and labels to pixels."""
    n = decoder.config.num_tokens
    steps = args.steps or {256: 20, 1024: 48}[n]
    plan = make_plan(group_sizes(n, steps), args.segments)
    rule = sampling_rule(guidance=None if args.no_guidance else 4.8)
    labels, indices = jnp.arange(args.batch) % 1000, jnp.arange(args.batch)
    parts = tokenizer_parts(args.batch, 1, (args.pixels, args.pixels))
    key, order = jax.random.key(0), LocalityAware()

    def codes(params, labels, indices, key, order, rule):
        orders = draw_orders(order, key, indices, decoder.config.grid, plan.group_sizes)
        _, keys = image_keys(key, indices)
        return generate_codes(decoder, params[0], labels, orders, keys, plan, rule)

    def pixels(params, labels, indices, key, order, rule):
        of_images = labels, indices, key, order
        return generate(decoder, tokenizer, params, *of_images, plan, rule, parts).images

    inputs = (params, labels, indices, key, order, rule)
    return plan, {
        "loop": (jax.jit(codes), codes, inputs),
        "images": (jax.jit(pixels), pixels, inputs),
    }


def bare_products(args, decoder: Decoder, params, plan):
    """A function that does the matrix products of the needed tokens and nothing else."""
    c = decoder.config
    width, branches = c.width // c.heads, 1 if args.no_guidance else 2
    rows = args.batch * branches
    if c.layers == "scan":
        _, params = lay_out(decoder, dict(params), "unrolled")
    kernels = [
        [params[f"blocks_{i}"][name]["kernel"] for name in ("qkv", "proj", "up", "down")]
        for i in range(c.depth)
    ]

    def product(form, a, b):
        # A product in bfloat16 that stays bfloat16 would be converted to float32 on CPUs.
        return jnp.einsum(form, a, b, preferred_element_type=jnp.float32)

    @jax.jit
    def layer(x, query, key, value, qkv, proj, up, down):
        def through(x, kernel, *sizes):
            kernel = kernel.reshape(sizes or (kernel.shape[0], -1)).astype(c.dtype)
            return product("td,df->tf", x, kernel).astype(c.dtype)

        projected = through(x, qkv)
        scores = product("bhtk,bhks->bhts", query, key).astype(c.dtype)
        answer = product("bhts,bhsk->bhtk", scores, value).astype(c.dtype)
        x = through(x, proj, c.width, c.width)
        return through(through(x, up), down), projected, answer

    head = jax.jit(lambda x, w: product("td,dv->tv", x, w.astype(c.dtype)))
    ones = lambda *shape: jnp.full(shape, 1e-3, c.dtype)  # noqa: E731
    sizes, seen, steps = (0, *plan.group_sizes), 0, []
    for last, size in itertools.pairwise(sizes):
        new = (last or 1) + size  # the class is the context of the first pass
        seen += last or 1
        steps.append(
            (
                ones(rows * new, c.width),
                ones(rows, c.heads, new, width),
                ones(rows, c.heads, width, seen + size),
                ones(rows, c.heads, seen + size, width),
                ones(rows * size, c.width),
            )
        )

    def run():
        done = []
        for x, query, key, value, asked in steps:
            for own in kernels:
                x, *_ = layer(x, query, key, value, *own)
            done += [x, head(asked, params["head"]["kernel"])]
        return done

    return run


def flops(args, decoder: Decoder, plan) -> float:
    """Operations of the matrix products that are needed, counted by hand (2 per multiply-add)."""
    c = decoder.config
    rows = args.batch * (1 if args.no_guidance else 2)
    sizes, seen, total = (0, *plan.group_sizes), 0, 0
    for last, size in itertools.pairwise(sizes):
        new = (last or 1) + size
        seen += last or 1
        per_layer = new * c.width * c.width * (4 + 2 * c.mlp_ratio)
        per_layer += 2 * new * (seen + size) * c.width
        total += c.depth * per_layer + size * c.width * c.vocab_size
    return 2.0 * rows * total


def best_of(repeats: int, functions: dict) -> dict[str, float]:
    """Least seconds of each function, all of them once per round, after one untimed call."""
    best = {}
    for function in functions.values():
        jax.block_until_ready(function())
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            best[name] = min(best.get(name, np.inf), time.perf_counter() - start)
    return best


def measure(args) -> dict:
    """One row of figures."""
    decoder, tokenizer, params = networks(args)
    plan, made = programs(args, decoder, tokenizer, params)
    row = {
        "batch": args.batch,
        "model": args.model,
        "pixels": args.pixels,
        "depth": decoder.config.depth,
        "steps": len(plan.group_sizes),
        "segments": len(plan.segments),
        "layers": args.layers,
        "dtype": args.dtype,
        "guidance": not args.no_guidance,
        "padded_work": round(plan.padded_work, 3),
        "needed_gflop": round(flops(args, decoder, plan) / 1e9, 1),
    }
    runs = {"products": bare_products(args, decoder, params[0], plan)}
    for name, (function, _, inputs) in made.items():
        start = time.perf_counter()
        lowered = function.lower(*inputs)
        row[f"{name}_trace_s"] = round(time.perf_counter() - start, 1)
        compiled = lowered.compile()
        row[f"{name}_compile_s"] = round(time.perf_counter() - start, 1)
        row[f"{name}_temp_mib"] = compiled.memory_analysis().temp_size_in_bytes >> 20
        runs[name] = lambda compiled=compiled, inputs=inputs: compiled(*inputs)
    if args.one_token:
        ones = argparse.Namespace(**vars(args) | {"steps": decoder.config.num_tokens})
        _, single = programs(ones, decoder, tokenizer, params)
        runs["one_token"] = lambda: single["loop"][0](*single["loop"][2])
    best = best_of(args.repeats, runs)
    if args.eager:
        best["eager"] = eager(*made["loop"][1:])
    row |= {f"{name}_s": round(seconds, 4) for name, seconds in best.items()}
    row |= {
        "loop_over_products": round(best["loop"] / best["products"], 3),
        "images_per_s": round(args.batch / best["images"], 3),
        "gflop_s": round(row["needed_gflop"] / best["loop"], 1),
        "peak_mib": peak_mib(),
    }
    return row


def eager(function, inputs) -> float:
    """Seconds of the second of two runs without `jit`: every operation is dispatched by Python."""
    for _ in range(2):
        start = time.perf_counter()
        with jax.disable_jit():
            jax.block_until_ready(function(*inputs))
    return time.perf_counter() - start


def peak_mib() -> int:
    """Peak memory of the device, or of the process where the device does not say."""
    stats = jax.devices()[0].memory_stats()
    peak = (
        stats["peak_bytes_in_use"]
        if stats
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    )
    return peak >> 20


def main():
    args = parse()
    row = measure(args)
    row |= {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    row |= tunables()
    leave(row, args.json)


if __name__ == "__main__":
    main()
