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

parser = argparse.ArgumentParser()
for name in ("program", "params"):
    parser.add_argument(name)
parser.add_argument("--labels", required=True, help="class numbers: 3,7")
parser.add_argument("--seed", type=np.uint32, default=0)
parser.add_argument("--set", action="append", default=[], help="temperature=0.9; may be repeated")
parser.add_argument("--out", default="grid.png", help="the images side by side")
args = parser.parse_args()

with safe_open(args.params, "flax") as file:
    about = json.loads(file.metadata()["sampler"])
    params = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
labels = np.int32(args.labels.split(","))
numbers = about["numbers"] | {k: float(v) for k, v in (pair.split("=") for pair in args.set)}
if labels.min() < 0 or labels.max() >= about["classes"] or numbers.keys() - about["numbers"]:
    parser.error(f"labels go to {about['classes'] - 1}, --set takes {list(about['numbers'])}")
sampler = jax.export.deserialize(bytearray(Path(args.program).read_bytes()))
numbers = {k: np.float32(v) for k, v in numbers.items()}
samples = sampler.call(
    params, labels, np.arange(len(labels), dtype=np.int32), np.uint32(args.seed), numbers
)
Image.fromarray(np.hstack(samples["images"])).save(args.out)
