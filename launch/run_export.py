"""Draws images with an exported sampler; needs jax, flatbuffers, safetensors and pillow only.

python run_export.py sampler.jaxexport params.safetensors --labels 3,7 --seed 0 --out grid.png
"""

import argparse
import json
import math
import sys
from pathlib import Path

import jax.export
import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open


def stop(sentence):
    print(f"run_export.py: {sentence}", file=sys.stderr)
    sys.exit(2)


def label(text, names):
    """Numbers are labels; any other text is the name of a class."""
    if text not in names and not text.isdecimal():
        stop(f"no class is named {text!r}; labels are 0 to {len(names) - 1}, or names of classes.")
    number = int(text) if text.isdecimal() else names.index(text)
    if number >= len(names):
        stop(f"label {number} is out of range; labels are 0 to {len(names) - 1}.")
    return number


def setting(text, known):
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if name not in known or not 0 <= number <= (1 if name == "top_p" else 1e9):
        stop(f"--set {text} is none of {', '.join(known)} with a finite number: {name}=1.")
    if name == "top_p" and number == 0:
        stop("--set top_p=0 keeps no code; give a number above 0 (1 keeps every code).")
    return name, number


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("program", help="sampler.jaxexport")
parser.add_argument("params", help="params.safetensors")
parser.add_argument("--labels", required=True, help="numbers or names of classes: 3,7")
parser.add_argument("--seed", type=int, default=0, help="0 to 4294967295")
parser.add_argument("--set", action="append", default=[], help="temperature=0.9")
parser.add_argument("--out", default="grid.png", help="the images side by side")
parser.error = stop  # without the usage
args = parser.parse_args()

out = Path(args.out)
if not 0 <= args.seed < 2**32:
    stop(f"--seed {args.seed} must be 0 to {2**32 - 1}.")
if not out.parent.is_dir():
    stop(f"there is no directory {out.parent} to write {out.name} to.")
if out.suffix.lower() not in Image.registered_extensions():
    stop(f"--out {out} has no suffix of an image file; name it {out.stem or 'grid'}.png.")
try:
    with safe_open(args.params, "flax") as file:
        about = json.loads(file.metadata()["sampler"])
        params = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
    stop(f"{args.params} cannot be read as the parameters of an exported sampler ({error}).")
chosen = [label(text.strip(), about["class_names"]) for text in args.labels.split(",")]
labels = np.array(chosen, np.int32)
changed = dict(setting(text, about["numbers"]) for text in args.set)
numbers = {name: np.float32(x) for name, x in (about["numbers"] | changed).items()}
try:
    sampler = jax.export.deserialize(bytearray(Path(args.program).read_bytes()))
except Exception as error:  # flatbuffers reports damage through many types
    stop(f"{args.program} cannot be read as an exported sampler ({error}).")
indices = np.arange(len(labels), dtype=np.int32)
samples = sampler.call(params, labels, indices, np.uint32(args.seed), numbers)
try:
    Image.fromarray(np.hstack(samples["images"])).save(out)
except OSError as error:
    stop(f"{out} cannot be written ({error.strerror or error}).")
