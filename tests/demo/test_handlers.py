"""Clicks without a browser: images appear, nothing compiles twice, bad input is a sentence."""

import dataclasses
import shlex

import numpy as np
import pytest

import lpd_jax
from lpd_jax import __main__ as cli
from lpd_jax import config_files
from lpd_jax.demo import handlers, snippets
from lpd_jax.demo.requests import request
from lpd_jax.demo.studio import Edit, first_request, frames, to_generate
from lpd_jax.errors import InputError
from lpd_jax.generation import stepwise

PROGRAMS = (stepwise.begin, stepwise.begin_edit, stepwise._step, stepwise.look, stepwise.finish)
# classes, images, steps, guidance, temperature, order, proximity, repulsion, seed
CONTROLS = ([1, 3], 3, 4, 2.0, 0.9, "locality", 1.0, 1.0, 5)


def compiled():
    return sum(program._cache_size() for program in PROGRAMS)


def click(studio, controls=CONTROLS, history=()):
    return list(handlers.generate(studio, list(history), *controls))


@pytest.fixture(scope="module")
def generated(studio):
    """Updates of the first click on a page."""
    return click(dataclasses.replace(studio, compiled=set()))


def test_images_appear_step_by_step_and_end_in_the_gallery(studio, generated):
    first, *steps, last = generated
    assert "compiling" in first["status"]
    assert [update["status"].split(",")[0] for update in steps[:-1]] == [
        f"step {step} of 4" for step in (1, 2, 3)
    ]
    pictures = [update["images"].tobytes() for update in steps]
    assert len(set(pictures)) == 4 and len({u["order"].tobytes() for u in steps}) == 4
    assert steps[0]["images"].size == steps[0]["order"].size
    assert [caption for _, caption in last["gallery"]] == ["bee", "dog", "bee"]
    assert len(last["history"]) == 3


def test_the_python_that_is_shown_makes_the_same_images(studio, generated, monkeypatch):
    monkeypatch.setattr(lpd_jax.Sampler, "load", lambda directory: studio.sampler)
    names = {}
    exec(generated[0]["python"], names)
    shown = np.stack([image for image, _ in generated[-1]["history"]])
    np.testing.assert_array_equal(names["images"], shown)


@pytest.mark.parametrize("editing", [False, True])
def test_the_command_that_is_shown_is_that_request(studio, editing):
    asked = request(studio.sampler, studio.most, *CONTROLS)
    line = snippets.command(studio.origin, studio.sampler, asked, editing)
    task, given, fields = cli._parse(shlex.split(line)[3:])
    config = config_files.load(given.config)
    config_files.override(config, fields)
    assert task == ("edit" if editing else "sample") and config.seed == 5
    assert config[task].labels == (1, 3)
    for name in ("steps", "guidance", "temperature", "order", "proximity", "repulsion"):
        assert config.sample[name] == getattr(asked, name), name


def test_sliders_compile_nothing(studio, generated):
    before = compiled()
    for change in ({0: [0]}, {1: 4}, {3: 1.0}, {4: 0.0}, {6: 0.3}, {7: 0}, {8: 6}):
        changed = [change.get(place, value) for place, value in enumerate(CONTROLS)]
        updates = click(studio, changed)
        assert len(updates) == 6 and "4 steps" in updates[-2]["status"]
    assert compiled() == before


