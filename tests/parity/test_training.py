"""Learning rates, decay groups and optimizer steps against the official training code."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lpd_jax import weights
from lpd_jax.generation.groups import step_of
from lpd_jax.models.decoder import Decoder
from lpd_jax.training.optimizer import OptimizerConfig, decays, learning_rate, make_optimizer

SCHEDULES = ("constant", "cosine", "constant+cosine")

# The settings of `steps/*`, which stand in the reference's README only.
STEPS = OptimizerConfig(
    learning_rate=2e-3,
    schedule="constant",
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=0.02,
    clip_norm=1.0,
)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_learning_rate(reference, close, schedule):
    arrays = reference("lr_schedule.npz")
    cases = {key.split("/")[0] for key in arrays.under("c") if key.endswith(f"/{schedule}")}
    assert cases
    for case in sorted(f"c{number}" for number in cases):
        config = OptimizerConfig(
            learning_rate=float(arrays[f"{case}/arg_lr"]),
            min_learning_rate=float(arrays[f"{case}/arg_min_lr"]),
            warmup_steps=float(arrays[f"{case}/arg_warmup_epochs"]),
            steps=float(arrays[f"{case}/arg_epochs"]),
            decay_start=float(arrays[f"{case}/arg_lr_decay_start_epoch"]),
            schedule=schedule,
        )
        ours = learning_rate(config)(arrays[f"{case}/epochs"])
        close(ours, arrays[f"{case}/{schedule}"], case)


def decoder(name, reference_configs, directory):
    stated = reference_configs("decoder_depth").get(name)
    path = directory / f"{name}.weights.npz"
    if stated is None or not path.is_file():
        pytest.skip(f"{path.name} is not in {directory}")
    config, params = weights.decoder_from_official(
        weights.read(path), heads=stated["decoder_num_heads"]
    )
    return dataclasses.replace(config, norm_eps=stated["layer_norm_eps"], dropout=0.0), params


def test_decay_groups(decoder_name, reference_configs, reference_directory):
    path = reference_directory / "weight_decay_groups.json"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in {reference_directory}")
    groups = json.loads(path.read_text())
    theirs = {name: group == "decay" for group in groups for name in groups[group]["params"]}
    _, params = decoder(decoder_name, reference_configs, reference_directory)
    flags = jax.tree.map(lambda flag, leaf: np.full(leaf.shape, flag), decays(params), params)
    ours = {name: bool(f.all()) for name, f in weights.decoder_to_official(flags).items()}
    if ours.keys() != theirs.keys():
        pytest.skip(f"{path.name} is about another model than {decoder_name}")
    assert ours == theirs


def test_optimizer_steps(decoder_name, reference, reference_configs, reference_directory, close):
    arrays = reference(f"{decoder_name}.npz")
    losses, norms = arrays["steps/loss"], arrays["steps/grad_norm"]
    config, params = decoder(decoder_name, reference_configs, reference_directory)
    schedules = []
    while f"g{len(schedules)}/group_sizes" in arrays:
        schedules.append(step_of(tuple(arrays[f"g{len(schedules)}/group_sizes"].tolist())))
    tokens, labels, orders, target = (
        jnp.asarray(arrays[key], jnp.int32) for key in ("tokens", "labels", "orders", "target")
    )
    model, optimizer = Decoder(config), make_optimizer(STEPS)

    def loss_fn(params, steps):
        logits = model.apply({"params": params}, tokens, labels, orders, steps)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, target).mean()
        return loss, logits

    @jax.jit
    def step(params, state, steps):
        (loss, _), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params, steps)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss, optax.tree.norm(gradients)

    state = optimizer.init(params)
    for i, (their_loss, their_norm) in enumerate(zip(losses, norms, strict=True)):
        params, state, loss, norm = step(params, state, schedules[i % len(schedules)])
        close(loss, their_loss, f"loss of step {i}")
        close(norm, their_norm, f"gradient norm of step {i}")
    loss, logits = loss_fn(params, schedules[0])
    close(loss, arrays["steps/final_loss"], "final loss")
    close(logits, arrays["steps/final_logits"], "final logits")
    official = weights.decoder_to_official(params)
    for name, value in arrays.under("steps/final/").items():
        close(official[name], value, name)
