"""The exported sampler: equal to the sampler, for any batch, and callable without this package."""

import dataclasses
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from lpd_jax import checkpoint, parallel
from lpd_jax.configs import digits
from lpd_jax.errors import InputError
from lpd_jax.export import export_sampler
from lpd_jax.generation.orders import LocalityAware, Random
from lpd_jax.generation.sampling import sampling_rule
from lpd_jax.quantize import quantize_decoder
from lpd_jax.sampler import Sampler
from lpd_jax.tasks import build, export

pytest.importorskip("flatbuffers")

SIZES = (1, 2, 3, 5, 6, 7)
RULE = sampling_rule(guidance=2.0, temperature=0.9)


@pytest.fixture(scope="module")
def sampler(decoder, decoder_params, tokenizer, tokenizer_params):
    return Sampler(
        decoder=decoder,
        decoder_params=decoder_params,
        tokenizer=tokenizer,
        tokenizer_params=tokenizer_params,
        class_names=tuple("abcde"),
        guidable=True,
        mesh=parallel.make_mesh(parallel.MeshConfig(), jax.devices()[:1]),
    )


def call(artifact, labels, seed, first=0, **changed):
    program = jax.export.deserialize(bytearray(artifact.program))
    indices = np.arange(first, first + len(labels), dtype=np.int32)
    chosen = {k: np.float32(v) for k, v in (artifact.numbers | changed).items()}
    return program.call(artifact.params, np.int32(labels), indices, np.uint32(seed), chosen)


@pytest.mark.parametrize("mode", ["float", "int8_w8a8"])
def test_the_program_draws_what_the_sampler_draws(sampler, mode):
    if mode != "float":
        params = quantize_decoder(sampler.decoder_params, mode)
        sampler = dataclasses.replace(sampler, decoder_params=params)
    artifact = export_sampler(sampler, SIZES, LocalityAware(), RULE)
    want = sampler.sample([4, 0, 1], SIZES, LocalityAware(), RULE, seed=7)
    got = call(artifact, [4, 0, 1], 7)
    for name in ("codes", "orders", "images"):
        np.testing.assert_array_equal(got[name], getattr(want, name))
    colder = sampling_rule(guidance=3.0, temperature=0.1)
    want = sampler.sample([4, 0, 1], SIZES, LocalityAware(), colder, seed=7)
    alone = call(artifact, [0], 7, first=1, guidance=3.0, temperature=0.1)
    np.testing.assert_array_equal(alone["codes"][0], want.codes[1])


def test_it_runs_everywhere_and_holds_what_turns_codes_into_pixels_only(sampler):
    artifact = export_sampler(sampler, SIZES, Random(), sampling_rule())
    program = jax.export.deserialize(bytearray(artifact.program))
    parts = {tuple(name.split("/")[:2]) for name in artifact.params}
    assert {part for tree, part in parts if tree == "tokenizer"} == {
        "decoder",
        "from_code",
        "quantizer",
    }
    assert {part for tree, part in parts if tree == "decoder"} == sampler.decoder_params.keys()
    assert artifact.numbers == {"temperature": 1.0}
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"order": np.zeros((2, 24), np.int32)}, "draws its orders itself"),
        ({"group_sizes": (1, 2)}, "sum to 3"),
        ({"guidable": False}, "label dropout"),
        ({"order": "spiral"}, "order='spiral' must be one of"),
    ],
    ids=["orders", "sizes", "guidance", "name"],
)
def test_what_cannot_be_exported_is_refused(sampler, wrong, says):
    guidable = wrong.pop("guidable", True)
    asked = {"group_sizes": SIZES, "order": Random(), "rule": RULE} | wrong
    with pytest.raises(InputError, match=says):
        export_sampler(dataclasses.replace(sampler, guidable=guidable), **asked)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, sampler):
    path = tmp_path_factory.mktemp("models")
    about = {
        "decoder": {"tokenizer": "t", "class_names": list("abcde"), "label_drop": 0.1},
        "tokenizer": {"fingerprint": "t"},
    }
    for kind in about:
        config = dataclasses.asdict(getattr(sampler, kind).config)
        checkpoint.save_model(
            path / kind / "model",
            {"kind": kind, "config": config} | about[kind],
            getattr(sampler, f"{kind}_params"),
        )
    return path


@pytest.fixture
def config():
    config = digits.get_config()
    config.mesh.data = 8
    config.sample.steps = 4
    config.lock()
    return config


