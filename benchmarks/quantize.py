"""What int8 kernels cost in accuracy, and what they save in memory.

    python benchmarks/quantize.py --workdir=runs/digits    # the trained digits, then LPD-L
    python benchmarks/quantize.py                          # LPD-L alone
    TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu python benchmarks/quantize.py --topology=v5e:2x2
                                                           # memory on a TPU, compiled here

Prints one JSON line per model and mode, the float network first:

logits      against float32 with all tokens given: relative errors, share of tokens whose best code
            is the same, KL divergence in nats a token (see `precision.py`)
params_mb   parameters of the decoder in memory
temp_mb     what the compiled generation of one image needs beside them (XLA's own count);
            temp_lean_mb with the scheduler of LEAN, which XLA_FLAGS can choose
pass_cpu_s  processor seconds, all cores together, of one pass with all tokens given; best of three
images      digits only: accuracy of their class and Fréchet distance over its floor, for each seed

The digits are 64 held-out images and the settings of `configs/digits.py`; LPD-L at 256 px has its
initial weights and one random image.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from precision import error, full_size_model
from tqdm import tqdm

from lpd_jax.configs import digits
from lpd_jax.data.codes import load_codes
from lpd_jax.evaluation.judge import fit_judge
from lpd_jax.generation.groups import step_of
from lpd_jax.generation.loop import generate_codes
from lpd_jax.generation.plan import make_plan
from lpd_jax.generation.program import image_keys
from lpd_jax.generation.sampling import sampling_rule
from lpd_jax.models.decoder import Decoder
from lpd_jax.quantize import MODES, num_bytes, quantize_decoder
from lpd_jax.sampler import Sampler
from lpd_jax.tasks import build
from lpd_jax.trained import lay_out


def digits_model(workdir):
    """(name, network, parameters, inputs) of the trained digits, 64 held-out images."""
    sampler = Sampler.load(workdir)
    arrays = load_codes(workdir / "codes", "heldout")
    rng = np.random.default_rng(0)
    n = sampler.decoder.config.num_tokens
    inputs = {
        "tokens": np.int32(arrays["codes"][:64, 0]),
        "labels": np.int32(arrays["label"][:64]),
        "orders": np.stack([rng.permutation(n) for _ in range(64)]).astype(np.int32),
        "group_sizes": np.int32(build.group_sizes(digits.get_config().sample, n)),
    }
    return "digits", sampler.decoder, sampler.decoder_params, inputs


def forward(network, params, inputs):
    """Logits float32 [B, N, V] of one pass, and its processor seconds."""
    steps = step_of(tuple(inputs["group_sizes"].tolist()))
    arrays = inputs["tokens"], inputs["labels"], inputs["orders"], steps
    run = jax.jit(lambda params, *x: network.apply({"params": params}, *x))
    answer = np.asarray(run(params, *arrays))
    seconds = []
    for _ in range(3):
        start = time.process_time()
        run(params, *arrays).block_until_ready()
        seconds.append(time.process_time() - start)
    return answer, min(seconds)


LEAN = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def temporary_bytes(network, params, group_sizes, device=None, options=None):
    """Memory beside the parameters of the program that generates one image with guidance."""
    plan = make_plan(group_sizes.tolist())
    rule = sampling_rule(guidance=2.0)

    @jax.jit
    def run(params, label):
        _, keys = image_keys(jax.random.key(0), label)
        order = jnp.arange(network.config.num_tokens, dtype=jnp.int32)[None]
        return generate_codes(network, params, label, order, keys, plan, rule)

    place = SingleDeviceSharding(device or jax.devices()[0])
    arguments = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        (params, jnp.zeros(1, jnp.int32)),
    )
    return run.lower(*arguments).compile(options).memory_analysis().temp_size_in_bytes


def images(workdir, mode, seeds):
    """Accuracy and Fréchet ratio of one image per held-out image, for each seed."""
    config = digits.get_config()
    config.sample.quantize = mode
    sampler = build.sampler(config, workdir)
    judge = fit_judge(*(build.labelled_images(config.data, s) for s in ("train", "heldout")))
    labels = judge.heldout_labels
    floor = judge.frechet_floor(len(labels))
    figures = {"class_accuracy": [], "frechet_ratio": []}
    for seed in seeds:
        config.seed = seed
        drawn = build.generate(config, config.sample, sampler, labels).images
        figures["class_accuracy"].append(round(judge.class_accuracy(drawn, labels), 4))
        figures["frechet_ratio"].append(round(judge.frechet(drawn) / floor, 3))
    return figures


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=Path, help="of a finished digits pipeline")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--topology", help="v5e:2x2: count the memory of LPD-L in bfloat16 there")
    options = parser.parse_args()
    if options.topology:
        return print_memory(options.topology)
    machine = {"device": f"{jax.devices()[0].device_kind} ({platform.machine()})"}
    models = [lambda: digits_model(options.workdir)] if options.workdir else []
    models.append(random_model)
    for model in models:
        name, network, params, inputs = model()
        exact, base = forward(network, params, inputs)
        for mode in tqdm(("", *MODES), name, unit="mode"):
            kernels = quantize_decoder(params, mode) if mode else params
            rough, seconds = forward(network, kernels, inputs) if mode else (exact, base)
            row = {"model": name, "mode": mode or "float32", "logits": error(exact, rough)}
            row["params_mb"] = round(num_bytes(kernels) / 1e6, 2)
            for key, choice in (("temp_mb", None), ("temp_lean_mb", LEAN)):
                temporary = temporary_bytes(network, kernels, inputs["group_sizes"], options=choice)
                row[key] = round(temporary / 1e6, 2)
            row |= {"pass_cpu_s": round(seconds, 3), "pass_ratio": round(seconds / base, 2)}
            if name == "digits":
                row["images"] = images(options.workdir, mode, range(options.seeds))
            print(json.dumps(row | machine | {"jax": jax.__version__}), flush=True)

    return None


def print_memory(topology):
    """One line per mode: memory of LPD-L in bfloat16, compiled for one chip of a TPU topology."""
    chip = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    name, network, params, inputs = random_model("scan", "bfloat16")
    for mode in ("", *MODES):
        kernels = quantize_decoder(params, mode) if mode else params
        temporary = temporary_bytes(network, kernels, inputs["group_sizes"], chip)
        row = {"model": name, "mode": mode or "bfloat16", "device": chip.device_kind}
        row |= {"params_mb": num_bytes(kernels) / 1e6, "temp_mb": temporary / 1e6}
        print(json.dumps(row), flush=True)


def random_model(layers="unrolled", dtype="float32"):
    """LPD-L at 256 px as `precision.full_size_model` makes it, laid out for sampling."""
    name, config, params, inputs = full_size_model()
    return name, *lay_out(Decoder(config), params, layers, dtype), inputs


if __name__ == "__main__":
    main()
