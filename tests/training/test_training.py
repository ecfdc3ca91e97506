"""Training steps and the loop: what is learned, what is saved, what is resumed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lpd_jax import parallel
from lpd_jax.checkpoint import Checkpoints
from lpd_jax.data import pipeline
from lpd_jax.data.sources import Arrays
from lpd_jax.errors import InputError
from lpd_jax.generation.groups import step_of
from lpd_jax.metrics import read_rows, without_clock
from lpd_jax.models.initial import init_decoder
from lpd_jax.training.loop import LoopConfig, train
from lpd_jax.training.objectives import decoder_loss
from lpd_jax.training.optimizer import OptimizerConfig, decays, learning_rate
from lpd_jax.training.reconstruction import tokenizer_loss
from lpd_jax.training.step import Part

SIZES = [(1,) * 24, (1, 2, 3, 5, 6, 7), (4, 20)]
STEPS_OF = np.stack([step_of(sizes) for sizes in SIZES])


@pytest.fixture(scope="module")
def codes():
    rng = np.random.default_rng(0)
    return Arrays(
        {
            "codes": rng.integers(0, 32, (40, 24), dtype=np.int32),
            "label": rng.integers(0, 5, 40, dtype=np.int32),
        }
    )


def run(decoder, source, directory, mesh, *, steps, save_every=2, rate=1e-2, ema=0.0, **more):
    """Trains a decoder in `directory`, or goes on training it."""
    part = Part(
        lambda key: init_decoder(decoder, key),
        decoder_loss(decoder, STEPS_OF, label_drop=0.1),
        OptimizerConfig(learning_rate=rate, steps=100, schedule="constant"),
        ema,
    )
    return train(
        "test",
        directory,
        {"decoder": part},
        iter(pipeline.batches(source, batch_size=8, seed=1)),
        fields=("codes", "label"),
        loop=LoopConfig(steps=steps, log_every=1, save_every=save_every),
        seed=0,
        mesh=mesh,
        rules=parallel.RULES,
        **more,
    )


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_resuming_is_exact(decoder, codes, tmp_path, one_device_mesh):
    whole = run(decoder, codes, tmp_path / "whole", one_device_mesh, steps=6)
    run(decoder, codes, tmp_path / "parts", one_device_mesh, steps=4)
    parts = run(decoder, codes, tmp_path / "parts", one_device_mesh, steps=6)
    assert_same(whole, parts)
    rows = [without_clock(read_rows(tmp_path / name)) for name in ("whole", "parts")]
    assert rows[0] == rows[1]
    assert [row["step"] for row in read_rows(tmp_path / "parts")] == list(range(6))


def test_loss_curves_do_not_depend_on_the_mesh(decoder, codes, tmp_path):
    def losses(name, *axes):
        mesh = parallel.make_mesh(parallel.MeshConfig(*axes), jax.devices()[: np.prod(axes)])
        with jax.default_matmul_precision("highest"):
            run(decoder, codes, tmp_path / name, mesh, steps=20, save_every=20, rate=1e-3)
        return [row["loss"] for row in read_rows(tmp_path / name)]

    alone = losses("1", 1, 1, 1)
    np.testing.assert_allclose(losses("8", 8, 1, 1), alone, rtol=1e-5)
    np.testing.assert_allclose(losses("4x2", 1, 4, 2), alone, rtol=1e-5)


def test_a_checkpoint_is_restored_on_another_mesh(decoder, codes, tmp_path, one_device_mesh):
    eight = parallel.make_mesh(parallel.MeshConfig(2, 2, 2))
    before = run(decoder, codes, tmp_path, eight, steps=2)
    after = run(decoder, codes, tmp_path, one_device_mesh, steps=2)
    assert_same(before, after)
    assert len(jax.tree.leaves(after.params)[0].sharding.device_set) == 1


def test_a_loss_that_is_not_finite_stops_the_run(decoder, codes, tmp_path, one_device_mesh):
    run(decoder, codes, tmp_path, one_device_mesh, steps=2)
    with pytest.raises(InputError, match="last good checkpoint is step 2"):
        run(decoder, codes, tmp_path, one_device_mesh, steps=9, save_every=4, rate=1e30)
    with Checkpoints(tmp_path / "checkpoints") as saved:
        assert saved.latest == 2


def test_a_truncated_checkpoint_is_refused(decoder, codes, tmp_path, one_device_mesh):
    run(decoder, codes, tmp_path, one_device_mesh, steps=2)
    for file in (tmp_path / "checkpoints" / "2" / "state").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match="cannot be read"):
        run(decoder, codes, tmp_path, one_device_mesh, steps=4)


def test_a_decoder_learns_what_it_sees(decoder, tmp_path, one_device_mesh):
    """One image, shown again and again, is known by heart in any order."""
    image = {"codes": np.tile(np.arange(24) % 32, (8, 1)), "label": np.zeros(8, np.int32)}
    run(decoder, Arrays(image), tmp_path, one_device_mesh, steps=80, save_every=80, rate=3e-3)
    losses = [row["loss"] for row in read_rows(tmp_path)]
    assert losses[0] > 3 and losses[-1] < 0.3


def test_the_average_follows_the_parameters(decoder, codes, tmp_path, one_device_mesh):
    state = run(decoder, codes, tmp_path, one_device_mesh, steps=3, ema=0.5)
    difference = jax.tree.map(jnp.subtract, state.ema, state.params)
    assert 0 < optax.tree.norm(difference) < optax.tree.norm(state.params)


def test_every_example_draws_its_own_order_schedule_and_label(decoder, decoder_params, codes):
    """Two steps differ, the same step does not, and an image's draw is its place in the batch."""
    batch = {name: jnp.asarray(array[:8]) for name, array in codes.arrays.items()}
    loss = jax.jit(decoder_loss(decoder, STEPS_OF, label_drop=0.5))
    value = functools.partial(loss, decoder_params, batch)
    assert value(jax.random.key(0))[0] == value(jax.random.key(0))[0]
    assert value(jax.random.key(0))[0] != value(jax.random.key(1))[0]


