"""Any number of networks behind one step, looked at on the way, with one copy of the state."""

import dataclasses
import functools
import json
import logging
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lpd_jax import logs, metrics, parallel, storage
from lpd_jax.checkpoint import Checkpoints
from lpd_jax.data import pipeline
from lpd_jax.data.sources import Arrays
from lpd_jax.errors import InputError
from lpd_jax.metrics import read_rows, without_clock
from lpd_jax.models.decoder import DecoderConfig
from lpd_jax.training import loop as training_loop
from lpd_jax.training.loop import Evaluator, LoopConfig, train
from lpd_jax.training.optimizer import OptimizerConfig
from lpd_jax.training.step import SEEN, Part, ema_decay, prepare
from lpd_jax.training.throughput import Clock, decoder_flops

KEY = jax.random.key(0)
RATE = OptimizerConfig(learning_rate=0.05, schedule="constant", weight_decay=0.0)


def linear(key, sizes=(2, 2)):
    return {"kernel": jax.random.normal(key, sizes), "bias": jnp.zeros(sizes[1])}


def apply(params, x):
    return x @ params["kernel"] + params["bias"]


def fakes(params, key):
    return apply(params, jax.random.normal(key, (8, 2)))


def generator_loss(params, batch, key, place=None, state=None):
    """It sees the discriminator, and moves itself."""
    judged = apply(state.params["discriminator"], fakes(params, key))
    return jnp.mean(jax.nn.softplus(-judged)), {"spread": jnp.std(judged)}


def discriminator_loss(params, batch, key, place=None, state=None):
    real, fake = (apply(params, x) for x in (batch["x"], fakes(state.params["generator"], key)))
    return jnp.mean(jax.nn.softplus(-real) + jax.nn.softplus(fake)), {}


def gan(**discriminator):
    score = functools.partial(linear, sizes=(2, 1))
    return {
        "generator": Part(linear, generator_loss, RATE, 0.9),
        "discriminator": Part(score, discriminator_loss, RATE, **discriminator),
    }


def run(directory, parts, *, steps=6, mesh=None, **more):
    rng = np.random.default_rng(0)
    source = Arrays({"x": rng.normal(size=(40, 2)).astype(np.float32)})
    settings = {"steps": steps, "log_every": 1, "save_every": 2} | more.pop("loop", {})
    return train(
        "test",
        directory,
        parts,
        iter(pipeline.batches(source, batch_size=8, num_threads=0)),
        fields=("x",),
        loop=LoopConfig(**settings),
        seed=0,
        mesh=mesh or parallel.make_mesh(parallel.MeshConfig(), jax.devices()[:1]),
        rules=parallel.RULES,
        **more,
    )


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A GAN trained in one go: its directory and state."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, run(directory, gan())


def test_every_optimizer_moves_its_own_network_by_its_own_loss(one_device_mesh):
    start, step = prepare(gan(), key=KEY, mesh=one_device_mesh, rules=parallel.RULES)
    before, batch = start(KEY), {"x": jnp.arange(16.0).reshape(8, 2)}
    key, expected = jax.random.fold_in(KEY, 0), {}
    for name, loss in (("generator", generator_loss), ("discriminator", discriminator_loss)):
        own = before.params[name]
        grads = jax.grad(lambda p, f=loss: f(p, batch, key, state=before)[0])(own)
        # Adam's first step, whatever the size of the gradient.
        expected[name] = jax.tree.map(lambda p, g: p - 0.05 * jnp.sign(g), own, grads)
    state, found = step(before, batch)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, jax.device_get(state.params), jax.device_get(expected))
    assert set(found) >= {"generator/loss", "generator/spread", "discriminator/grad_norm"}


def test_two_networks_resume_to_the_bit(whole, tmp_path):
    directory, state = whole
    run(tmp_path, gan(), steps=4)
    assert_same(run(tmp_path, gan()), state)
    assert without_clock(read_rows(tmp_path)) == without_clock(read_rows(directory))
    assert set(state.ema) == set(state.params) and state.ema["discriminator"] is None


def test_a_network_can_start_late_and_move_less_often(tmp_path):
    parts = gan(start=2, every=2)
    states = {}
    look = Evaluator("look", 1, lambda step, s: states.update({step: jax.device_get(s)}) or {})
    run(tmp_path, parts, evaluators=[look])
    names = ("discriminator", "generator")
    moved = {
        name: [
            s
            for s in range(1, 6)
            if (states[s].params[name]["kernel"] != states[s + 1].params[name]["kernel"]).any()
        ]
        for name in names
    }
    assert moved == {"discriminator": [2, 4], "generator": [1, 2, 3, 4, 5]}
    assert optax.tree.get(states[6].opt_state["discriminator"][1][0], "count") == 2
    rows = read_rows(tmp_path)
    assert [r["step"] for r in rows if "discriminator/loss" in r] == [2, 4]


