"""What the documents say can be typed, can be typed."""

import re
import shlex
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import linen as nn

import lpd_jax
from lpd_jax import __main__ as cli
from lpd_jax import config_files
from lpd_jax.models.decoder import Decoder, DecoderConfig
from lpd_jax.trained import init_decoder

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
SOURCES = [
    *sorted(ROOT.glob("configs/**/*.py")),
    *sorted(ROOT.glob("lpd_jax/tasks/*.py")),
    *sorted(ROOT.glob("launch/*.s*")),
]
# What is typed in a code block or in the comment of a file: the rest of the line.
COMMAND = re.compile(
    r"^(?:# *| *)(?:python -m lpd_jax|lpd|(?:ba|sbat).*launch/(?:gpu|tpu|slurm)\S+) +(.*)$",
    re.MULTILINE,
)


def blocks(file, *languages):
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", file.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in fenced if language in languages]


def commands():
    for file in DOCUMENTS + SOURCES:
        text = "\n".join(blocks(file, "bash", "")) if file in DOCUMENTS else file.read_text()
        for line in COMMAND.findall(re.sub(r"\\+\n[# ]*", " ", text)):
            if not re.match(r"TASK|setup|runs ", line):
                yield pytest.param(line, id=f"{file.name}: {line}")


@pytest.mark.parametrize("line", [*commands()])
def test_command_lines_have_tasks_configs_and_fields_that_exist(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    task, given, fields = cli._parse(shlex.split(re.sub(r"\$\w+", "0", line), comments=True))
    assert task in cli.TASKS and given.workdir
    config_files.override(config_files.load(given.config), fields)


def test_there_are_commands_and_files_that_are_named_exist():
    assert len([*commands()]) > 40
    for file in DOCUMENTS:
        for name in re.findall(
            r"\b(?:launch|docs|configs|notebooks)/[\w/]+\.\w+", file.read_text()
        ):
            assert (ROOT / name).exists(), f"{file.name} names {name}"


def test_the_snippets_of_the_readme_run_one_after_the_other(
    tokenizer, tokenizer_params, one_device_mesh, monkeypatch
):
    decoder = Decoder(
        DecoderConfig(grid=(8, 8), vocab_size=32, num_classes=5, width=32, depth=1, heads=2)
    )
    sampler = lpd_jax.Sampler(
        decoder=decoder,
        decoder_params=jax.jit(lambda key: nn.unbox(init_decoder(decoder, key)))(jax.random.key(0)),
        tokenizer=tokenizer,
        tokenizer_params=tokenizer_params,
        class_names=("0", "1", "2", "3", "4"),
        guidable=True,
        mesh=one_device_mesh,
    )
    monkeypatch.setattr(lpd_jax.Sampler, "load", lambda directory: sampler)
    names = {}
    for snippet in blocks(ROOT / "README.md", "python"):
        exec(snippet, names)
    assert names["images"].shape == (3, 32, 32, 3) and names["images"].dtype == np.uint8
    edited = np.any(names["edits"].images != names["images"], axis=(0, 3))
    assert edited[16:].any()