def test_an_edit_makes_marked_cells_anew_and_keeps_the_rest(studio, generated):
    history = generated[-1]["history"]
    update = handlers.pick(studio, history, 1)
    assert update["edit_status"] == "to edit: dog; nothing is marked"
    assert handlers.pick(studio, history, 9) == {
        "edit_status": "that image is gone; generate another."
    }
    update = handlers.click(studio, update["canvas"], None, (380, 5))  # top right
    canvas = update["canvas"]
    assert np.argwhere(canvas.clicked).tolist() == [[0, 3]]
    drawn = np.zeros((384, 384, 4), np.uint8)
    drawn[10:20, 10:150, 3] = 255
    seen = handlers.look(studio, canvas, {"layers": [drawn]})
    assert seen["edit_status"].startswith("3 of 16 cells marked (orange), 1 added")
    updates = list(
        handlers.edit(studio, history, canvas, {"layers": [drawn]}, False, True, 4, *CONTROLS)
    )
    last = updates[-1]
    assert "4 cells made anew" in last["edit_status"] and "mask.ravel()" in updates[0]["python"]
    image, caption = last["history"][0]
    assert caption == "as elk" and len(last["history"]) == 6
    same = (image == canvas.image).reshape(4, 4, 4, 4, 3).all(axis=(1, 3, 4))
    marked = canvas.marked(handlers.marks.drawn_cells({"layers": [drawn]}, (4, 4)))
    np.testing.assert_array_equal(same | to_generate(marked, False), np.ones((4, 4), bool))
    assert not same.all()
    before = compiled()
    turned = np.rot90(drawn, 2).copy()  # other cells, and one more in the same bucket
    turned[370, 150] = 255
    assert handlers.look(studio, canvas, {"layers": [turned]})["edit_status"].startswith("4 of")
    list(handlers.edit(studio, [], canvas, {"layers": [turned]}, False, False, 0, *CONTROLS))
    assert compiled() == before
    cleared = handlers.clear(studio, canvas)["canvas"]
    assert not cleared.clicked.any() and (cleared.image == canvas.image).all()


def test_around_the_marks(studio):
    marked = np.zeros((4, 4), bool)
    marked[1:3, 1:3] = True
    np.testing.assert_array_equal(to_generate(marked, True), ~marked)
    with pytest.raises(InputError, match="lies outside"):
        to_generate(np.ones((4, 4), bool), True)


def test_two_settings_side_by_side(studio, generated):
    other = (2, 1.0, 0.5, "locality", 1.0, 1.0)
    updates = list(handlers.compare(studio, *CONTROLS, *other))
    last = updates[-1]
    assert "left 3 in 4 steps" in last["compare_status"]
    assert "right 3 in 2 steps" in last["compare_status"]
    assert last["left"].tobytes() == click(studio)[-2]["images"].tobytes()
    assert last["right"].tobytes() != last["left"].tobytes()


def test_what_is_wrong_is_a_sentence_in_the_page(studio, tmp_path):
    (tmp_path / "x.png").write_text("no picture")
    bad = str(tmp_path / "x.png")
    canvas = handlers.Canvas(np.zeros((16, 16, 3), np.uint8), *np.zeros((2, 4, 4), bool), "x")
    other = (4, 2.0, 9.0, "locality", 1.0, 1.0)

    def edited(canvas):
        return next(handlers.edit(studio, [], canvas, None, 0, 0, 0, *CONTROLS))["edit_status"]

    for update, says in (
        (click(studio, ([], *CONTROLS[1:]))[0]["status"], "classes"),
        (next(handlers.compare(studio, *CONTROLS, *other))["compare_status"], "temperature=9.0"),
        (edited(None), "no image"),
        (edited(canvas), "nothing is marked"),
        (handlers.upload_picture(studio, bad)["edit_status"], "x.png is no image"),
        (handlers.upload_mask(studio, bad, canvas, None)["edit_status"], "x.png is no image"),
        (handlers.upload_mask(studio, bad, None, None)["edit_status"], "first choose an image"),
    ):
        assert update.startswith("⚠ ") and says in update


def test_a_click_may_take_so_long_and_no_longer(studio, generated):
    hurried = dataclasses.replace(studio, seconds=0.0)
    updates = click(hurried)
    assert updates[-1]["status"].startswith("⚠ stopped after 0 seconds")
    assert len(updates) < len(generated)


def test_the_gallery_is_bounded(studio):
    image = np.zeros((16, 16, 3), np.uint8)
    updates = click(studio, history=[(image, "old")] * handlers.KEPT)
    assert len(updates[-1]["history"]) == len(updates[-1]["gallery"]) == handlers.KEPT
    assert updates[-1]["history"][-1][1] == "old"


def test_an_edit_of_everything_is_a_generation_with_the_same_first_request(studio):
    asked = dataclasses.replace(first_request(studio), count=1)
    everything = Edit(np.zeros((16, 16, 3), np.uint8), np.ones((4, 4), bool))
    *_, plain = frames(studio, asked)
    *_, edited = frames(studio, asked, everything)
    np.testing.assert_array_equal(plain.images, edited.images)