def test_what_is_fixed_stays_and_what_follows_the_optimizer_moves_it(one_device_mesh):
    """The bias is fixed, with its average; `after` sees what the loss has left."""

    def loss(params, batch, key, place=None, state=None):
        made = apply(params, batch["x"])
        return jnp.mean(made**2), {SEEN: jnp.mean(batch["x"]) * jnp.ones(2)}

    def after(params, seen, key, state):
        return params | {"count": params["count"] + seen * (state.step + 1)}

    def init(key):
        return linear(key) | {"bias": jnp.full(2, 0.3), "count": jnp.zeros(2)}

    rate = dataclasses.replace(RATE, weight_decay=0.5)
    part = Part(init, loss, rate, 0.9, fixed=("bias", "count"), after=after)
    start, step = prepare({"net": part}, key=KEY, mesh=one_device_mesh, rules=parallel.RULES)
    before = jax.device_get(start(KEY))
    state = start(KEY)
    for _ in range(2):
        state, metrics = step(state, {"x": jnp.full((8, 2), 2.0)})
    assert SEEN not in metrics and "grad_norm" in metrics
    for found in (state.params["net"], state.ema["net"]):
        np.testing.assert_array_equal(found["bias"], before.params["net"]["bias"])
        np.testing.assert_array_equal(found["count"], [6, 6])
        assert (found["kernel"] != before.params["net"]["kernel"]).all()
    sizes = {x.shape for x in jax.tree.leaves(state.opt_state["net"])}
    assert sizes == {(), (2, 2)}  # no moments of what is fixed


def test_losses_are_given_constants_and_what_earlier_losses_left(tmp_path):
    given_to = {}

    def first(params, batch, key, place=None, state=None, given=None):
        given_to["first"] = set(given)
        made = apply(params, batch["x"]) * given["scale"]
        return jnp.mean((made - 1) ** 2), {SEEN: made}

    def second(params, batch, key, place=None, state=None, given=None):
        given_to["second"] = set(given)
        error = jnp.mean((apply(params, batch["x"]) - given["one"]) ** 2)
        return error, {"made": jnp.mean(given["one"]), "scale": jnp.mean(given["scale"])}

    parts = {"one": Part(linear, first, RATE), "two": Part(linear, second, RATE, start=2)}
    run(tmp_path, parts, constants={"scale": np.float32([2.0, 4.0])}, steps=3)
    assert given_to == {"first": {"scale"}, "second": {"scale", "one"}}
    rows = read_rows(tmp_path)
    assert rows[2]["two/scale"] == 3 and rows[2]["two/made"] != 0
    assert not any("seen" in name for row in rows for name in row)


def test_evaluators_do_not_change_what_is_learned(whole, tmp_path):
    directory, state = whole
    square = np.zeros((2, 2, 3), np.uint8)
    look = Evaluator(
        "e", 2, lambda step, s: {"norm": float(optax.tree.norm(s.params)), "p": square}
    )
    off = Evaluator("off", 0, lambda step, s: 1 / 0)
    run(tmp_path, gan(), steps=3, evaluators=[look, off])
    assert_same(run(tmp_path, gan(), evaluators=[look, off]), state)
    rows = read_rows(tmp_path)
    assert [row["step"] for row in rows if "norm" in row] == [2, 4, 6]
    steps = [row for row in rows if "norm" not in row]
    assert without_clock(steps) == without_clock(read_rows(directory))


def test_a_loss_that_is_nan_from_the_start_says_so(tmp_path):
    def nan(params, batch, key, place=None, state=None):
        return jnp.nan * params["bias"].sum(), {}

    with pytest.raises(InputError, match="loss is nan at step 0, before the first checkpoint"):
        run(tmp_path, {"net": Part(linear, nan, RATE)})


def live():
    return sum(x.nbytes for x in jax.live_arrays())


def test_a_state_is_restored_or_given_without_another_beside_it(tmp_path, monkeypatch):
    """While it is read, nothing of that size is in memory; before, a whole new state was."""

    def loss(params, batch, key, place=None, state=None):
        return jnp.mean(apply(params, batch["x"]) ** 2), {}

    size = 4 * (2 * 50_000 + 50_000)
    init = functools.partial(linear, sizes=(2, 50_000))
    before, seen = live(), []

    def given(abstract):
        seen.append(live() - before)
        return jax.tree.map(lambda x: jax.device_put(np.ones(x.shape), x.sharding), abstract)

    run(tmp_path, {"net": Part(init, loss, RATE, 0.9, initial=given)}, steps=2)
    restore = Checkpoints.restore
    monkeypatch.setattr(
        Checkpoints, "restore", lambda *a: seen.append(live() - before) or restore(*a)
    )
    state = run(tmp_path, {"net": Part(init, loss, RATE, 0.9, initial=given)}, steps=3)
    assert len(seen) == 2 and max(seen) < size / 10
    assert live() - before > 4 * size and int(state.step) == 3


