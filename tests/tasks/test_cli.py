"""The command line: one clear sentence and exit code 2 for what cannot be."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

import lpd_jax
from lpd_jax import __main__ as cli
from lpd_jax import config_files
from lpd_jax.configs import base
from lpd_jax.models.decoder import DecoderConfig
from lpd_jax.tasks import build, sample, train

ROOT = Path(__file__).parents[2]
DIGITS = "--config=digits"


@pytest.fixture
def lpd(capsys, as_before):
    """Runs a command line in this process: exit code, output, and the sentence of a failure."""

    def call(*arguments):
        code = cli.command([*map(str, arguments)])
        out, err = capsys.readouterr()
        sentences = [line for line in err.splitlines() if line.startswith("lpd: ")]
        assert len(sentences) == (code != 0) and "Traceback" not in err, err
        return code, out, "".join(sentences).removeprefix("lpd: ")

    return call


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "name one task: choose from"),
        (("paint", DIGITS, "--workdir=x"), "unknown task 'paint': choose from"),
        ((DIGITS, "--workdir=x"), "name one task"),
        (("train", "--workdir=x"), "--config is missing"),
        (("train", DIGITS), "--workdir is missing"),
        (("train", DIGITS, "--workdri=x"), "no flag --workdri; did you mean --workdir?"),
        (("train", DIGITS, "--workdir"), "Missing value for flag --workdir"),
        (("train", DIGITS, "--workdir=x", "more"), "name one task, not train and more"),
        (("train", "--config=none.py", "--workdir=x"), "there is no config 'none.py'"),
        (("train", "--config", "none.py", "--workdir=x"), "there is no config 'none.py'"),
        (("train", "--config=", "--workdir=x"), "there is no config ''"),
        (("train", "--config=digit", "--workdir=x"), "did you mean digits?"),
        (("train", "--config=lpd_256:M", "--workdir=x"), "no size 'M'"),
        (("train", "--config=digits:L", "--workdir=x"), "takes no :L; give --config=digits."),
        (("train", DIGITS, "--workdir=x", "--config.train.stepz=3"), "did you mean 'steps'?"),
        (("train", DIGITS, "--workdir=x", "--config.trian.steps=3"), "did you mean 'train'?"),
        (("train", DIGITS, "--workdir=x", "--config.guidance=3"), "'sample.guidance'?"),
        (("train", DIGITS, "--workdir=x", "--config.train.steps.a=3"), "no field 'a'"),
        (("train", DIGITS, "--workdir=x", "--config.train.steps=many"), "train.steps=many"),
        (("train", DIGITS, "--workdir=x", "--config.train.steps"), "config.train.steps"),
        (("train", DIGITS, "--workdir=x", "--config.train={'a':1}"), "one by one"),
        (("train", DIGITS, "--workdir=x", "--config.train.clip_norm=None"), "must be a number"),
        (("train_tokenizer", DIGITS, "--workdir=setup.py/x"), "cannot be written"),
        (("train", DIGITS, "--workdir=s3://bucket/run"), "neither a local path nor in a bucket"),
        (("sample", DIGITS, "--workdir=x", "--checkpoint=az://b/run"), "nor in a bucket"),
        (("train", DIGITS, "--workdir=x", "--num_processes=2"), "go together"),
        (("train", DIGITS, "--workdir=x", "--num_processes=two"), "invalid literal"),
        (("train", DIGITS, "--workdir=x", "--join_timeout=0"), "not a positive integer"),
        (("sample", DIGITS, "--workdir=/nowhere"), "train or convert one first"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_commands_get_one_sentence(lpd, monkeypatch, arguments, says):
    monkeypatch.chdir(ROOT)
    code, _, sentence = lpd(*arguments)
    assert code == 2 and says in sentence


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("steps = 3", "mine.py has no function get_config"),
        ("def get_config():\n    return {", "mine.py line 2: '{' was never closed"),
        ("\nimport no_such_thing", "mine.py line 2: ModuleNotFoundError: No module named 'no_s"),
        ("from configs_of_ours import x", "mine.py line 1: ModuleNotFoundError"),
        ("from configs.none import x", "the shipped configs are in lpd_jax.configs"),
        ("exit(3)", "mine.py line 1: SystemExit"),
        ("def get_config():\n    return {}['a']", "mine.py line 2: KeyError: 'a'"),
        ("import json\ndef get_config():\n    return json.loads('{')", "mine.py line 3: JSOND"),
        ("def get_config(size):\n    pass", "name one after a colon: --config=mine.py:NAME"),
        ("def get_config():\n    return {'steps': 1}", "returns dict, not a ConfigDict"),
    ],
)
def test_a_config_that_cannot_be_run_says_which_line(lpd, tmp_path, monkeypatch, text, says):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(text)
    code, _, sentence = lpd("train", "--config=mine.py", "--workdir=x")
    assert code == 2 and says in sentence


@pytest.mark.parametrize(
    "form",
    [
        ["--config=lpd_256:XL"],
        ["--config", "lpd_256:XL"],
        ["--config=configs/lpd_256.py:XL"],
        [f"--config={ROOT}/configs/lpd_256.py:XL"],
    ],
    ids=" ".join,
)
def test_shipped_configs_are_found_by_name_from_anywhere(lpd, tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(sample, "run", lambda config, workdir: asked.append((config, workdir)))
    fields = ["--config.train.keep", "7", "--noconfig.data.flip", "--config.sample.top_p=0.5"]
    assert lpd(*fields, "sample", *form, "--workdir", "runs/x")[0] == 0
    ((config, workdir),) = asked
    assert (config.decoder.depth, config.train.keep, config.sample.top_p) == (36, 7, 0.5)
    assert config.data.flip is False and workdir == "runs/x"


def test_shipped_configs_have_names():
    names = config_files.shipped()
    assert {"digits", "folder", "folder_small", "lpd_256", "ablations/orders"} <= {*names}
    assert config_files.find("ablations.orders") == config_files.find("ablations/orders")
    assert "base" not in names and not any("__init__" in name for name in names)


def test_own_configs_build_on_the_shipped_ones_and_need_not_have_every_field(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    Path("mine.py").write_text(
        "from lpd_jax.configs import digits\n"
        "def get_config(steps='9'):\n"
        "    config = digits.get_config()\n"
        "    config.sample.steps = int(steps)\n"
        "    del config.sample_mesh, config.sample.segments\n"
        "    return config.lock()\n"
    )
    config = config_files.load("mine.py:5")
    assert (config.sample.steps, config.sample.segments, config.sample_mesh.data) == (5, 1, -1)
    assert config_files.load("mine.py").sample.steps == 9
    # As configs were written when they were no part of the package.
    monkeypatch.delitem(sys.modules, "configs", raising=False)
    Path("configs").mkdir()
    Path("configs/__init__.py").touch()
    Path("configs/mine.py").write_text(Path("mine.py").read_text())
    Path("old.py").write_text("from configs.mine import get_config")
    assert config_files.load("old.py:4").sample.steps == 4


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("three", ("three",)),
        ("three,7", ("three", 7)),
        ("new york, 7", ("new york", 7)),
        ("('a, b', 3)", ("a, b", 3)),
        ("'a, b'", ("a, b",)),
        ("3,7", (3, 7)),
        ("3", (3,)),
        ("07", ("07",)),
        ("[3, 7]", (3, 7)),
        ("lady's slipper,2", ("lady's slipper", 2)),
        ("été", ("été",)),
        ("3,", (3,)),
        ("", ()),
        ("()", ()),
        (",", ()),
    ],
)
def test_labels_are_numbers_and_names(text, value):
    config = config_files.load("digits")
    config_files.override(config, [f"--config.sample.labels={text}"])
    assert config.sample.labels == value


def test_guidance_may_be_none_and_sections_without_fields_may_be_given():
    config = config_files.load("digits")
    fields = ["--config.sample.guidance=None", "--config.rules={'embed': 'fsdp'}"]
    config_files.override(config, [*fields, "--config.data.flip", "--config.seed=-1"])
    assert config.sample.guidance is None and config.rules.embed == "fsdp"
    assert config.data.flip is True and config.seed == -1


def test_a_run_says_at_its_start_in_what_its_config_differs(lpd, monkeypatch):
    said = []
    monkeypatch.setattr(train, "run", lambda *_: None)
    monkeypatch.setattr(cli._LOG, "info", lambda text, *values: said.append(text % values))
    lpd("train", "--config=ablations.orders", "--workdir=x", "--config.train.steps=5")
    (text,) = said
    first, *lines = text.splitlines()
    assert first.startswith("train --config=ablations.orders --workdir=x")
    assert "  data: flip=False, size=32, source='digits'" in lines
    (line,) = [line for line in lines if line.startswith("  train: ")]
    assert "steps=5" in line and "clip_norm" not in line
    assert len(lines) < 10 and max(map(len, lines)) < 300


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b"), 2, "the disk is full (a/b)"),
        (ValueError("tensorstore: No space left on device"), 2, "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "c"), 2, "access is denied (c)"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
    ],
    ids=["full", "full, said by a library", "denied", "Ctrl-C"],
)
def test_what_the_machine_is_to_blame_for_is_one_sentence(lpd, monkeypatch, error, code, says):
    def fail(*_):
        if isinstance(error, KeyboardInterrupt):
            raise error
        raise RuntimeError("while saving") from error

    monkeypatch.setattr(train, "run", fail)
    got, _, sentence = lpd("train", DIGITS, "--workdir=x")
    assert got == code and says in sentence


def test_a_fault_of_ours_shows_its_stack(lpd, monkeypatch):
    def fail(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(train, "run", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        lpd("train", DIGITS, "--workdir=x")


def test_a_bucket_needs_gcsfs(lpd, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    _, _, sentence = lpd("train", DIGITS, "--workdir=gs://bucket/run")
    assert sentence == "gs:// paths need gcsfs: pip install -e '.[gcs]' (gs://bucket/run)."


def test_help_says_what_there_is(lpd):
    for flag in ("--help", "-h"):
        code, out, _ = lpd(flag)
        assert code == 0
        for word in ("--config", "--workdir", *cli.TASKS):
            assert word in out, word
    for task in cli.TASKS:
        code, out, _ = lpd(task, "--help")
        assert code == 0 and out.startswith(f"{task}: ") and len(out) > 80
    out = lpd("sample", "--help")[1]
    assert "  sample.steps=10\n" in out and "train.steps" not in out
    (line,) = (line for line in out.splitlines() if "sample.labels=" in line)
    assert line.split() == ["sample.labels=()", *["all", "classes", "when", "empty"]]
    assert "None leaves out the unconditional branch" in " ".join(
        out.split()
    )  # from the line above the field
    assert "sample.guidance=1.8" in lpd("sample", DIGITS, "--help")[1]
    assert "train_tokenizer.steps=" in lpd("pipeline", "--help")[1]
    assert lpd("--version")[1].startswith(f"lpd_jax {lpd_jax.__version__}, jax ")


def test_some_task_lists_each_section_of_the_config():
    sections = {name for name, x in base.get_config().items() if isinstance(x, ConfigDict) and x}
    listed = set().union(*map(cli._sections, cli.TASKS))
    # Of the devices, which all tasks share, `build` reads the sections.
    assert sections - {"mesh", "sample_mesh", "tokenizer", "decoder"} <= listed


def test_a_process_of_its_own_ends_with_the_code():
    command = [sys.executable, "-m", "lpd_jax", "train", "--config", "wrong.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "lpd: --workdir is missing; try --config=digits --workdir=runs/digits.\n"


@pytest.mark.parametrize(
    "name",
    ["digits", "folder", "folder_small", "lpd_256:L", "lpd_256:XL-32", "lpd_256:XXL", "lpd_512:XL"],
)
def test_ready_configs_build_their_networks(name):
    config = config_files.load(name)
    network = build.tokenizer(config)
    side = config.data.size // network.config.stride
    decoder = DecoderConfig(grid=(side, side), num_classes=10, **config.decoder)
    steps_of = build.steps_of(config.train, decoder.num_tokens)
    assert steps_of.shape == (len(config.train.schedules), decoder.num_tokens)
    build.optimizer(config.train), build.loop(config.train), build.sampling(config.sample)
    assert sum(build.group_sizes(config.sample, decoder.num_tokens)) == decoder.num_tokens
