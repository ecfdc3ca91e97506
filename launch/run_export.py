"""Draws images with an exported sampler; needs jax, flatbuffers, safetensors and pillow only.

python run_export.py sampler.jaxexport params.safetensors --labels 3,7 --seed 0 --out grid.png
"""

import argparse
import json
from pathlib import Path

import jax.export
import numpy as np
from PIL import Image
from safetensors import safe_open


def labels(text):
    return np.int32(text.split(","))


def setting(text):
    name, value = text.split("=")
    return name, float(value)


parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("params")
parser.add_argument("--labels", type=labels, required=True, help="class numbers: 3,7")
parser.add_argument("--seed", type=int, default=0, help="0 to 4294967295")
parser.add_argument("--set", type=setting, action="append", default=[], help="temperature=0.9")
parser.add_argument("--out", default="grid.png", help="the images side by side")
args = parser.parse_args()

with safe_open(args.params, "flax") as file:
    about = json.loads(file.metadata()["sampler"])
    params = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
numbers = {name: np.float32(x) for name, x in (about["numbers"] | dict(args.set)).items()}
if min(args.labels) < 0 or max(args.labels) >= about["classes"]:
    parser.error(f"labels are 0 to {about['classes'] - 1}")
if numbers.keys() - about["numbers"] or not 0 <= args.seed < 2**32:
    parser.error(f"--set takes {', '.join(about['numbers'])}; --seed 0 to {2**32 - 1}")
sampler = jax.export.deserialize(bytearray(Path(args.program).read_bytes()))
indices = np.arange(len(args.labels), dtype=np.int32)
samples = sampler.call(params, args.labels, indices, np.uint32(args.seed), numbers)
Image.fromarray(np.hstack(samples["images"])).save(args.out)
