"""The config is checked before the first step; every sentence names its field."""

import pytest

from lpd_jax.configs import base, digits, emoji, folder, lpd_256, lpd_512
from lpd_jax.data.codes import CodesSpec
from lpd_jax.errors import InputError
from lpd_jax.tasks import build, check, pipeline
from lpd_jax.training.objectives import uniform_order

WRONG = [
    ("seed", 2**64, r"seed=18446744073709551616"),
    ("seed", -1, r"seed=-1"),
    ("data.source", "folders", r"data\.source='folders'.*did you mean 'folder'"),
    ("data.size", 33, r"data\.size=33 is not a multiple of 4"),
    ("tokenizer.ch", 0, r"tokenizer\.ch=0"),
    ("tokenizer.ch_mult", (), r"tokenizer\.ch_mult is empty"),
    ("tokenizer.codebook_size", 0, r"tokenizer\.codebook_size=0"),
    ("train_tokenizer.batch_size", 0, r"train_tokenizer\.batch_size=0"),
    ("train_tokenizer.save_every", 0, r"train_tokenizer\.save_every=0"),
    ("train_tokenizer.schedule", "line", r"train_tokenizer: .*'line'"),
    ("decoder.depth", 0, r"decoder\.depth=0"),
    ("decoder.dropout", 1.0, r"decoder\.dropout=1\.0"),
    ("decoder.heads", 3, r"decoder\.width=128 is not a multiple of decoder\.heads=3"),
    ("train.log_every", 0, r"train\.log_every=0"),
    ("train.batch_size", -5, r"train\.batch_size=-5"),
    ("train.label_drop", 1.0, r"train\.label_drop=1\.0"),
    ("train.decay_start", 900, r"decay_start=900"),
    ("train.schedules", (65,), r"train\.schedules: .*65 steps"),
    ("train.orders", (), r"train\.orders is empty"),
    ("train.orders", ("random", "spiral"), r"train\.orders: order='spiral' must be one of"),
    ("train.order_weights", (1.0, 2.0), r"2 weights for the 1 orders of train\.orders"),
    ("train.order_weights", (0.0,), r"train\.order_weights are all 0"),
    ("train.repulsion", float("nan"), r"train\.orders: repulsion=nan"),
    ("sample.order", "spiral", r"sample: order='spiral' must be one of locality"),
    ("sample.order_file", "none.json", r"sample\.order_file: there is no orders file none\.json"),
    ("sample.confidence_threshold", 0.0, r"sample: confidence_threshold=0 must be above 0"),
    ("sample.confidence_noise", -1.0, r"sample: confidence_noise=-1\.0"),
    ("sample.field_context", float("nan"), r"sample\.field_context=nan"),
    ("sample.group_sizes", ("a",), r"sample\.group_sizes='a'"),
    ("sample.group_sizes", (1, 2), r"sample: .*sum to 3"),
    ("sample.group_schedule", "cos", r"sample\.group_schedule='cos'"),
    ("sample.steps", 65, r"sample: .*65 steps"),
    ("sample.batch_size", -5, r"sample\.batch_size=-5"),
    ("sample.batch_size", 0, r"sample\.batch_size=0"),
    ("sample.count", 0, r"sample\.count=0"),
    ("sample.labels", (11,), r"sample\.labels: label 11 is out of range"),
    ("sample.labels", ("three",), r"sample\.labels: no class is named 'three'"),
    ("sample.top_p", 0.0, r"sample: top_p=0"),
    ("sample.dtype", "float8", r"sample\.dtype='float8'"),
    ("sample.quantize", "int4", r"sample\.quantize='int4'"),
    ("evaluate.steps", 65, r"evaluate\.steps=65"),
    ("evaluate.num_images", -1, r"evaluate\.num_images=-1"),
    ("evaluate.what", "codes", r"evaluate\.what='codes' must be one of 'images', 'tokenizer'"),
    ("evaluate.keep", "jpg", r"evaluate\.keep='jpg' must be one of '', 'png', 'npz'"),
    ("evaluate.inception", "none.pth", r"evaluate\.inception: there is nothing at none\.pth"),
    ("evaluate.reference", "none.npz", r"evaluate\.reference: there is nothing at none\.npz"),
    ("train.fid_every", -1, r"fid_every=-1"),
    ("train.fid_images", 1, r"fid_images=1"),
    ("search.guidances", (1.0, -1.0), r"search\.guidances=-1"),
    ("mesh.fsdp", 0, r"mesh\.fsdp=0"),
    ("checkpoint", "weights", "takes none from --checkpoint"),
]