def test_the_average_soon_forgets_where_it_began():
    decays = np.array([ema_decay(0.9999, jnp.int32(n)) for n in range(800)])
    np.testing.assert_allclose(decays[:2], [1 / 10, 2 / 11], rtol=1e-6)
    assert np.prod(decays) < 1e-6 < 0.92 < 0.9999**800  # share of the initial weights
    assert ema_decay(0.5, 100) == 0.5


def test_rates_are_measured_and_the_compiler_is_not(tmp_path):
    run(tmp_path, gan(), loop={"log_every": 2}, flops=1e3)
    first, *rows, last = read_rows(tmp_path)
    assert [first["step"], last["step"]] == [0, 5]
    assert "images_per_second" not in first  # it would be the compiler's time
    assert all(row["images_per_second"] > 0 and 0 <= row["data_wait"] <= 1 for row in rows)
    assert all("mfu" not in row for row in rows)  # a CPU's peak is not known


def test_mfu_is_the_share_of_the_peak(monkeypatch):
    class Device:
        device_kind = "TPU v4"

    now = iter((0.0, 0.0, 2.0, 2.0))
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    clock = Clock([Device()] * 2, flops=275e12)
    clock.read()
    clock.count(2)
    next(now)
    assert clock.read() == {"images_per_second": 1.0, "data_wait": 0.0, "mfu": 0.5}


def test_flops_are_those_of_the_products():
    config = DecoderConfig(grid=(1, 2), vocab_size=8, num_classes=2, width=4, depth=1, heads=2)
    # 4 places x (qkv 48 + proj 16 + mlp 128) + scores and values (4 + 8) x 2 x 4 + head 2 x 32
    assert decoder_flops(config) == 3 * 2 * (4 * 192 + 12 * 8 + 2 * 32)


def test_a_trace_of_the_profiler_is_left_when_asked_for(tmp_path):
    run(tmp_path, gan(), steps=3, loop={"profile_steps": (1, 2)})
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(*_, **__):
        with open("/dev/full", "w") as file:
            file.write("x")

    run(tmp_path, gan(), steps=2)
    monkeypatch.setattr(metrics.Writer, "write", full)
    with pytest.raises(
        InputError, match=r"no space is left for .* goes on from the last checkpoint"
    ):
        run(tmp_path, gan(), steps=4)
    with Checkpoints(tmp_path / "checkpoints") as saved:
        assert saved.latest == 2


def test_a_directory_is_worked_in_by_one_process(tmp_path):
    def refused():
        refusal = pytest.raises(InputError, match=r"another process is at work in .*decoder")
        with refusal, storage.locked(tmp_path / "decoder"):
            pass

    with storage.locked(tmp_path / "decoder"):
        refused()
    hold = (
        "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.flock(file, fcntl.LOCK_EX);"
        "print(1, flush=True); input()"
    )
    lock = str(tmp_path / ".decoder.lock")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", hold, lock], **pipes) as other:
        other.stdout.readline()
        refused()
        other.kill()
    with storage.locked(tmp_path / "decoder"):
        pass


def test_messages_appear_above_progress_bars(capsys):
    logger = logging.getLogger("lpd_jax")
    before = logger.handlers, logger.level, logger.propagate
    try:
        logs.setup()
        with training_loop._bar("train", 0, 4) as bar:
            bar.refresh()
            logging.getLogger("lpd_jax.any").info("saving step %d", 3)
    finally:
        logger.handlers, logger.level, logger.propagate = before
    line = next(
        x for x in capsys.readouterr().err.replace("\r", "\n").splitlines() if "saving" in x
    )
    assert line.endswith(" saving step 3") and len(line) == len("08:15:02 saving step 3")


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (LoopConfig, {"steps": 0}),
        (LoopConfig, {"steps": 5, "save_every": 0}),
        (LoopConfig, {"steps": 5, "log_every": 0}),
        (LoopConfig, {"steps": 5, "keep": 0}),
        (LoopConfig, {"steps": 5, "profile_steps": (3, 3)}),
        (OptimizerConfig, {"learning_rate": float("nan")}),
        (OptimizerConfig, {"clip_norm": -1.0}),
        (OptimizerConfig, {"b2": 1.0}),
    ],
    ids=str,
)
def test_numbers_that_cannot_be_are_refused_by_name(kind, wrong):
    with pytest.raises(InputError, match=list(wrong)[-1]):
        kind(**wrong)


def test_wandb_is_a_sink_where_it_is_installed(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"pip install -e '\.\[wandb\]'"):
        metrics.Writer(tmp_path, wandb="lpd")
    rows = []

    class Fake:
        @classmethod
        def init(cls, **settings):
            rows.append(settings["project"])
            return cls()

        def log(self, row, step):
            rows.append((step, row))

        def finish(self):
            rows.append("end")

    monkeypatch.setitem(sys.modules, "wandb", Fake)
    with metrics.Writer(tmp_path, wandb="lpd") as writer:
        writer.write(3, {"loss": 1.0})
    assert rows == ["lpd", (3, {"loss": 1.0}), "end"]
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 3, "loss": 1.0}
