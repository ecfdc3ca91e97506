"""Task `train`: what a run begins with, and what it may change on the way."""

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import pytest

from lpd_jax import checkpoint, parallel, storage
from lpd_jax.checkpoint import Checkpoints
from lpd_jax.configs import digits
from lpd_jax.data.codes import CodesSpec, finalize, missing_shards, write_shard
from lpd_jax.errors import InputError
from lpd_jax.evaluation.distances import frechet
from lpd_jax.evaluation.looking import Extractor
from lpd_jax.metrics import read_rows
from lpd_jax.models.decoder import Decoder, DecoderConfig
from lpd_jax.models.initial import init_decoder, init_tokenizer
from lpd_jax.models.tokenizer import Tokenizer, TokenizerConfig
from lpd_jax.sampler import Sampler
from lpd_jax.tasks import build, measuring, train
from lpd_jax.tasks.workdir import plain
from lpd_jax.trained import load_decoder
from lpd_jax.weights import resize_pos_embed
from tests.evaluation.test_units import network as feature_network

SPEC = CodesSpec(
    tokenizer={"fingerprint": "of-both"},
    grid=(8, 8),
    codebook_size=48,
    views=1,
    class_names=("auk", "wren", "owl"),
    split_sizes={"train": 40, "heldout": 16},
)
SMALL = DecoderConfig(
    grid=(4, 4), vocab_size=48, num_classes=3, width=32, depth=1, heads=2, dropout=0.0
)


def config(**train_fields):
    tiny = digits.get_config()
    tiny.mesh.update(data=2, fsdp=4)
    tiny.decoder.update(width=32, depth=1, heads=2, unroll=1)
    tiny.train.update(
        steps=2, batch_size=16, warmup_steps=0, decay_start=1, save_every=2, log_every=1
    )
    tiny.train.update(schedules=(8,), **train_fields)
    return tiny


@pytest.fixture
def workdir(tmp_path):
    """A workdir with codes of 8x8 grids."""
    rng = np.random.default_rng(0)
    for shard in missing_shards(tmp_path / "codes", SPEC):
        size = shard.stop - shard.start
        codes = rng.integers(0, 48, (size, *SPEC.shape))
        write_shard(tmp_path / "codes", SPEC, shard, codes, rng.integers(0, 3, size))
    finalize(tmp_path / "codes", SPEC)
    return tmp_path


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """The workdir of a decoder for 4x4 grids, and its parameters."""
    path = tmp_path_factory.mktemp("earlier")
    params = nn.unbox(jax.jit(lambda key: init_decoder(Decoder(SMALL), key))(jax.random.key(5)))
    about = {
        "kind": "decoder",
        "config": dataclasses.asdict(SMALL),
        "class_names": SPEC.class_names,
        "label_drop": 0.1,
        "tokenizer": "of-both",
    }
    (path / "decoder").mkdir()
    checkpoint.save_model(path / "decoder/model", about, params)
    return path, jax.device_get(params)


def begun(monkeypatch):
    """The parameters that training was handed, and where they lay (their buffers are donated)."""
    seen, plain = [], train.start.from_model

    def from_model(*args):
        def watched(abstract):
            params = plain(*args)(abstract)
            seen.append((jax.device_get(params), jax.tree.map(lambda x: x.sharding, params)))
            return params

        return watched

    monkeypatch.setattr(train.start, "from_model", from_model)
    return seen


def test_a_larger_grid_begins_with_the_parameters_of_a_smaller(workdir, earlier, monkeypatch):
    path, theirs = earlier
    seen = begun(monkeypatch)
    figures = train.run(config(init_from=str(path)), workdir)
    assert np.isfinite(list(figures.values())).all()

    ((ours, shardings),) = seen
    assert shardings["head"]["kernel"].spec == jax.sharding.PartitionSpec("fsdp", "tensor")
    resized = resize_pos_embed(theirs["pos_embed"], (4, 4), (8, 8))
    np.testing.assert_allclose(ours.pop("pos_embed"), resized, rtol=1e-6)
    expected = {name: leaf for name, leaf in theirs.items() if name != "pos_embed"}
    jax.tree.map(np.testing.assert_array_equal, ours, expected)
    settings = json.loads((workdir / "decoder/settings.json").read_text())
    assert settings["train"]["init_from"] == str(path)


