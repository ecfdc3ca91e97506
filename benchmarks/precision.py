"""Error of bfloat16 compute: our decoder, and the official code, against float32 logits.

    LPD_REFERENCE_DIR=... python benchmarks/precision.py [--exchange=DIR] [--workdir=DIR]

Prints one JSON line per model: those of the reference directory, and LPD-L at 256 px with random
weights (the initialisation of both codes), one image each, all tokens given. `--exchange` writes
each model's official weights and inputs to `DIR/<name>.safetensors` and `DIR/<name>.inputs.npz`;
where `DIR/<name>.official.npz` holds `float32` and `bfloat16`, the logits that the official code
gave for them [B, N, V] (autocast for the latter), they are measured against ours too. `--workdir`
adds the images that the tokenizer trained there decodes from the held-out codes.

Dims: B batch, N tokens, V codes.
"""

import argparse
import dataclasses
import functools
import json
import math
import os
from pathlib import Path

import jax
import numpy as np
from flax import linen as nn

from lpd_jax import weights
from lpd_jax.generation.groups import official, step_of
from lpd_jax.models.decoder import Decoder, DecoderConfig
from lpd_jax.models.initial import init_decoder
from lpd_jax.models.tokenizer import to_uint8
from lpd_jax.parallel import MeshConfig, make_mesh
from lpd_jax.trained import load_tokenizer

REFERENCE = Path(os.environ.get("LPD_REFERENCE_DIR", "tests/reference"))


def reference_models():
    """(name, config, params, inputs) of every decoder of the reference directory."""
    for name, stated in json.loads((REFERENCE / "configs.json").read_text()).items():
        if not isinstance(stated, dict) or not (REFERENCE / f"{name}.npz").is_file():
            continue
        if "decoder_depth" not in stated:
            continue
        config, params = weights.decoder_from_official(
            weights.read(REFERENCE / f"{name}.weights.npz"), heads=stated["decoder_num_heads"]
        )
        arrays = np.load(REFERENCE / f"{name}.npz")
        prefix = "" if "group_sizes" in arrays else "g0/"
        inputs = {key: np.int32(arrays[key]) for key in ("tokens", "labels", "orders")}
        yield name, config, params, inputs | {"group_sizes": arrays[f"{prefix}group_sizes"]}


def full_size_model():
    """LPD-L with its initial weights, one random image, the published 20 steps."""
    config = DecoderConfig()
    params = jax.jit(lambda k: nn.unbox(init_decoder(Decoder(config), k)))(jax.random.key(0))
    rng = np.random.default_rng(0)
    n = config.num_tokens
    inputs = {
        "tokens": rng.integers(0, config.vocab_size, (1, n), np.int32),
        "labels": rng.integers(0, config.num_classes, 1, np.int32),
        "orders": rng.permutation(n)[None].astype(np.int32),
        "group_sizes": np.int32(official(n, 20)),
    }
    return "lpd_l_256_random", config, params, inputs


def logits(config, params, inputs, dtype):
    """float32 [B, N, V], in decode order, with products in `dtype`."""
    decoder = Decoder(dataclasses.replace(config, dtype=dtype, dropout=0.0))

    @jax.jit
    def run(params, codes, labels, orders, steps):
        return decoder.apply({"params": params}, codes, labels, orders, steps)

    steps = step_of(tuple(inputs["group_sizes"].tolist()))
    with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
        answer = run(params, inputs["tokens"], inputs["labels"], inputs["orders"], steps)
    return np.asarray(answer)


def error(exact, rough):
    """How far logits lie from exact ones: relative errors, top-1 agreement, KL in nats a token."""
    difference = np.float64(rough) - exact
    log_p, log_q = (
        x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in map(np.float64, (exact, rough))
    )
    divergence = np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)
    return {
        "max": float(f"{np.abs(difference).max() / np.abs(exact).max():.2e}"),
        "rms": float(f"{np.sqrt(np.mean(difference**2) / np.mean(np.float64(exact) ** 2)):.2e}"),
        "top1": round(float(np.mean(exact.argmax(-1) == rough.argmax(-1))), 4),
        "kl": float(f"{divergence.mean():.1e}"),
    }


def measure(name, config, params, inputs, exchange):
    """One row: the errors of one model."""
    exact = logits(config, params, inputs, "float32")
    row = {"model": name, "tokens": exact[..., 0].size, "scale": round(float(exact.std()), 3)}
    row["bfloat16"] = error(exact, logits(config, params, inputs, "bfloat16"))
    if exchange:
        weights.write(exchange / f"{name}.safetensors", weights.decoder_to_official(params))
        np.savez(exchange / f"{name}.inputs.npz", **inputs, heads=config.heads)
        theirs = exchange / f"{name}.official.npz"
        if theirs.is_file():
            found = np.load(theirs)
            row["official_float32"] = error(exact, found["float32"])
            row["official_bfloat16"] = error(found["float32"], found["bfloat16"])
    return row


def decoding(workdir):
    """One row: bytes of the images decoded in bfloat16 against those decoded in float32."""
    from lpd_jax.data.codes import first_views  # brings TFDS, which the logits do without

    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    network, params, _ = load_tokenizer(workdir / "tokenizer/model", mesh)
    codes = first_views(workdir / "codes", "heldout")["codes"]
    grid = (math.isqrt(codes.shape[-1]),) * 2
    exact, rough = (
        np.float64(_pixels(network.clone(decode_dtype=dtype), params, codes, grid))
        for dtype in ("float32", "bfloat16")
    )
    off = np.abs(exact - rough)
    return {
        "model": "tokenizer",
        "images": len(codes),
        "psnr_db": round(float(10 * np.log10(255**2 / np.mean(off**2))), 1),
        "max_level": int(off.max()),
        "mean_level": round(float(off.mean()), 3),
    }


@functools.partial(jax.jit, static_argnums=(0, 3))
def _pixels(network, params, codes, grid):
    return to_uint8(network.apply({"params": params}, codes, grid, method="decode"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--exchange", type=Path)
    parser.add_argument("--workdir", type=Path)
    args = parser.parse_args()
    machine = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
    for model in (*reference_models(), full_size_model()):
        print(json.dumps(measure(*model, args.exchange) | machine), flush=True)
    if args.workdir:
        print(json.dumps(decoding(args.workdir) | machine), flush=True)


if __name__ == "__main__":
    main()
