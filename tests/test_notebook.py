"""The notebook runs from its first cell to its last, and shows what it says."""

import base64
import dataclasses
import io
import itertools
import os
from pathlib import Path

import jax
import nbclient
import nbformat
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from lpd_jax import checkpoint
from lpd_jax.models.decoder import Decoder, DecoderConfig
from lpd_jax.models.tokenizer import Tokenizer, TokenizerConfig
from lpd_jax.tasks import pipeline
from lpd_jax.tasks.workdir import plain
from lpd_jax.trained import init_decoder, init_tokenizer

ROOT = Path(__file__).parents[1]
CONFIG = """
from lpd_jax.configs import digits

def get_config():
    config = digits.get_config()
    config.sample.update(labels=(2, 0, 1), steps=3)
    return config
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A workdir with untrained models of 8x8 pixels, 4x4 codes and 3 classes, and a config."""
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
    (path / "config.py").write_text(CONFIG)
    return path


@pytest.fixture
def notebook():
    return nbformat.read(ROOT / "notebooks/sample.ipynb", as_version=4)


def parameters(notebook, workdir, models):
    """Fills in the first code cell; returns it and the one that loads the model."""
    first, setup = [cell for cell in notebook.cells if cell.cell_type == "code"][:2]
    assert first.metadata.tags == ["parameters"]
    first.source = f"WORKDIR = {str(workdir)!r}\nCONFIG = {str(models / 'config.py')!r}"
    return first, setup


def test_the_notebook_is_committed_without_outputs(notebook):
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs") and not cell.get("execution_count")


def test_every_cell_runs_and_shows_its_images(notebook, models, monkeypatch):
    # Programs compiled in an earlier run are found again, as in the other tests.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", jax.config.jax_compilation_cache_dir)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    # Nearly all of the time is compilation, which this shortens by a third.
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    monkeypatch.setenv("XLA_FLAGS", flags.strip())
    parameters(notebook, models, models)
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    shown = [
        [output.data["image/png"] for output in cell.outputs if "data" in output] for cell in code
    ]
    # Classes, four comparisons, the stream's last step and its strip, two edits.
    assert [len(pngs) for pngs in shown] == [0, 0, 1, 0, 1, 1, 1, 1, 2, 1, 1]
    for png in itertools.chain(*shown):
        sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))
        assert sheet.shape[0] > 64 and sheet.shape[1] > 3 * 64
        assert np.ptp(sheet) > 50


def test_a_model_is_trained_first_where_there_is_none(notebook, models, tmp_path, monkeypatch):
    workdir, asked = tmp_path / "new", []

    def train(config, path):
        asked.append((config.sample.labels, path))
        Path(path).symlink_to(models)

    monkeypatch.setattr(pipeline, "run", train)
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)
    cells = parameters(notebook, workdir, models)
    for _ in range(2):  # the second time it is there
        names = {}
        for cell in cells:
            exec(cell.source, names)
        assert names["sampler"].class_names == ("ant", "bee", "cat")
    assert asked == [((2, 0, 1), str(workdir))]
