import numpy as np
from PIL import Image

from lpd_jax.viz.images import (
    GAP,
    LABEL_HEIGHT,
    grid,
    hide_unknown,
    paste,
    save_gif,
    save_png,
    strip,
)


def _noise(*shape):
    return np.random.default_rng(0).integers(0, 200, (*shape, 3), np.uint8)


def test_grid_places_every_image():
    images = _noise(5, 6, 8)
    sheet = np.asarray(grid(images, columns=3, scale=2))
    assert sheet.shape == (2 * (12 + GAP) + GAP, 3 * (16 + GAP) + GAP, 3)
    for i, image in enumerate(images):
        y, x = GAP + i // 3 * (12 + GAP), GAP + i % 3 * (16 + GAP)
        np.testing.assert_array_equal(sheet[y : y + 12 : 2, x : x + 16 : 2], image)
    assert (sheet[-8:, -8:] == 255).all()


def test_grid_writes_labels_above():
    images = _noise(2, 20, 20)
    plain = np.asarray(grid(images, columns=2))
    labelled = np.asarray(grid(images, columns=2, labels=["7", ""]))
    assert len(labelled) == len(plain) + LABEL_HEIGHT
    head = labelled[GAP : GAP + LABEL_HEIGHT]
    assert (head[:, :22] < 255).any() and (head[:, 24:] == 255).all()
    np.testing.assert_array_equal(labelled[GAP + LABEL_HEIGHT :], plain[GAP:])


def _heads(*labels, side=40):
    """What `grid` draws above black images: uint8 [LABEL_HEIGHT, side] for each label."""
    images = np.zeros((len(labels), side, side, 3), np.uint8)
    sheet = np.asarray(grid(images, len(labels), labels=labels).convert("L"))
    starts = [GAP + i * (side + GAP) for i in range(len(labels))]
    return [sheet[GAP : GAP + LABEL_HEIGHT, x : x + side] for x in starts]


def test_labels_have_accents_and_other_alphabets():
    missing, plain, accent, composed, other = _heads("\u0378", "e", "é", "e\u0301", "Ж")
    assert (accent[6:] != missing[6:]).any() and (other != missing).any()
    # The accent is above the letter, and nothing else is added to it.
    assert (accent[:6] < 255).any() and (plain[:6] == 255).all()
    np.testing.assert_array_equal(accent[7:], plain[7:])
    np.testing.assert_array_equal(accent, composed)


def test_a_long_label_stays_over_its_image():
    name = "black-footed albatross"
    (whole,) = _heads(name, side=200)
    cut, empty = _heads(name, "", side=100)
    assert (empty == 255).all()
    np.testing.assert_array_equal(cut[:, :60], whole[:, :60])
    assert (cut[:, 90:] != whole[:, 90:100]).any()
    assert (_heads("1000", side=8)[0] == 255).all()  # no "1", which would be another number


def test_hide_unknown_covers_exactly_the_unknown_cells():
    images = _noise(2, 8, 12)
    known = np.zeros((2, 2, 3), bool)
    known[0, 1, 2] = known[1, 0, 0] = True
    hidden = hide_unknown(images, known)
    assert hidden.dtype == np.uint8
    np.testing.assert_array_equal(hidden[0, 4:, 8:], images[0, 4:, 8:])
    np.testing.assert_array_equal(hidden[1, :4, :4], images[1, :4, :4])
    assert set(np.unique(hidden[0, :4])) == {150, 170}
    assert set(np.unique(hidden[1, :4, 4:8])) == {150}
    np.testing.assert_array_equal(hide_unknown(images, np.ones((2, 2, 3), bool)), images)


def test_paste_fills_whole_cells_and_nothing_else():
    images, patches = _noise(2, 8, 12), 255 - _noise(2, 8, 12)
    cells = np.zeros((2, 2, 3), bool)
    cells[0, 1, 2] = True
    pasted = paste(images, patches, cells)
    np.testing.assert_array_equal(pasted[0, 4:, 8:], patches[0, 4:, 8:])
    pasted[0, 4:, 8:] = images[0, 4:, 8:]
    np.testing.assert_array_equal(pasted, images)


def test_strip_has_a_row_per_image_and_ends_with_the_last_step():
    frames = _noise(7, 2, 4, 4)
    sheet = np.asarray(strip(frames, columns=3))
    assert sheet.shape == (2 * (4 + GAP) + GAP + LABEL_HEIGHT, 3 * (4 + GAP) + GAP, 3)
    for column, step in enumerate([0, 3, 6]):
        x = GAP + column * (4 + GAP)
        for row in range(2):
            y = GAP + LABEL_HEIGHT + row * (4 + GAP)
            np.testing.assert_array_equal(sheet[y : y + 4, x : x + 4], frames[step, row])
    assert strip(frames).size[0] == 7 * (4 + GAP) + GAP


def test_png_keeps_every_pixel(tmp_path):
    image = Image.fromarray(_noise(5, 5))
    path = save_png(image, tmp_path / "new" / "image.png")
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(image))


def test_gif_plays_every_frame_and_rests_on_the_last(tmp_path):
    frames = [Image.new("RGB", (8, 8), (40 * i, 0, 0)) for i in range(4)]
    with Image.open(save_gif(frames, tmp_path / "new" / "a.gif", seconds=0.1)) as gif:
        assert gif.n_frames == 4 and gif.info["loop"] == 0
        durations = []
        for i in range(4):
            gif.seek(i)
            durations.append(gif.info["duration"])
            assert np.asarray(gif.convert("RGB"))[0, 0].tolist() == [40 * i, 0, 0]
    assert durations == [100, 100, 100, 1000]


def test_a_png_carries_text(tmp_path):
    image = Image.new("RGB", (3, 2), "red")
    plain = save_png(image, tmp_path / "plain.png").read_bytes()
    path = save_png(image, tmp_path / "text.png", {"Software": "lpd_jax", "lpd_jax": '{"é": 1}'})
    with Image.open(path) as read:
        assert read.text == {"Software": "lpd_jax", "lpd_jax": '{"é": 1}'}
        np.testing.assert_array_equal(np.asarray(read), np.asarray(image))
    assert b"lpd_jax" not in plain
