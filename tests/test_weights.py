"""Conversion of weights: round trips, file formats, wrappers, and every way a file can be wrong."""

import dataclasses
import pickle
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from lpd_jax import weights
from lpd_jax.errors import InputError
from lpd_jax.models.decoder import DecoderConfig
from lpd_jax.models.tokenizer import TokenizerConfig
from lpd_jax.weights.configs import abstract_decoder, abstract_tokenizer
from lpd_jax.weights.rows import DECODER, TOKENIZER, Row

DECODER_CONFIG = DecoderConfig(
    grid=(3, 3), vocab_size=11, num_classes=5, width=24, depth=2, heads=3, mlp_ratio=2.5
)
TOKENIZER_CONFIG = TokenizerConfig(
    ch=8, ch_mult=(1, 3), num_res_blocks=1, z_channels=6, codebook_size=7, norm_groups=4
)


def random_params(abstract):
    leaves, treedef = jax.tree.flatten(abstract)
    draw = np.random.default_rng(0).standard_normal
    return treedef.unflatten([draw(leaf.shape, np.float32) for leaf in leaves])


def convert(official, **kwargs):
    return weights.decoder_from_official(official, heads=DECODER_CONFIG.heads, **kwargs)


@pytest.fixture(scope="module")
def params():
    return random_params(abstract_decoder(DECODER_CONFIG))


@pytest.fixture
def official(params):
    return weights.decoder_to_official(params)


def assert_equal(ours, theirs):
    ours, theirs = flatten_dict(ours), flatten_dict(theirs)
    assert ours.keys() == theirs.keys()
    for path in ours:
        np.testing.assert_array_equal(ours[path], theirs[path], str(path))


def test_decoder_round_trip_is_bit_exact(params, official):
    config, back = convert(official)
    assert config == DECODER_CONFIG
    assert_equal(back, params)


def test_tokenizer_round_trip_is_bit_exact():
    params = random_params(abstract_tokenizer(TOKENIZER_CONFIG))
    official = weights.tokenizer_to_official(params)
    config, back = weights.tokenizer_from_official(official, norm_groups=4)
    assert config == TOKENIZER_CONFIG
    assert_equal(back, params)
    # The official `load_state_dict` is strict and wants its buffer.
    assert official["quantize.codebook_used"].shape == (65536,)


@pytest.mark.parametrize("name", ["lpd_tiny", "tokenizer_tiny"])
def test_reference_round_trip_is_bit_exact(name, tmp_path, request):
    path = request.config.rootpath / "tests" / "reference" / f"{name}.weights.npz"
    theirs = weights.read(path)
    if weights.kind(theirs) == "decoder":
        _, params = weights.decoder_from_official(theirs, heads=4)
        ours = weights.decoder_to_official(params)
    else:
        _, params = weights.tokenizer_from_official(theirs)
        ours = weights.tokenizer_to_official(params)
    weights.write(tmp_path / "out.safetensors", ours)
    back = weights.read(tmp_path / "out.safetensors")
    assert set(back) - {"quantize.codebook_used"} == set(theirs)
    for key in theirs:
        np.testing.assert_array_equal(back[key], theirs[key], key)


def test_the_layout_of_qkv(params, official):
    """Official rows run over (query | key | value, head, place in the head)."""
    kernel = params["blocks"]["qkv"]["kernel"][1]
    row = official["blocks.1.attn.qkv.weight"].reshape(3, 3, 8, 24)[2, 1, 5]
    np.testing.assert_array_equal(row, kernel[:, 2, 1, 5])


def test_gradients_convert_like_parameters(params):
    doubled = weights.decoder_to_official(jax.tree.map(lambda x: 2 * jnp.asarray(x), params))
    for name, value in weights.decoder_to_official(params).items():
        np.testing.assert_array_equal(doubled[name], 2 * value)


def test_heads_default_to_width_over_64():
    config = dataclasses.replace(DECODER_CONFIG, width=128, heads=2)
    official = weights.decoder_to_official(random_params(abstract_decoder(config)))
    assert weights.decoder_config(official).heads == 2
    official = weights.decoder_to_official(random_params(abstract_decoder(DECODER_CONFIG)))
    with pytest.raises(InputError, match="give heads"):
        weights.decoder_config(official)


