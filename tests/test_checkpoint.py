"""Model directories: whole or not at all, and clear about what is wrong with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lpd_jax import checkpoint, parallel
from lpd_jax.errors import InputError

ABOUT = {"kind": "decoder", "config": {"width": 3}}


@pytest.fixture
def params():
    return {"a": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "b": jnp.ones(4)}


@pytest.fixture
def load(one_device_mesh):
    def load(path, like):
        abstract = jax.eval_shape(lambda: like)
        place = parallel.replicated(one_device_mesh)
        return checkpoint.load_params(path, abstract, jax.tree.map(lambda _: place, abstract))

    return load


def test_what_was_saved_is_loaded(tmp_path, params, load):
    checkpoint.save_model(tmp_path / "model", ABOUT, params)
    assert checkpoint.read_model_json(tmp_path / "model", "decoder") == ABOUT
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "model", params), params)


def test_saving_again_replaces_and_leaves_nothing_behind(tmp_path, params, load):
    checkpoint.save_model(tmp_path / "model", ABOUT, params)
    newer = jax.tree.map(lambda x: x + 1, params)
    checkpoint.save_model(tmp_path / "model", ABOUT, newer)
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "model", params), newer)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_damage_is_named(tmp_path, params, load):
    path = tmp_path / "model"
    checkpoint.save_model(path, ABOUT, params)
    for file in (path / "params").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[:10])
    with pytest.raises(InputError, match="truncated"):
        load(path, params)
    (path / "model.json").write_text('{"kind": "deco')
    with pytest.raises(InputError, match="damaged"):
        checkpoint.read_model_json(path, "decoder")


def test_another_shape_is_refused(tmp_path, params, load):
    checkpoint.save_model(tmp_path / "model", ABOUT, params)
    with pytest.raises(InputError, match="another model"):
        load(tmp_path / "model", params | {"c": jnp.ones(2)})


def test_absent_and_other_kinds_are_refused(tmp_path, params):
    with pytest.raises(InputError, match="no decoder"):
        checkpoint.read_model_json(tmp_path / "nowhere", "decoder")
    checkpoint.save_model(tmp_path / "model", ABOUT, params)
    with pytest.raises(InputError, match="holds a decoder, not a tokenizer"):
        checkpoint.read_model_json(tmp_path / "model", "tokenizer")


def test_fingerprints_change_with_anything(params):
    print_ = checkpoint.fingerprint(ABOUT, params)
    assert print_ == checkpoint.fingerprint(dict(ABOUT), jax.tree.map(np.asarray, params))
    assert print_ != checkpoint.fingerprint(ABOUT | {"x": 1}, params)
    assert print_ != checkpoint.fingerprint(ABOUT, params | {"b": jnp.ones(4).at[0].set(2)})


def test_models_are_written_uncompressed_and_within_the_memory_given(tmp_path, params, monkeypatch):
    active, enter = [], checkpoint.ocp.Context.__enter__
    record = lambda context: (active.append(context), enter(context))[1]  # noqa: E731
    monkeypatch.setattr(checkpoint.ocp.Context, "__enter__", record)
    checkpoint.save_model(tmp_path / "model", ABOUT, params, 64)
    # The innermost is the one that counts.
    assert active[-1].memory.write_concurrent_bytes == 64
    assert not active[-1].array.saving.use_compression