def test_a_run_that_goes_on_does_not_begin_again(workdir, earlier, monkeypatch, tmp_path):
    """Nor does it need what it began with; its devices and its memory may be others."""
    path = str(earlier[0])
    train.run(config(init_from=path), workdir)
    (workdir / "decoder/model/model.json").unlink()
    seen = begun(monkeypatch)
    monkeypatch.setattr(train.start, "from_model", None)
    again = config(init_from=path, accumulate=2, loss_chunk=16)
    again.mesh.update(data=1, fsdp=-1)
    again.decoder.update(attention_split=False, remat="full")
    train.run(again, workdir)
    assert not seen
    with Checkpoints(workdir / "decoder/checkpoints") as saved:
        assert saved.latest == 2


def test_decoders_that_differ_in_more_than_the_grid_are_refused(workdir, earlier):
    wide = config(init_from=str(earlier[0] / "decoder"))
    wide.decoder.update(width=64, heads=4)
    with pytest.raises(InputError, match=r"blocks/qkv/kernel is \(1, 32, 3, 2, 16\), not \(1, 64"):
        train.run(wide, workdir)
    with pytest.raises(InputError, match="no decoder at"):
        train.run(config(init_from=str(workdir / "none")), workdir)
    # Nothing was made under those settings, so that the right ones are not in their way.
    wide = config(steps=1, decay_start=0)
    train.run(wide, workdir)


@pytest.mark.parametrize(
    ("section", "field", "value", "words"),
    [
        ("train", "accumulate", 4, "a multiple of 32"),
        ("train", "loss_chunk", 5, "must divide the 64 tokens"),
        ("decoder", "attention", "cudnn", "not on cpu"),
    ],
)
def test_settings_that_cannot_be_computed_are_refused(workdir, section, field, value, words):
    wrong = config()
    wrong[section][field] = value
    with pytest.raises(InputError, match=words):
        train.run(wrong, workdir)


def test_the_finished_model_is_what_was_trained(workdir):
    """Gradients in parts and logits in chunks end in the parameters of a plain run."""
    train.run(config(), workdir)
    lean = config(accumulate=2, loss_chunk=16)
    other = workdir / "lean"
    other.mkdir()
    (other / "codes").symlink_to(workdir / "codes")
    train.run(lean, other)
    mesh = parallel.make_mesh(parallel.MeshConfig())
    (_, one, about), (_, two, _) = (
        load_decoder(p / "decoder/model", mesh) for p in (workdir, other)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-4), one, two)
    assert about["label_drop"] == config().train.label_drop


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_a_run_is_lengthened_and_forked(workdir, caplog):
    constant = {"schedule": "constant", "decay_start": 0}
    mesh = parallel.make_mesh(parallel.MeshConfig())
    (workdir / "tokenizer").mkdir()
    whole = workdir / "whole"
    train.run(config(steps=4, **constant), whole, workdir / "codes")
    train.run(config(**constant), workdir)
    train.run(config(steps=4, **constant), workdir)
    same(*(load_decoder(p / "decoder/model", mesh)[1] for p in (whole, workdir)))
    assert json.loads((workdir / "decoder/settings.json").read_text())["train"]["steps"] == 4
    with pytest.raises(InputError, match=r"train\.steps was 4, now 2"):
        train.run(config(**constant), workdir)
    with pytest.raises(InputError, match=r"train\.learning_rate was"):
        train.run(config(steps=6, learning_rate=0.1, **constant), workdir)

    fork = {"fork_from": str(workdir), "learning_rate": 0.1, **constant}
    with pytest.raises(InputError, match="has done 4 steps at that checkpoint"):
        train.run(config(steps=4, **fork), workdir / "fork")
    with pytest.raises(InputError, match="checkpoints of the steps 2, 4; choose"):
        train.run(config(steps=4, fork_step=3, **fork), workdir / "fork")
    train.run(config(steps=4, fork_step=2, **fork), workdir / "fork")
    ours, theirs = (read_rows(p / "decoder") for p in (workdir / "fork", workdir))
    assert [row["step"] for row in ours] == [2, 3]
    assert ours[0]["loss"] == theirs[2]["loss"] and ours[1]["loss"] != theirs[3]["loss"]
    assert (workdir / "fork/tokenizer").samefile(workdir / "tokenizer")


