"""From drawings, clicks and files to cells."""

import numpy as np
import pytest
from PIL import Image

from lpd_jax.demo import marks
from lpd_jax.errors import InputError

GRID, SIZE = (4, 4), (16, 16)


def test_a_stroke_marks_the_cells_that_it_touches():
    layer = np.zeros((100, 100, 4), np.uint8)
    layer[30:60, 10, 3] = 255  # rows 1 and 2 of 4, column 0
    layer[80, 80, 3] = 20  # the edge of a brush
    cells = marks.drawn_cells({"layers": [layer]}, GRID)
    assert np.argwhere(cells).tolist() == [[1, 0], [2, 0]]
    for nothing in (None, {}, {"layers": []}, {"layers": [np.zeros((5, 5))]}):
        assert not marks.drawn_cells(nothing, GRID).any()


def test_a_click_means_the_cell_under_it():
    assert marks.clicked_cell((399, 0), (400, 400), GRID) == (0, 3)
    assert marks.clicked_cell((100, 399), (400, 400), GRID) == (3, 1)
    assert marks.clicked_cell((400, 400), (400, 400), GRID) == (3, 3)


def test_marks_grow_by_the_nearest_cells_to_a_full_bucket():
    marked = np.zeros(GRID, bool)
    marked[1, 1:4] = True
    filled = marks.snapped(marked)
    assert filled.sum() == 4 and filled[marked].all() and filled[0, 1]
    np.testing.assert_array_equal(marks.snapped(filled), filled)
    with pytest.raises(InputError, match="nothing is marked"):
        marks.snapped(np.zeros(GRID, bool))


def test_the_overlay_shows_what_is_marked_and_what_is_added():
    marked = np.zeros(GRID, bool)
    marked[1, 1:4] = True
    shown = np.asarray(marks.overlay(np.zeros((*SIZE, 3), np.uint8), marked, 2))
    assert shown.shape == (32, 32, 3)
    middle = shown[4::8, 4::8]
    assert len(np.unique(middle.reshape(-1, 3), axis=0)) == 3  # plain, marked, added
    assert (middle[marked] == middle[1, 1]).all() and (middle[0, 1] != middle[1, 1]).any()


def test_uploads(tmp_path):
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 20:] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert marks.read_picture(tmp_path / "wide.png", SIZE).shape == (*SIZE, 3)
    cells = marks.read_mask(tmp_path / "wide.png", SIZE, GRID)
    assert cells[:, 2:].all() and not cells[:, 0].any()


def test_bad_uploads_get_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (30, 30)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    for name in ("text.png", "cut.png"):
        with pytest.raises(InputError, match=name):
            marks.read_picture(tmp_path / name, SIZE)
    with pytest.raises(InputError, match="marks nothing"):
        marks.read_mask(tmp_path / "whole.png", SIZE, GRID)
    monkeypatch.setattr(marks, "MOST_PIXELS", 800)
    with pytest.raises(InputError, match="30x30 pixels"):
        marks.read_picture(tmp_path / "whole.png", SIZE)
