"""Workdirs on a local disk and in a bucket, which an emulator on this machine stands in for."""

import dataclasses
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gcp_storage_emulator.server import create_server
from PIL import Image

from lpd_jax import checkpoint, metrics, parallel, storage
from lpd_jax.configs import digits
from lpd_jax.data import codes as code_dataset
from lpd_jax.data.folder import Folder
from lpd_jax.errors import InputError
from lpd_jax.evaluation.report import write_report
from lpd_jax.generation.schedule import read_orders, write_orders
from lpd_jax.sampler import Sampler
from lpd_jax.tasks import ablate, build, convert, export, train
from lpd_jax.tasks.workdir import claim, read_seconds, timed, write_json
from lpd_jax.viz import images, plots

REFERENCE = Path(__file__).parent / "reference"
SPEC = code_dataset.CodesSpec(
    tokenizer={"fingerprint": "of-both"},
    grid=(4, 4),
    codebook_size=32,
    views=1,
    class_names=("auk", "wren", "owl"),
    split_sizes={"train": 40, "heldout": 16},
    shard_size=16,
)


@pytest.fixture(scope="module")
def emulator():
    """gs://bucket, with gcsfs and TensorStore pointed at it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    with pytest.MonkeyPatch.context() as patch, server:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://127.0.0.1:{port}")
        # Without it TensorStore looks for credentials on the network.
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "none")
        # What gcsfs asks Google about the kind of a bucket, the emulator cannot answer.
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        yield


@pytest.fixture
def bucket(emulator, request):
    """A directory in the bucket for one test."""
    return storage.path(f"gs://bucket/{request.node.name}")


@pytest.fixture(params=["local", "bucket"])
def place(request, tmp_path):
    """A directory of either kind."""
    return tmp_path / "run" if request.param == "local" else request.getfixturevalue("bucket")


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The directory of temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def write_codes(path, spec=SPEC):
    rng = np.random.default_rng(0)
    written = {split: [] for split in spec.split_sizes}
    for shard in code_dataset.missing_shards(path, spec):
        size = shard.stop - shard.start
        codes = rng.integers(0, spec.codebook_size, (size, *spec.shape))
        code_dataset.write_shard(path, spec, shard, codes, rng.integers(0, 3, size))
        written[shard.split].append(codes)
    code_dataset.finalize(path, spec)
    return {split: np.concatenate(parts) for split, parts in written.items()}


def names(directory):
    return sorted(file.name for file in directory.iterdir())


def test_a_file_is_written_whole_or_not_at_all(place, temporary):
    file = place / "deep/a.b.json"
    storage.write_text(file, "old")
    with pytest.raises(KeyError), storage.whole(file) as partial:
        assert partial.suffix == ".json"
        partial.write_text("half")
        raise KeyError
    assert file.read_text() == "old"
    storage.write_text(file, "new")
    assert file.read_text() == "new"
    assert names(file.parent) == ["a.b.json"] and names(temporary) == []


def test_a_writer_that_is_killed_leaves_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    code = (
        "import os, signal, sys\n"
        "from lpd_jax import storage\n"
        "with storage.whole(sys.argv[1]) as file:\n"
        "    file.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "a.txt"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == -9
    assert (tmp_path / "a.txt").read_text() == "old"


def test_what_needs_a_local_file_gets_one(place, temporary):
    with storage.whole(place / "a.npz") as file:
        np.savez(file, a=np.arange(3))
    with storage.local(place / "a.npz") as file:
        np.testing.assert_array_equal(np.load(file)["a"], np.arange(3))
        assert storage.size(place / "a.npz") == file.stat().st_size
    assert names(temporary) == []
    with pytest.raises(FileNotFoundError), storage.local(place / "none") as file:
        file.read_bytes()


def test_files_that_grow_are_uploaded_when_they_have_grown(place, temporary, monkeypatch):
    growing, uploaded = storage.Growing(place, every=0.0), []
    put = storage.put
    monkeypatch.setattr(storage, "put", lambda *a: (uploaded.append(a[0].name), put(*a)))
    bucket = storage.in_bucket(place)
    assert growing.due() == bucket and not storage.Growing(place, every=1e9).due()
    storage.write_text(growing.local / "a", "1\n")
    storage.write_text(growing.local / "deep/b", "1\n")
    growing.upload()
    with (growing.local / "deep/b").open("a") as file:
        file.write("2\n")
    growing.close()
    assert ((place / "a").read_text(), (place / "deep/b").read_text()) == ("1\n", "1\n2\n")
    assert sorted(uploaded) == (["a", "b", "b"] if bucket else [])
    assert names(temporary) == []


@pytest.mark.parametrize("where", ["s3://bucket/run", "https://host/run", "gs://", "gs:///run"])
def test_other_places_are_refused(where):
    with pytest.raises(InputError, match="neither a local path nor in a bucket"):
        storage.path(where)


def test_only_local_paths_depend_on_the_home_and_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert storage.path("~/run") == Path("/home/me/run")
    assert storage.absolute("run") == tmp_path / "run"
    assert str(storage.absolute("gs://bucket/~/run")) == "gs://bucket/~/run"


def test_a_bucket_that_cannot_be_reached_is_named(bucket, monkeypatch):
    storage.check(bucket)

    def refuse(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(type(bucket), "exists", refuse)
    with pytest.raises(InputError, match=r"cannot be reached .ConnectionError: no route to host"):
        storage.check(bucket)


def test_a_claim_holds_for_its_settings(place):
    assert claim(place / "x", {"a": 1}) == claim(place / "x", {"a": 1}) == place / "x"
    write_json(place / "x/figures.json", {"loss": 1.0})
    with pytest.raises(InputError):
        claim(place / "x", {"a": 2})
    with timed(place, "train"):
        pass
    assert list(read_seconds(place)) == ["train"]


def test_a_bucket_that_cannot_be_written_is_named(emulator):
    with pytest.raises(InputError, match="gs://absent/x cannot be written"):
        claim(storage.path("gs://absent/x"), {"a": 1})


def test_codes_are_written_shard_by_shard_and_read_whole(bucket, temporary):
    written = write_codes(bucket)
    for split, codes in written.items():
        np.testing.assert_array_equal(code_dataset.load_codes(bucket, split)["codes"], codes)
    assert code_dataset.missing_shards(bucket, SPEC) == []
    lost = SPEC.shards()[1]
    storage.write_text(bucket / lost.filename, "truncated")
    with pytest.raises(InputError, match="missing or truncated"):
        code_dataset.load_codes(bucket, lost.split)
    (bucket / lost.filename).unlink()
    assert code_dataset.missing_shards(bucket, SPEC) == [lost]
    assert names(temporary) == []


def test_images_are_not_read_from_a_bucket():
    with pytest.raises(InputError, match="where images are read from"):
        Folder("gs://bucket/flowers", "train", 32)


def test_metrics_go_on_from_the_step_of_the_checkpoint(bucket):
    with metrics.Writer(bucket) as writer:
        for step in range(4):
            writer.write(step, {"loss": 4.0 - step})
        writer.flush()
        assert [row["step"] for row in metrics.read_rows(bucket)] == [0, 1, 2, 3]
    (events,) = (bucket / "tensorboard").iterdir()
    assert events.read_bytes().count(b"loss") == 4
    with metrics.Writer(bucket, start=2) as writer:
        writer.write(2, {"loss": 9.0})
    assert [row["loss"] for row in metrics.read_rows(bucket)] == [4.0, 3.0, 9.0]


def test_a_run_outlives_a_bucket_that_fails_for_a_while(bucket, monkeypatch, caplog):
    def refuse(*_):
        raise OSError("no route to host")

    monkeypatch.setattr(storage.Growing.__init__, "__defaults__", (0.0,))
    with metrics.Writer(bucket) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(storage, "put", refuse)
            writer.write(0, {"loss": 1.0})
        assert "no route to host" in caplog.text
    assert metrics.read_rows(bucket) == [{"step": 0, "loss": 1.0}]


def test_pictures_orders_and_reports(bucket):
    image = images.grid(np.zeros((2, 8, 8, 3), np.uint8), 2)
    images.save_png(image, bucket / "a.png")
    images.save_gif([image, image], bucket / "a.gif")
    rows = [{"step": step, "loss": 1.0} for step in range(3)]
    plots.save(plots.curves(rows, ["loss"]), bucket / "curves.png")
    for name, kind in (("a.png", "PNG"), ("a.gif", "GIF"), ("curves.png", "PNG")):
        with storage.local(bucket / name) as file, Image.open(file) as read:
            assert read.format == kind
    orders = np.stack([np.arange(4), np.arange(4)[::-1]])
    write_orders(bucket / "orders.json", orders)
    np.testing.assert_array_equal(read_orders(bucket / "orders.json"), orders)
    page = write_report(bucket / "report", {"loss": 1.0}, {"A picture": bucket / "a.png"})
    assert "data:image/png;base64," in page.read_text()
    assert "](../a.png)" in (bucket / "report/report.md").read_text()


def test_a_model_is_whole_once_its_description_is_there(bucket, one_device_mesh, monkeypatch):
    params = {"a": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "b": jnp.ones(4)}
    everywhere = jax.tree.map(lambda _: parallel.replicated(one_device_mesh), params)
    for k in range(2):
        newer = jax.tree.map(lambda x, k=k: x + k, params)
        checkpoint.save_model(bucket / "model", {"kind": "decoder", "k": k}, newer)
        assert checkpoint.read_model_json(bucket / "model", "decoder")["k"] == k
        abstract = jax.eval_shape(lambda: params)
        loaded = checkpoint.load_params(bucket / "model", abstract, everywhere)
        jax.tree.map(np.testing.assert_array_equal, loaded, newer)

    def die(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.ocp, "save", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_model(bucket / "model", {"kind": "decoder"}, params)
    with pytest.raises(InputError, match=r"no model\.json"):
        checkpoint.read_model_json(bucket / "model", "decoder")


def test_a_directory_is_written_whole_or_not_at_all(place, temporary):
    final, bucket = place / "a", storage.in_bucket(place)
    with pytest.raises(KeyError), storage.whole_directory(final, "b") as partial:
        (partial / "b").write_text("half")
        raise KeyError
    assert not final.exists() and names(temporary) == []
    with storage.whole_directory(final, "b") as partial:
        for name in "cab":
            (partial / name).write_text(name)
    assert names(final) == ["a", "b", "c"] and names(temporary) == []
    if not bucket:
        assert names(place) == ["a"]
        with pytest.raises(OSError, match="not empty"), storage.whole_directory(final, "b"):
            pass
        assert names(place) == ["a"] and names(final) == ["a", "b", "c"]


def test_an_export_is_whole_once_its_settings_are_there(bucket, monkeypatch):
    final, put = bucket / "export", storage.put

    def fail(file, where):
        if file.name == export.SETTINGS:
            raise OSError(28, "No space left on device")
        put(file, where)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(storage, "put", fail)
        with storage.whole_directory(final, export.SETTINGS) as partial:
            for name in export.FILES:
                (partial / name).write_text('{"a": 1}')
    assert names(final) == sorted(set(export.FILES) - {export.SETTINGS})
    assert not export._is_there(final, {"a": 1})
    with storage.whole_directory(final, export.SETTINGS) as partial:
        for name in export.FILES:
            (partial / name).write_text('{"a": 1}')
    assert export._is_there(final, {"a": 1})
    with pytest.raises(InputError, match="exists and is not the export"):
        export._is_there(final, {"a": 2})


@pytest.mark.parametrize("kind", ["decoder", "tokenizer"])
def test_official_weights_come_from_a_bucket_and_go_there(bucket, kind, monkeypatch):
    file = bucket / "weights" / f"{kind}_tiny.npz"
    with storage.whole(file) as local:
        local.write_bytes(b"weights")
    with convert._official(str(file)) as local:
        assert (local.name, local.read_bytes()) == (file.name, b"weights")
    about = {"kind": kind, "config": {"grid": [4, 6]}, "class_names": ["a", "b"]}
    given = {"a": np.arange(3.0)}, about, bucket / "run", "mit"
    convert._export(str(bucket / "back.safetensors"), *given)
    assert (bucket / "back.md").read_text().startswith("---\nlicense: mit\n")
    with storage.local(bucket / "back.safetensors") as local:
        np.testing.assert_array_equal(convert.weights.read(local)["a"], np.arange(3.0))
    with pytest.raises(InputError, match="no weight file gs://"), convert._official(f"{file}x"):
        pass


def test_training_goes_on_in_a_bucket_and_its_models_are_loaded(
    bucket, tokenizer, tokenizer_params, monkeypatch
):
    """Codes, checkpoints, metrics and models: one run that dies half-way."""
    mesh = parallel.make_mesh(parallel.MeshConfig(data=1, fsdp=2), jax.devices()[:2])
    monkeypatch.setattr(build, "mesh", lambda _: mesh)
    config = digits.get_config()
    config.decoder.update(width=32, depth=1, heads=2, unroll=1)
    config.train.update(steps=4, batch_size=16, warmup_steps=0, decay_start=3, save_every=2)
    config.train.update(log_every=1, schedules=(4,))
    write_codes(bucket / "codes")
    sizes = dataclasses.asdict(tokenizer.config)
    about = {"kind": "tokenizer", "config": sizes, "fingerprint": "of-both"}
    checkpoint.save_model(bucket / "tokenizer/model", about, tokenizer_params)

    write = metrics.Writer.write

    def die(writer, step, scalars):
        if step == 3:
            raise KeyboardInterrupt
        write(writer, step, scalars)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(metrics.Writer, "write", die)
        train.run(config, bucket)
    assert [row["step"] for row in metrics.read_rows(bucket / "decoder")] == [0, 1, 2]
    with checkpoint.Checkpoints(bucket / "decoder/checkpoints") as saved:
        assert saved.latest == 2
    train.run(config, bucket)
    assert [row["step"] for row in metrics.read_rows(bucket / "decoder")] == [0, 1, 2, 3]
    assert len(build.about(config, bucket)["identity"]) == len(
        build._identity(bucket / "decoder/model")
    )
    sampler = Sampler.load(str(bucket))
    assert (sampler.class_names, sampler.decoder.config.grid) == (SPEC.class_names, SPEC.grid)

    ablate._share(config, bucket, bucket / "variant")
    _, copied, found = ablate.load_tokenizer(bucket / "variant/tokenizer/model", mesh)
    jax.tree.map(np.testing.assert_array_equal, copied, tokenizer_params)
    assert found["fingerprint"] == about["fingerprint"]