@pytest.mark.parametrize(("field", "value", "says"), WRONG, ids=[f"{f}={v}" for f, v, _ in WRONG])
def test_the_pipeline_does_not_start(field, value, says, tmp_path):
    config = digits.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=says):
        pipeline.run(config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_an_evaluation_would_leave_unused_is_refused(tmp_path):
    for fields, says in (
        ({"what": "tokenizer", "images": str(tmp_path)}, r"leave out evaluate\.images"),
        ({"what": "tokenizer", "keep": "png"}, r"and keeps none; leave out evaluate\.keep"),
        ({"images": str(tmp_path), "keep": "png"}, r"evaluate\.keep is of generated images"),
        ({"lpips": str(tmp_path)}, r"with evaluate\.lpips, say how many images to generate"),
        ({"keep": "png"}, r"with evaluate\.keep, say how many images to generate"),
        ({"reference": str(tmp_path)}, r"give its weights too, --config\.evaluate\.inception"),
        ({"lpips": str(tmp_path), "inception": str(tmp_path)}, "leave one of the two out"),
    ):
        config = digits.get_config()
        config.evaluate.update(fields)
        with pytest.raises(InputError, match=says):
            check.config(config, "evaluate")
    config.evaluate.update(what="tokenizer")
    check.config(config, "evaluate")


def test_an_empty_data_path_is_not_the_current_directory():
    config = folder.get_config()
    for task in ("train_tokenizer", "encode", "pipeline", "evaluate"):
        with pytest.raises(InputError, match=r"data\.path is empty"):
            check.config(config, task)
    check.config(config, "sample")


@pytest.mark.parametrize("box", [(0.5, 0.0, 0.4, 1.0), (0.0, 1.0), (0.5, 0.0, 2.0, 1.0)])
def test_a_box_that_cannot_be_is_refused(box):
    config = digits.get_config()
    config.edit.box = box
    with pytest.raises(InputError, match="box"):
        check.config(config, "edit")


def test_ready_configs_pass():
    for config in (base.get_config(), digits.get_config(), folder.get_config()):
        check.config(config, "sample")
    for size in ("L", "XL-32", "XXL"):
        check.config(lpd_256.get_config(size), "train")
    for size in ("cpu", "gpu"):
        config = emoji.get_config(size)
        config.data.path = "emoji64"
        check.config(config, "pipeline")
    check.config(lpd_512.get_config(), "orders")
    check.config(digits.get_config(), "pipeline")


def test_labels_are_numbers_or_names():
    names = ("zero", "one", "3", "two")
    assert build.labels((1, "one", "3", 2), names, 4) == [1, 1, 2, 2]
    assert build.labels("two", names, 4) == [3]
    assert build.labels((4,), names, 4) == [4]
    for wrong, says in (("on", "did you mean 'one'"), (5, "label 5"), (True, "label=True")):
        with pytest.raises(InputError, match=says):
            build.labels((wrong,), names, 4)


def test_a_class_that_came_after_encoding_is_refused(tmp_path):
    def spec(*names):
        return CodesSpec({"fingerprint": "f"}, (4, 4), 32, 1, names, {"train": 1})

    config = folder.get_config()
    config.data.path = str(tmp_path / "flowers")
    build.check_source(config, spec("rose", "tulip"))  # the images are not here: nothing to say
    for name in ("rose", "tulip"):
        (tmp_path / "flowers" / name).mkdir(parents=True)
    build.check_source(config, spec("rose", "tulip"))
    with pytest.raises(InputError, match=r"1 came \(tulip\) and 1 went \(lily\)"):
        build.check_source(config, spec("lily", "rose"))
    (tmp_path / "flowers/aster").mkdir()
    with pytest.raises(InputError, match=r"1 came \(aster\); encode into a new --workdir"):
        build.check_source(config, spec("rose", "tulip"))


def test_training_draws_uniformly_random_orders_unless_told_otherwise():
    """The same function as ever: what asks for no other orders stays as it was, to the bit."""
    section = base.get_config().train
    assert build.training_order(section, (4, 4)) is uniform_order
    section.orders, section.order_weights = ("random", "random"), (1.0, 2.0)
    assert build.training_order(section, (4, 4)) is uniform_order
    section.orders = ("random", "locality")
    assert build.training_order(section, (4, 4)) is not uniform_order
