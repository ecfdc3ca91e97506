"""The notebooks run from their first cell to their last, and show what they say."""

import base64
import dataclasses
import io
import itertools
import os
import re
from pathlib import Path

import jax
import nbclient
import nbformat
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from lpd_jax import checkpoint
from lpd_jax.data.codes import CodesSpec, finalize, missing_shards, write_shard
from lpd_jax.models.decoder import Decoder, DecoderConfig
from lpd_jax.models.initial import init_decoder, init_tokenizer
from lpd_jax.models.tokenizer import Tokenizer, TokenizerConfig
from lpd_jax.tasks import pipeline
from lpd_jax.tasks.workdir import plain

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ("sample", "orders", "train_your_own")
CONFIG = """
from lpd_jax.configs import digits

def get_config():
    config = digits.get_config()
    config.sample.update(labels=(2, 0, 1), steps=3)
    return config
"""
FOLDER_CONFIG = """
from lpd_jax.configs import folder_small

def get_config():
    config = folder_small.get_config()
    config.data.size = 8
    config.tokenizer.update(
        ch=8, ch_mult=(1, 1), num_res_blocks=1, z_channels=8, codebook_size=32, norm_groups=4
    )
    config.train_tokenizer.update(batch_size=8, warmup_steps=1)
    config.decoder.update(width=32, depth=1, heads=2, unroll=1)
    config.train.update(batch_size=8, warmup_steps=1, schedules=(8, 4))
    return config
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A workdir with untrained models of 8x8 pixels, codes of noise, and configs.

    4x4 codes of a vocabulary of 32, 3 classes.
    """
    path = tmp_path_factory.mktemp("notebook")
    tokenizer = Tokenizer(
        TokenizerConfig(
            ch=8, ch_mult=(1, 1), num_res_blocks=1, z_channels=8, codebook_size=32, norm_groups=4
        )
    )
    decoder = Decoder(
        DecoderConfig(
            grid=(4, 4), vocab_size=32, num_classes=3, width=32, depth=1, heads=2, dropout=0.0
        )
    )
    params = {
        "tokenizer": jax.jit(lambda key: init_tokenizer(tokenizer, key))(jax.random.key(0)),
        "decoder": jax.jit(lambda key: nn.unbox(init_decoder(decoder, key)))(jax.random.key(1)),
    }
    about = {
        "tokenizer": {"fingerprint": "f", "config": dataclasses.asdict(tokenizer.config)},
        "decoder": {
            "tokenizer": "f",
            "config": dataclasses.asdict(decoder.config),
            "class_names": ["ant", "bee", "cat"],
            "label_drop": 0.1,
        },
    }
    for kind in params:
        (path / kind).mkdir()
        description = plain({"kind": kind} | about[kind])
        checkpoint.save_model(path / kind / "model", description, params[kind])
    spec = CodesSpec(
        grid=(4, 4),
        codebook_size=32,
        class_names=("ant", "bee", "cat"),
        split_sizes={"train": 5, "heldout": 5},
        shard_size=8,
        views=1,
        tokenizer={"fingerprint": "f"},
    )
    for shard in missing_shards(path / "codes", spec):
        noise = np.random.default_rng(0).integers(0, 32, (5, 1, 16))
        write_shard(path / "codes", spec, shard, noise, np.arange(5) % 3)
    finalize(path / "codes", spec)
    (path / "config.py").write_text(CONFIG)
    (path / "folder.py").write_text(FOLDER_CONFIG)
    return path


@pytest.fixture
def notebooks():
    """{name: notebook}."""
    return {name: nbformat.read(ROOT / f"notebooks/{name}.ipynb", 4) for name in NOTEBOOKS}


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters(notebook, **values):
    """Fills in some of the names of the first code cell; returns it and the one after it."""
    first, setup = code_of(notebook)[:2]
    assert first.metadata.tags == ["parameters"]
    names = {}
    exec(first.source, names)
    assert set(values) <= set(names)
    first.source = "\n".join(
        f"{name} = {values.get(name, value)!r}" for name, value in names.items() if name.isupper()
    )
    return first, setup