def run_without_the_package(directory, *runs):
    """Runs the copied script in a fresh interpreter in which lpd_jax cannot be imported."""
    code = (
        "import sys, runpy, ast\n"
        "sys.modules['lpd_jax'] = None\n"
        "for sys.argv in ast.literal_eval(sys.argv[1]):\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    files = [str(directory / name) for name in ("sampler.jaxexport", "params.safetensors")]
    calls = [[str(directory / "run_export.py"), *files, *arguments] for arguments in runs]
    return subprocess.run(
        [sys.executable, "-c", code, repr(calls)],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


# In bfloat16 what the compiler fuses decides what is rounded; another code would be another image.
@pytest.mark.parametrize(
    ("dtype", "most", "mean"),
    [("float32", 0, 0), pytest.param("bfloat16", 8, 1, marks=pytest.mark.slow)],
)
def test_the_script_draws_them_without_this_package(workdir, config, tmp_path, dtype, most, mean):
    config.sample.dtype = dtype
    config.export.path = str(tmp_path / "new" / "digits")
    directory = export.run(config, workdir)
    assert directory == Path(config.export.path)
    done = run_without_the_package(
        directory,
        ["--labels", "4,0,1", "--seed", "7", "--out", str(tmp_path / "three.png")],
        ["--labels", "c", "--set", "guidance=3", "--out", str(tmp_path / "one.png")],
        ["--labels", "5"],
    )
    assert done.returncode == 2 and "labels are 0 to 4" in done.stderr, done.stderr
    trained = build.sampler(config, workdir)
    sizes = build.group_sizes(config.sample, 24)
    for file, labels, seed, guidance in (("three", [4, 0, 1], 7, 1.8), ("one", [2], 0, 3)):
        config.sample.guidance = guidance
        rule, order = build.sampling(config.sample), build.order(config.sample)
        want = trained.sample(labels, sizes, order, rule, seed=seed)
        with Image.open(tmp_path / f"{file}.png") as image:
            off = np.abs(np.asarray(image, int) - np.hstack(want.images))
        assert off.max() <= most and off.mean() <= mean


def test_an_export_is_made_once_and_nothing_is_overwritten(workdir, config, tmp_path):
    directory = export.run(config, workdir)
    assert directory.parent == workdir / "export"
    names = {file.name: file.stat().st_mtime_ns for file in directory.iterdir()}
    assert names.keys() == {
        "sampler.jaxexport",
        "params.safetensors",
        "run_export.py",
        "README.txt",
        "settings.json",
    }
    config.sample.batch_size = 3  # given at the call
    assert export.run(config, workdir) == directory
    assert names == {file.name: file.stat().st_mtime_ns for file in directory.iterdir()}
    config.export.path = str(directory)
    config.sample.steps = 5
    with pytest.raises(InputError, match="exists and is not the export of this model"):
        export.run(config, workdir)
    (tmp_path / "file").touch()
    config.export.path = str(tmp_path / "file")
    with pytest.raises(InputError, match="exists and is not the export"):
        export.run(config, workdir)
    config.export.path = str(tmp_path / "file" / "below")
    with pytest.raises(InputError, match="cannot be written"):
        export.run(config, workdir)
    assert (tmp_path / "file").read_bytes() == b""


def test_the_script_says_in_one_sentence_what_is_wrong(workdir, config, monkeypatch, capsys):
    config.sample.top_p = 0.9
    directory = export.run(config, workdir)
    files = [str(directory / name) for name in ("sampler.jaxexport", "params.safetensors")]
    script, note = str(directory / "run_export.py"), str(directory / "README.txt")
    one = ["--labels", "1"]
    for arguments, says in {
        (*files, "--labels", "5"): "label 5 is out of range; labels are 0 to 4",
        (*files, "--labels", "z"): "no class is named 'z'",
        (*files, "--labels", "-1"): "no class is named '-1'",
        (*files, *one, "--set", "temperature=nan"): "--set temperature=nan is none of",
        (*files, *one, "--set", "guidance=inf"): "with a finite number",
        (*files, *one, "--set", "top_p=0"): "keeps no code",
        (*files, *one, "--set", "speed"): "--set speed is none of temperature, guidance, top_p",
        (*files, *one, "--seed", str(2**32)): "--seed 4294967296 must be",
        (*files, *one, "--seed", "x"): "invalid int value",
        (*files, *one, "--out", "absent/grid.png"): "there is no directory absent",
        (*files, *one, "--out", "grid.xyz"): "no suffix of an image",
        ("absent", files[1], *one): "absent cannot be read as an exported sampler",
        (note, files[1], *one): "README.txt cannot be read as an exported sampler",
        (files[0], "absent", *one): "absent cannot be read as the parameters",
        (files[0], note, *one): "README.txt cannot be read as the parameters",
    }.items():
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(script, run_name="__main__")
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and says in error and error.count("\n") == 1, error