def test_a_checkpoint_of_one_network_has_the_layout_that_it_always_had(workdir):
    train.run(config(ema_decay=0.9), workdir)
    path = (workdir / "decoder/checkpoints/2").absolute()
    state = checkpoint.ocp.load_checkpointables(path)["state"]
    assert set(state) == {"step", "params", "opt_state", "ema"}
    assert "blocks" in state["params"] and "blocks" in state["ema"]


def test_what_is_looked_at_while_training_goes_on(workdir, monkeypatch):
    """Held-out loss, samples and FID; the model keeps its average beside its parameters."""
    network = Tokenizer(
        TokenizerConfig(
            ch=8, ch_mult=(1, 1), num_res_blocks=1, z_channels=8, codebook_size=48, norm_groups=4
        )
    )
    params = jax.jit(lambda key: init_tokenizer(network, key))(jax.random.key(0))
    about = plain({"kind": "tokenizer", "config": network.config, "fingerprint": "of-both"})
    checkpoint.save_model(workdir / "tokenizer/model", about, params)
    looked = config(ema_decay=0.9, eval_every=1, sheet_every=2)
    looked.train.update(fid_every=2, fid_images=40)
    looked.sample.update(steps=4)
    with pytest.raises(InputError, match="fid_every needs weights and a reference"):
        train.run(looked, workdir)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    np.savez(workdir / "real.npz", pixels)
    looked.evaluate.update(inception="weights", reference=str(workdir / "real.npz"))
    monkeypatch.setattr(measuring, "network", lambda path: feature_network(side=16))
    figures = train.run(looked, workdir)
    rows = read_rows(workdir / "decoder")
    assert [row["step"] for row in rows if "fid" in row] == [2]
    assert rows[-1]["fid"] != rows[-1]["ema_fid"] > 0 and rows[-1]["ema_inception_score"] >= 1
    sampled = Sampler.load(workdir, mesh=parallel.make_mesh(parallel.MeshConfig(data=2, fsdp=4)))
    images = build.generate(looked, looked.sample, sampled, measuring.balanced(40, 3)).images
    own, real = (Extractor(feature_network(side=16))(x)["pool3"] for x in (images, pixels))
    own, real = ((x.mean(0, np.float64), np.cov(x.T)) for x in (own, real))
    assert rows[-1]["ema_fid"] == pytest.approx(frechet(*own, *real), rel=1e-3)
    assert [row["step"] for row in rows if "heldout_loss" in row] == [1, 2]
    rows = [row for row in rows if "heldout_loss" in row]
    assert 0 < rows[-1]["heldout_loss_se"] < rows[-1]["heldout_loss"]
    assert (workdir / "decoder/sheets/0000002.png").is_file()
    # One schedule: the evaluator's average and the report's are the same figure.
    assert rows[-1]["ema_heldout_loss"] == pytest.approx(figures["heldout_loss_8_steps"], rel=1e-6)
    assert 0 < figures["heldout_loss_8_steps_se"] < 1

    mesh = parallel.make_mesh(parallel.MeshConfig())
    path = workdir / "decoder/model"
    default, ema, raw = (load_decoder(path, mesh, which=w) for w in ("", "ema", "raw"))
    assert [x[2]["params"] for x in (default, ema, raw)] == ["ema", "ema", "raw"]
    same(default[1], ema[1])
    assert not np.array_equal(raw[1]["head"]["kernel"], ema[1]["head"]["kernel"])
    assert raw[2]["sampling"]["steps"] == 4 and len(raw[2]["fingerprint"]) == 16


def test_a_model_without_an_average_says_so(earlier):
    path, mesh = earlier[0] / "decoder/model", parallel.make_mesh(parallel.MeshConfig())
    assert load_decoder(path, mesh)[2]["params"] == "raw"
    with pytest.raises(InputError, match="keeps no average"):
        load_decoder(path, mesh, which="ema")
    with pytest.raises(InputError, match=r"sample\.params='mean' must be"):
        load_decoder(path, mesh, which="mean")


def test_a_workdir_in_which_another_process_trains_is_refused(workdir):
    refused = pytest.raises(InputError, match="another process is at work in")
    with storage.locked(workdir / "decoder"), refused:
        train.run(config(), workdir)
    assert not (workdir / "decoder").exists()
