"""The command line: one clear sentence and exit code 2 for what cannot be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lpd_jax.__main__ import TASKS

ROOT = Path(__file__).parents[2]
DIGITS = "--config=configs/digits.py"


def lpd(*arguments, **environ):
    return subprocess.run(
        [sys.executable, "-m", "lpd_jax", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environ,
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("paint", DIGITS, "--workdir=runs/x"), "unknown task 'paint': choose from"),
        ((DIGITS, "--workdir=runs/x"), "name one task"),
        (("train", "--workdir=runs/x"), "--config is missing"),
        (("train", DIGITS), "--workdir is missing"),
        (("train", "--config=configs/none.py", "--workdir=runs/x"), "no config file"),
        (("train", "--config=configs/lpd_256.py:M", "--workdir=runs/x"), "no size 'M'"),
        (("train", DIGITS, "--workdir=x", "--config.train.stepz=3"), "did you mean 'steps'?"),
        (("train", DIGITS, "--workdir=x", "--config.trian.steps=3"), "did you mean 'train'?"),
        (("train", DIGITS, "--workdir=x", "--config.train.steps=many"), "train.steps=many"),
        (("train_tokenizer", DIGITS, "--workdir=setup.py/x"), "cannot be written"),
        (("train", DIGITS, "--workdir=s3://bucket/run"), "neither a local path nor in a bucket"),
        (("sample", DIGITS, "--workdir=x", "--checkpoint=az://b/run"), "nor in a bucket"),
        (("train", DIGITS, "--workdir=x", "--num_processes=2"), "go together"),
        (("sample", DIGITS, "--workdir=/nowhere"), "train or convert one first"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_commands_get_one_sentence(arguments, says):
    done = lpd(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    sentence = [line for line in done.stderr.splitlines() if line.startswith("lpd:")]
    assert len(sentence) == 1 and "Traceback" not in done.stderr


def test_a_bucket_needs_gcsfs(tmp_path):
    (tmp_path / "gcsfs.py").write_text("raise ImportError")
    where = "--workdir=gs://bucket/run"
    done = lpd("train", DIGITS, where, PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))
    assert done.returncode == 2
    assert done.stderr == (
        "lpd: gs:// paths need gcsfs: pip install -e '.[gcs]' (gs://bucket/run).\n"
    )


def test_help_says_what_there_is():
    done = lpd("--help")
    for word in ("--config", "--workdir", *TASKS):
        assert word in done.stdout, word


@pytest.mark.parametrize(
    "name", ["digits", "folder", "lpd_256:L", "lpd_256:XL-32", "lpd_256:XXL", "lpd_512:XL"]
)
def test_ready_configs_build_their_networks(name):
    import importlib

    from lpd_jax.models.decoder import DecoderConfig
    from lpd_jax.tasks import build

    module, _, size = name.partition(":")
    config = importlib.import_module(f"lpd_jax.configs.{module}").get_config(
        *([size] if size else [])
    )
    network = build.tokenizer(config)
    side = config.data.size // network.config.stride
    decoder = DecoderConfig(grid=(side, side), num_classes=10, **config.decoder)
    steps_of = build.steps_of(config.train, decoder.num_tokens)
    assert steps_of.shape == (len(config.train.schedules), decoder.num_tokens)
    build.optimizer(config.train), build.loop(config.train), build.sampling(config.sample)
    assert sum(build.group_sizes(config.sample, decoder.num_tokens)) == decoder.num_tokens