def images(cell):
    """The pictures that a cell that has run shows: uint8 [H, W, 3] each."""
    pngs = [
        output.data["image/png"] for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    opened = (Image.open(io.BytesIO(base64.b64decode(png))) for png in pngs)
    return [np.asarray(image.convert("RGB")) for image in opened]


def text(cell):
    return "".join(
        output.get("text", "") or output.get("data", {}).get("text/markdown", "")
        for output in cell.outputs
    )


def test_notebooks_are_committed_without_outputs(notebooks):
    assert sorted(notebooks) == sorted(file.stem for file in ROOT.glob("notebooks/*.ipynb"))
    for notebook in notebooks.values():
        nbformat.validate(notebook)
        for cell in notebook.cells:
            assert not cell.get("outputs") and not cell.get("execution_count")


def test_every_cell_runs_and_shows_its_images(notebooks, models, tmp_path, monkeypatch):
    """All of them in one kernel, which has to begin and to import jax once."""
    # Programs compiled in an earlier run are found again, as in the other tests.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    # Nearly all of the time is compilation, which this shortens by a third.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    monkeypatch.setenv("XLA_FLAGS", flags.strip())
    small = {"WORKDIR": str(models), "CONFIG": str(models / "config.py")}
    parameters(notebooks["sample"], **small)
    # Steps that the other notebook has compiled a sampler for.
    few = {"steps": (2, 8), "images": 5, "draws": 1}
    parameters(notebooks["orders"], **small, STEPS=4, LIKELIHOOD=few)
    own = {name: str(tmp_path / name) for name in ("FOLDER", "WORKDIR")}
    folder = {"CONFIG": str(models / "folder.py"), "STEPS": 2, "FILES": 60}
    parameters(notebooks["train_your_own"], **own, **folder)
    cells = [cell for name in NOTEBOOKS for cell in notebooks[name].cells]
    every = nbformat.v4.new_notebook(cells=cells, metadata=notebooks["sample"].metadata)
    nbclient.NotebookClient(
        every, timeout=600, resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    code = code_of(every)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    sample, orders, own = (code_of(notebooks[name]) for name in NOTEBOOKS)

    # Classes, four comparisons, the stream's last step and its strip, two edits.
    shown = [images(cell) for cell in sample]
    assert [len(found) for found in shown] == [0, 0, 1, 0, 1, 1, 1, 1, 2, 1, 1]
    for sheet in itertools.chain(*shown):
        assert sheet.shape[0] > 64 and sheet.shape[1] > 3 * 64
        assert np.ptp(sheet) > 50

    # Group sizes, an order in two pictures, the mask, orders, thresholds; bits, bits by step and
    # by cell, bits by seconds.
    shown = [images(cell) for cell in orders]
    assert [len(found) for found in shown] == [0, 0, 1, 2, 1, 1, 1, 0, 0, 1, 2, 1]
    assert all(np.ptp(sheet) > 50 for sheet in itertools.chain(*shown))
    # What is below the sliders is theirs, errors too.
    (sliders,) = every.metadata.widgets.values()
    below = [w["state"]["outputs"] for w in sliders["state"].values() if "outputs" in w["state"]]
    assert ["image/png" in output["data"] for (output,) in below] == [True]
    assert "4x4 cells, 4 steps" in text(orders[1]) and "cosine:  1 " in text(orders[2])
    assert text(orders[7]).count("\n") == 5  # a table of four repulsions
    assert "| locality 2 |" in text(orders[9]) and "| raster |" in text(orders[9])

    # Images, reconstructions and curves of the tokenizer, curves of the decoder, samples.
    shown = [images(cell) for cell in own]
    assert [len(found) for found in shown] == [0, 0, 1, 2, 0, 1, 1]
    assert all(np.ptp(sheet) > 50 for sheet in itertools.chain(*shown))
    assert re.search(r"10 classes: \d+ images to train on, \d+ held out", text(own[2]))


def test_a_model_is_trained_first_where_there_is_none(notebooks, models, tmp_path, monkeypatch):
    workdir, asked = tmp_path / "new", []

    def train(config, path):
        asked.append((config.sample.labels, path))
        Path(path).symlink_to(models)

    monkeypatch.setattr(pipeline, "run", train)
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)
    cells = parameters(notebooks["sample"], WORKDIR=str(workdir), CONFIG=str(models / "config.py"))
    for _ in range(2):  # the second time it is there
        names = {}
        for cell in cells:
            exec(cell.source, names)
        assert names["sampler"].class_names == ("ant", "bee", "cat")
    assert asked == [((2, 0, 1), str(workdir))]
