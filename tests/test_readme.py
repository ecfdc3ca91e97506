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
from lpd_jax.models.initial import init_decoder

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
# Programs of others that documents name.
TOOLS = {"cd", "cp", "for", "mkdir", "mypy", "pip", "pre-commit", "rm", "source", "tar"}
# Scripts of ours that no test and no job of the workflow runs, and why; benchmarks measure speed.
BY_HAND = {
    "launch/drill.py": "kills a training for minutes",
    "launch/drill_evaluate.py": "kills an evaluation for minutes",
    "launch/lock.sh": "reads an environment that the suite passed in",
    "launch/notebooks.sh": "needs a trained model; tests compare what it wrote",
}
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


def others():
    """Commands of documents that are none of `lpd`: words, without what is set before them."""
    for file in DOCUMENTS:
        for text in blocks(file, "bash"):
            for line in re.sub(r"\\\n *", " ", text).splitlines():
                if line.strip() and not line.lstrip().startswith("#"):
                    words = shlex.split(line, comments=True)
                    while "&&" in words:
                        yield file.name, words[: words.index("&&")]
                        words = words[words.index("&&") + 1 :]
                    yield file.name, [word for word in words if not re.match(r"[A-Z_]+=", word)]


def test_other_commands_name_scripts_flags_and_extras_that_exist():
    extras = re.findall(r'^    "(\w+)": \[', (ROOT / "setup.py").read_text(), re.MULTILINE)
    ours = [
        *ROOT.glob("launch/*.py"),
        *ROOT.glob("benchmarks/*.py"),
        ROOT / "lpd_jax/run_export.py",
    ]
    known = "".join(file.read_text() for file in ours)
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    tested = workflow + "".join(
        file.read_text() for file in ROOT.glob("tests/**/*.py") if file != Path(__file__)
    )
    scripts = set()
    for page, words in others():
        program, *rest = words
        if program not in ("python", "bash"):
            assert program in (*TOOLS, "lpd", "sbatch"), f"{page}: {words}"
            for asked in re.findall(r"\.\[(.*?)\]", " ".join(rest)):
                assert set(asked.split(",")) <= set(extras), f"{page}: {words}"
        elif rest[:2] != ["-m", "lpd_jax"]:
            name = "launch/run_export.py" if rest[0] == "run_export.py" else rest[0]
            scripts.add(name)
            assert (ROOT / name).exists(), f"{page}: {words}"
            for flag in re.findall(r"(--[a-z][\w-]*)(?:[= ]|$)", " ".join(rest)):
                assert flag in known or name.endswith(".sh"), f"{page}: {words}"
    assert len(scripts) > 8
    assert set(BY_HAND) <= scripts
    for name in scripts - {*BY_HAND, "launch/test.sh"}:
        assert Path(name).name in tested or name.startswith("benchmarks/"), name


def test_every_task_that_a_command_names_is_run_by_a_test():
    tests = "".join(file.read_text() for file in ROOT.glob("tests/**/*.py"))
    for task in cli.TASKS:
        if task != "demo":  # which the tests of the browser start
            assert re.search(rf'\b{task}\.run\(|\["{task}"|= "{task}"|"{task}",', tests), task


def test_there_are_commands_and_files_that_are_named_exist():
    assert len([*commands()]) > 40
    for file in DOCUMENTS:
        for name in re.findall(
            r"\b(?:launch|docs|configs|notebooks)/[\w/]+\.\w+", file.read_text()
        ):
            found = (ROOT / name).exists() or (file.parent / name).exists()
            assert found, f"{file.name} names {name}"


def test_the_snippets_run_one_after_the_other(
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
    snippets = blocks(ROOT / "docs/use.md", "python")
    for page in ("README.md", "docs/index.md"):
        assert all(text in snippets[0] for text in blocks(ROOT / page, "python"))
    names = {}
    for snippet in snippets:
        exec(snippet, names)
    assert names["images"].shape == (3, 32, 32, 3) and names["images"].dtype == np.uint8
    edited = np.any(names["edits"].images != names["images"], axis=(0, 3))
    assert edited[16:].any()