def test_label_drop_trains_the_null_class(decoder, decoder_params, codes):
    batch = {name: jnp.asarray(array[:8]) for name, array in codes.arrays.items()}

    @functools.partial(jax.jit, static_argnums=0)
    def gradient(label_drop):
        loss = decoder_loss(decoder, STEPS_OF, label_drop)
        return jax.grad(lambda p: loss(p, batch, jax.random.key(0))[0])(decoder_params)

    kept, dropped = gradient(0.0), gradient(1.0)
    assert not kept["null_class"].any() and kept["class_embed"]["embedding"].any()
    assert dropped["null_class"].any() and not dropped["class_embed"]["embedding"].any()


def test_the_tokenizer_loss_reaches_every_parameter(tokenizer, tokenizer_params):
    images = jax.random.randint(jax.random.key(0), (2, 16, 24, 3), 0, 256).astype(jnp.uint8)
    loss = tokenizer_loss(tokenizer)
    grads, metrics = jax.jit(jax.grad(lambda p: loss(p, {"image": images}, None), has_aux=True))(
        tokenizer_params
    )
    still = [p for p, g in jax.tree_util.tree_leaves_with_path(grads) if not np.any(g)]
    assert not still
    names = {"mse", "vq", "commitment", "entropy", "codes_in_batch", "perplexity"}
    assert set(metrics) == names


def test_the_tokenizer_gradient_does_not_depend_on_the_mesh(tokenizer, tokenizer_params):
    # Not a curve: which code is nearest depends on the last bit, so that curves part after a while.
    # Without the entropies, which divide distances, and their rounding, by 0.01.
    tokenizer = tokenizer.clone(config=dataclasses.replace(tokenizer.config, entropy=0.0))
    images = jax.random.randint(jax.random.key(0), (8, 16, 24, 3), 0, 256).astype(jnp.uint8)
    gradient = jax.jit(jax.value_and_grad(tokenizer_loss(tokenizer), has_aux=True))

    def on(*axes):
        mesh = parallel.make_mesh(parallel.MeshConfig(*axes), jax.devices()[: np.prod(axes)])
        params = jax.device_put(tokenizer_params, parallel.replicated(mesh))
        with parallel.use(mesh), jax.default_matmul_precision("highest"):
            batch = parallel.put_batch({"image": np.asarray(images)}, mesh)
            return jax.device_get(gradient(params, batch, None))

    (loss, metrics), grads = on(1, 1, 1)
    (spread_loss, spread_metrics), spread_grads = on(8, 1, 1)
    np.testing.assert_allclose(spread_loss, loss, rtol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), spread_metrics, metrics)
    scale = optax.tree.norm(grads)
    off = optax.tree.norm(jax.tree.map(np.subtract, spread_grads, grads))
    assert scale > 0 and off / scale < 1e-5


def test_schedules_at_their_corners():
    config = OptimizerConfig(
        learning_rate=8e-4, min_learning_rate=1e-5, steps=450, warmup_steps=50, decay_start=400
    )
    rate = learning_rate(config)
    corners = rate(jnp.array([0, 25, 50, 400, 450]))
    np.testing.assert_allclose(corners, [0, 4e-4, 8e-4, 8e-4, 1e-5], rtol=1e-5)


def test_biases_and_norm_scales_do_not_decay(decoder_params):
    mask = decays(decoder_params)
    assert mask["pos_embed"] and mask["query"] and mask["null_class"]
    assert mask["blocks"]["qkv"]["kernel"] and not mask["blocks"]["qkv"]["bias"]
    assert not mask["norm"]["scale"] and not mask["blocks"]["norm1"]["bias"]


@pytest.mark.parametrize(
    "wrong",
    [{"schedule": "linear"}, {"steps": 10, "warmup_steps": 10}, {"steps": 10, "decay_start": 12}],
    ids=str,
)
def test_impossible_optimizers_are_refused(wrong):
    with pytest.raises(InputError):
        OptimizerConfig(**wrong)