@pytest.mark.parametrize(
    ("width", "depth", "grid", "millions"),
    [
        (1024, 24, 16, 337.2),
        (1280, 36, 16, 751.9),
        (1536, 48, 16, 1412.2),
        (1024, 24, 32, 337.9),
        (1280, 36, 32, 752.9),
    ],
)
def test_published_parameter_counts(width, depth, grid, millions):
    config = DecoderConfig(grid=(grid, grid), width=width, depth=depth, heads=width // 64)
    count = sum(leaf.size for leaf in jax.tree.leaves(abstract_decoder(config)))
    assert round(count / 1e6, 1) == millions


def test_another_grid_resizes_the_position_embedding(params, official):
    config, resized = convert(official, grid=(6, 6))
    assert config.grid == (6, 6)
    assert resized["pos_embed"].shape == (37, 24)
    np.testing.assert_array_equal(resized["pos_embed"][0], params["pos_embed"][0])
    assert_equal(convert(official, grid=(3, 3))[1], params)


def test_a_constant_position_embedding_stays_constant():
    resized = weights.resize_pos_embed(np.full((5, 3), 2.0, np.float32), (2, 2), (5, 4))
    np.testing.assert_allclose(resized, np.full((21, 3), 2.0), rtol=1e-6)


def test_half_precision_files_widen(official, params):
    half = {name: array.astype(np.float16) for name, array in official.items()}
    _, converted = convert(half)
    assert converted["head"]["kernel"].dtype == np.float32
    np.testing.assert_array_equal(
        converted["head"]["kernel"], params["head"]["kernel"].astype(np.float16)
    )


def test_every_problem_is_named_at_once(official):
    del official["blocks.1.mlp.fc1.bias"], official["norm.weight"]
    official["extra.weight"] = np.zeros(3)
    official["head.weight"] = np.zeros((24, 11), np.float32)
    with pytest.raises(InputError) as error:
        convert(official)
    for line in (
        "missing: blocks.1.mlp.fc1.bias",
        "missing: norm.weight",
        "unexpected: extra.weight",
        "wrong shape: head.weight is (24, 11), expected (11, 24)",
    ):
        assert line in str(error.value)


def test_a_missing_layer_is_missing(official):
    partial = {name: array for name, array in official.items() if "blocks.0." not in name}
    with pytest.raises(InputError, match=r"missing: blocks\.0\.mlp\.fc1\.weight"):
        convert(partial)


def test_files_that_hold_something_else(official):
    with pytest.raises(InputError, match="neither"):
        weights.kind({"some.weight": np.zeros(2)})
    with pytest.raises(InputError, match="pos_embed is"):
        convert(official | {"pos_embed": np.zeros((10, 24), np.float32)})
    with pytest.raises(InputError, match="no square grid"):
        convert(official | {"pos_embed": np.zeros((1, 8, 24), np.float32)})
    assert weights.kind(official) == "decoder"


@pytest.mark.parametrize("rows", [DECODER, TOKENIZER], ids=["decoder", "tokenizer"])
def test_no_two_rows_say_the_same(rows):
    assert len({row.official for row in rows}) == len(rows)
    assert len({row.ours for row in rows}) == len(rows)


def test_a_row_tells_the_official_shape():
    row = Row("a", "b", "(s h k) d -> d s h k")
    assert row.official_shape((4, 3, 2, 5)) == (30, 4)
    assert row.inverse_axes() == "d s h k -> (s h k) d"
    assert Row("a", "b", "1 1 d -> d").official_shape((7,)) == (1, 1, 7)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "ema.", "state_dict.module."])
def test_wrappers_are_taken_off(tmp_path, official, prefix):
    np.savez(tmp_path / "w.npz", **{prefix + name: array for name, array in official.items()})
    read = weights.read(tmp_path / "w.npz")
    assert set(read) == set(official)
    np.testing.assert_array_equal(read["head.weight"], official["head.weight"])


