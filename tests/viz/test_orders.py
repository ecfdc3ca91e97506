import numpy as np
from PIL import Image

from lpd_jax.viz import orders

STEPS = np.array([[[0, 1, 2], [1, 2, 2]], [[2, 2, 2], [1, 1, 0]]])


def test_pictures(tmp_path):
    for name, figure in {
        "map.png": orders.step_heatmap(STEPS[0], "steps"),
        "groups.png": orders.group_panels(STEPS[0]),
        "few.png": orders.group_panels(STEPS[0], panels=2),
    }.items():
        figure.savefig(tmp_path / name)
        assert np.asarray(Image.open(tmp_path / name)).std() > 0


def test_animation_shows_every_step(tmp_path):
    orders.save_animation(tmp_path / "order.gif", STEPS[0], cell=4)
    gif = Image.open(tmp_path / "order.gif")
    assert (gif.n_frames, gif.size) == (3, (12, 8))
    gif.seek(1)
    assert gif.info["duration"] == 250
    shades = np.asarray(gif.convert("L"))[::4, ::4]
    np.testing.assert_array_equal(
        np.argsort(np.unique(shades))[::-1].argsort()[np.searchsorted(np.unique(shades), shades)],
        [[1, 2, 0], [2, 0, 0]],
    )


def test_statistics_by_hand():
    found = orders.statistics(STEPS)
    diagonal = np.sqrt(0.5)
    third = (1 + (2 + diagonal) + diagonal) / 3
    np.testing.assert_allclose(found["proximity"][0], [np.nan, 1, third])
    np.testing.assert_allclose(found["min_dist"], [[np.nan, np.sqrt(2), 1], [np.nan, 1, 1]])
    np.testing.assert_allclose(found["frac8"], [[np.nan, 1, 1], [np.nan, 0.5, 1]])


def test_statistics_count_known_cells_as_context():
    known = np.array([[[-1, 0], [1, 1]]])
    np.testing.assert_allclose(orders.statistics(known)["proximity"][0, 0], 1)


def test_table():
    rows = orders.statistics_table(STEPS)
    assert [row["size"] for row in rows] == [1, 2, 3]
    table = orders.markdown_table(rows).splitlines()
    assert table[0] == "| step | size | proximity | min_dist | frac8 |"
    assert table[2] == "| 0 | 1 | - | - | - |"
