"""Official weights -> model directories -> images, and back: through the task and command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lpd_jax import __main__ as cli
from lpd_jax import weights
from lpd_jax.checkpoint import read_model_json
from lpd_jax.configs import digits
from lpd_jax.errors import InputError
from lpd_jax.generation.sampling import sampling_rule
from lpd_jax.sampler import Sampler
from lpd_jax.tasks import convert
from lpd_jax.trained import load_decoder

pytestmark = pytest.mark.usefixtures("one_device")
REFERENCE = Path(__file__).parents[1] / "reference"
DECODER, TOKENIZER = (REFERENCE / f"{n}.weights.npz" for n in ("lpd_tiny", "tokenizer_tiny"))
SIZES = {
    "data.size": 64,
    "tokenizer.ch": 32,
    "tokenizer.ch_mult": (1, 1, 2, 2, 4),
    "tokenizer.num_res_blocks": 2,
    "tokenizer.z_channels": 64,
    "tokenizer.codebook_size": 64,
    "tokenizer.norm_groups": 32,
    "decoder.width": 64,
    "decoder.depth": 3,
    "decoder.heads": 4,
}


def tiny_config(**changes):
    config = digits.get_config()
    config.update_from_flattened_dict(SIZES | {k.replace("__", "."): v for k, v in changes.items()})
    return config


def importing(**changes):
    files = {"convert__decoder": str(DECODER), "convert__tokenizer": str(TOKENIZER)}
    return tiny_config(**files | changes)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("converted")
    convert.run(importing(), workdir)
    return workdir


def test_converted_models_generate_what_the_official_code_generates(converted, one_device_mesh):
    arrays = np.load(REFERENCE / "lpd_tiny.npz")
    guidance = json.loads((REFERENCE / "configs.json").read_text())["lpd_tiny"]["cfg"]
    samples = Sampler.load(converted, one_device_mesh).sample(
        arrays["labels"],
        arrays["g0/group_sizes"],
        arrays["orders"].astype(np.int32),
        sampling_rule(guidance=guidance, top_k=1),
    )
    np.testing.assert_array_equal(samples.codes, arrays["g0/infer/linear/tokens"])
    assert samples.images.shape == (3, 64, 64, 3)


def test_the_model_says_where_it_comes_from(converted):
    about = read_model_json(converted / "decoder/model", "decoder")
    tokenizer = read_model_json(converted / "tokenizer/model", "tokenizer")
    assert about["tokenizer"] == tokenizer["fingerprint"]
    assert about["converted"]["file"] == DECODER.name
    assert about["class_names"] == [str(i) for i in range(10)]
    assert about["config"]["grid"] == [4, 4]
    assert len(about["fingerprint"]) == 16 and about["fingerprint"] != about["tokenizer"]
    assert (about["sampling"]["guidance"], about["sampling"]["order"]) == (1.8, "locality")
    beside = json.loads((converted / "decoder/config.json").read_text())
    assert beside["config"]["convert"]["decoder"] == str(DECODER)


def test_the_command_line_converts_samples_and_converts_back(tmp_path, monkeypatch, as_before):
    monkeypatch.chdir(Path(__file__).parents[2])
    sizes = [
        f"--config.{name}={str(value).replace(' ', '')}"
        for name, value in (SIZES | {"sample.labels": (7, 3), "sample.count": 1}).items()
    ]
    config = ["--config=configs/digits.py", *sizes]
    models = tmp_path / "models"
    files = [
        f"--config.convert.decoder={DECODER}",
        f"--config.convert.tokenizer={TOKENIZER}",
        f"--config.convert.export_decoder={tmp_path}/back.safetensors",
    ]
    assert cli.command(["convert", *config, f"--workdir={models}", *files]) == 0
    official, back = weights.read(DECODER), weights.read(tmp_path / "back.safetensors")
    assert set(back) == set(official)
    places = [f"--workdir={tmp_path}/run", f"--checkpoint={models}"]
    assert cli.command(["sample", *config, *places]) == 0
    (archive,) = (tmp_path / "run/samples").glob("*/samples.npz")
    assert np.load(archive)["images"].shape == (2, 64, 64, 3)


def test_there_and_back_is_bit_exact(converted, tmp_path):
    names = {"decoder": DECODER, "tokenizer": TOKENIZER}
    config = tiny_config(checkpoint=str(converted))
    for kind in names:
        config.convert[f"export_{kind}"] = str(tmp_path / f"{kind}.safetensors")
    convert.run(config, tmp_path / "unused")
    for kind, path in names.items():
        back, official = weights.read(tmp_path / f"{kind}.safetensors"), weights.read(path)
        assert set(back) - {"quantize.codebook_used"} == set(official)
        for name in official:
            np.testing.assert_array_equal(back[name], official[name], name)
    with pytest.raises(InputError, match="not overwritten"):
        convert.run(config, tmp_path / "unused")
    (tmp_path / "decoder.safetensors").unlink()
    config.convert.export_tokenizer = ""
    with pytest.raises(InputError, match=r"decoder\.md exists and is not overwritten"):
        convert.run(config, tmp_path / "unused")
    card = (tmp_path / "decoder.md").read_text()
    for said in (
        "license: unknown",
        "| width |",
        "10: 0, 1, 2",
        "| guidance | 1.8 |",
        DECODER.name,
    ):
        assert said in card
    assert "How it is sampled" not in (tmp_path / "tokenizer.md").read_text()


def test_a_model_card_has_settings_figures_and_a_licence():
    about = {"kind": "decoder", "config": {"width": 8}, "class_names": ["a|b"] * 30}
    training = {"seed": 0, "train": {"steps": 5}}
    card = weights.model_card("mine.safetensors", about, training, {"heldout_loss": 1.5}, "mit")
    assert card.startswith("---\nlicense: mit\n") and "Licence of the weights: mit." in card
    for said in ("| steps | 5 |", "| heldout_loss | 1.5 |", "and 10 more", "convert.decoder=mine."):
        assert said in card


def test_another_size_resizes_the_position_embedding(tmp_path, one_device_mesh, caplog):
    convert.run(importing(data__size=96), tmp_path)
    assert "resized from 4x4 to 6x6" in caplog.text
    network, params, _ = load_decoder(tmp_path / "decoder/model", one_device_mesh)
    official = weights.read(DECODER)["pos_embed"][0]
    assert network.config.grid == (6, 6)
    np.testing.assert_array_equal(
        params["pos_embed"], weights.resize_pos_embed(official, (4, 4), (6, 6))
    )


def test_what_exists_stays(converted, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(converted, workdir)

    def state():
        return {f: f.stat().st_mtime_ns for f in workdir.rglob("*") if f.is_file()}

    before = state()
    convert.run(importing(), workdir)
    convert.run(importing(sample__guidance=5.0), workdir)  # which converts nothing else
    with pytest.raises(InputError, match=r"config\.dtype was 'float32', now 'bfloat16'"):
        convert.run(importing(decoder__dtype="bfloat16"), workdir)
    assert state() == before


def test_a_bad_file_leaves_nothing_behind(tmp_path):
    arrays = dict(np.load(DECODER))
    del arrays["norm.weight"]
    np.savez(tmp_path / "partial.npz", **arrays)
    config = importing(convert__decoder=str(tmp_path / "partial.npz"))
    with pytest.raises(InputError, match=r"missing: norm\.weight"):
        convert.run(config, tmp_path / "models")
    assert not (tmp_path / "models/decoder").exists()
    convert.run(importing(), tmp_path / "models")
    assert (tmp_path / "models/decoder/model/model.json").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__size": 40}, "data.size=40 is not a multiple of 16"),
        ({"convert__decoder": str(TOKENIZER)}, "holds a tokenizer"),
        ({"convert__tokenizer": "absent.pt"}, "no weight file absent.pt"),
        ({"convert__tokenizer": ""}, "no tokenizer at"),
        ({"convert__decoder": "", "convert__tokenizer": ""}, "nothing to convert"),
    ],
)
def test_mistakes_are_explained(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        convert.run(importing(**changes), tmp_path)
    assert not list(tmp_path.glob("decoder"))


@pytest.mark.parametrize("heads", [0, 4])
def test_files_of_other_sizes_are_taken_as_their_shapes_say(tmp_path, heads):
    """Nothing of the config fits: sizes come from the files, heads as asked or width / 64."""
    config = digits.get_config()
    config.decoder.dropout = 0.3
    config.convert.update(decoder=str(DECODER), tokenizer=str(TOKENIZER), heads=heads)
    convert.run(config, tmp_path)
    found = read_model_json(tmp_path / "decoder/model", "decoder")["config"]
    assert (found["width"], found["depth"], found["heads"]) == (64, 3, heads or 1)
    assert (found["grid"], found["vocab_size"], found["num_classes"]) == ([4, 4], 64, 10)
    assert found["dropout"] == 0.3
    found = read_model_json(tmp_path / "tokenizer/model", "tokenizer")["config"]
    assert (found["ch"], found["ch_mult"], found["norm_groups"]) == (32, [1, 1, 2, 2, 4], 32)
    assert Sampler.load(tmp_path)([3], steps=4).shape == (1, 64, 64, 3)


def test_a_decoder_of_another_vocabulary_is_refused(converted, tmp_path):
    shutil.copytree(converted / "tokenizer", tmp_path / "tokenizer")
    arrays = dict(np.load(DECODER))
    for name in ("token_emb.weight", "head.weight"):
        arrays[name] = arrays[name][:50]
    np.savez(tmp_path / "other.npz", **arrays)
    config = tiny_config(convert__decoder=str(tmp_path / "other.npz"))
    with pytest.raises(InputError, match="knows 50 codes and the tokenizer"):
        convert.run(config, tmp_path)