def test_averaged_weights_are_preferred(tmp_path):
    arrays = {
        "model.head.weight": np.zeros(2),
        "ema.head.weight": np.ones(2),
        "optimizer.state.0.exp_avg": np.zeros(2),
    }
    np.savez(tmp_path / "w.npz", **arrays)
    read = weights.read(tmp_path / "w.npz")
    assert list(read) == ["head.weight"]
    np.testing.assert_array_equal(read["head.weight"], np.ones(2))


@pytest.mark.parametrize("twin", ["module.head.weight", "model.head.weight"])
def test_two_arrays_of_one_name(tmp_path, twin):
    np.savez(tmp_path / "w.npz", **{"head.weight": np.zeros(2), twin: np.ones(2)})
    with pytest.raises(InputError, match=r"two arrays for each of head\.weight"):
        weights.read(tmp_path / "w.npz")


def test_writing_is_whole_or_not_at_all(tmp_path, official):
    # The transpose is not contiguous, which the file format would not notice.
    weights.write(tmp_path / "deep" / "w.safetensors", {"t": np.arange(6.0).reshape(2, 3).T})
    read = weights.read(tmp_path / "deep" / "w.safetensors")
    np.testing.assert_array_equal(read["t"], np.arange(6.0).reshape(2, 3).T)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["w.safetensors"]
    (tmp_path / "plain").touch()
    modes = [(tmp_path / name).stat().st_mode for name in ("plain", "deep/w.safetensors")]
    assert modes[0] == modes[1]
    with pytest.raises(InputError, match=r"\.safetensors"):
        weights.write(tmp_path / "w.npz", official)


@pytest.mark.parametrize("name", ["w.npz", "w.safetensors", "w.bin"])
def test_files_that_cannot_be_read(tmp_path, name):
    with pytest.raises(InputError):
        weights.read(tmp_path / name)
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(InputError, match=name):
        weights.read(tmp_path / name)


def test_a_truncated_file(tmp_path, official):
    weights.write(tmp_path / "w.safetensors", official)
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="fetch or export"):
        weights.read(tmp_path / "w.safetensors")


def test_a_pytorch_file_without_torch(tmp_path, monkeypatch):
    (tmp_path / "w.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"lpd-jax\[torch\]"):
        weights.read(tmp_path / "w.pth")


def test_pickles_are_opened_with_weights_only(tmp_path, monkeypatch):
    """Without torch installed: a stand-in for it that records how it is called."""
    calls = []

    class Tensor(np.ndarray):
        def detach(self):
            return self

        def float(self):
            return self.astype(np.float32)

        def numpy(self):
            return np.asarray(self)

    def load(path, **kwargs):
        calls.append(kwargs)
        head = np.ones(2, np.float16).view(Tensor)
        return {"model": {"module.head.weight": head}, "epoch": 3, "optimizer": {"lr": 0.1}}

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load, Tensor=Tensor))
    (tmp_path / "w.pt").write_bytes(b"")
    read = weights.read(tmp_path / "w.pt")
    assert list(read) == ["head.weight"]
    assert read["head.weight"].dtype == np.float32
    assert calls[0]["weights_only"] is True


class Danger:
    """A class that a plain pickle would happily construct."""


def test_real_pytorch_files(tmp_path, official):
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(array) for name, array in official.items()}
    for zipped in (True, False):
        path = tmp_path / f"w{zipped}.pth"
        torch.save({"model": state, "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
        read = weights.read(path)
        for name, array in official.items():
            np.testing.assert_array_equal(read[name], array, name)
    torch.save({"head.weight": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "w.pt")
    assert weights.read(tmp_path / "w.pt")["head.weight"].dtype == np.float32


def test_pickles_with_more_than_tensors_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"model": {}, "args": Danger()}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="more than tensors"):
        weights.read(tmp_path / "w.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Danger()))
    with pytest.raises(InputError, match=r"plain\.pth"):
        weights.read(tmp_path / "plain.pth")
