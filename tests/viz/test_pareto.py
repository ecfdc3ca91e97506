import numpy as np

from lpd_jax.viz import pareto


def beaten(points, i):
    """Whether another point is no worse in both figures and better in one, one by one."""
    (x, y) = points[i]
    return any(a <= x and b <= y and (a < x or b < y) for a, b in points)


def test_the_frontier_is_what_no_point_beats():
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.integers(0, 6, (12, 2)).astype(float)
        found = pareto.frontier(*points.T)
        assert found.tolist() == [not beaten(points.tolist(), i) for i in range(12)]


def test_points_and_the_best_of_them_are_drawn(tmp_path):
    named = {
        "near": [(4, 3.0, "4 steps"), (8, 2.0, "8 steps")],
        "far": [(4, 2.5, "four"), (8, 2.2, "eight"), (16, 1.9, "sixteen")],
    }
    figure = pareto.pareto(named, "steps", "bits per token", "cost")
    (axes,) = figure.axes
    near, far, best = axes.lines
    assert near.get_xydata().tolist() == [[4, 3], [8, 2]]
    assert far.get_xydata().tolist() == [[4, 2.5], [8, 2.2], [16, 1.9]]
    assert best.get_xydata().tolist() == [[4, 2.5], [8, 2], [16, 1.9]]
    assert [text.get_text() for text in axes.texts] == ["four", "8 steps", "sixteen"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("steps", "bits per token")
    assert near.get_color() != far.get_color() and near.get_marker() != far.get_marker()
    figure.savefig(tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").stat().st_size > 0
