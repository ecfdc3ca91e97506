import subprocess
import sys

import numpy as np
from PIL import Image

from lpd_jax.viz.plots import code_histogram, curves, error_bars


def test_curves_draw_the_logged_points(tmp_path):
    rows = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0, "psnr": 20.0}, {"step": 3}]
    figure = curves(rows, ["loss", "psnr"])
    lines = [axes.lines[0].get_xydata().tolist() for axes in figure.axes]
    assert lines == [[[1, 3], [2, 2]], [[2, 20]]]
    figure.savefig(tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").size[0] > 400
    assert len(curves([], ["loss"]).axes) == 1


def test_histogram_counts_the_used_codes(tmp_path):
    figure = code_histogram(np.array([0, 6, 2, 0]))
    assert figure.axes[0].get_title() == "2 of 4 codes used"
    figure.savefig(tmp_path / "codes.png")
    assert (tmp_path / "codes.png").stat().st_size > 0


def test_error_bars_draw_each_curve_along_the_axis(tmp_path):
    rows = [
        {"name": "near", "x": 8, "loss": (3.0, 0.5, 2)},
        {"name": "near", "x": 2, "loss": (1.0, 0.25, 2)},
        {"name": "far", "x": 8, "loss": (2.0, float("nan"), 1)},
    ]
    figure = error_bars(rows, ["loss"], [2, 4, 8], "steps")
    (axes,) = figure.axes
    near, far = axes.containers
    at, mean = near.lines[0].get_xydata().T
    assert at.round().tolist() == [0, 2] and mean.tolist() == [1, 3]
    bars = [segment[:, 1].tolist() for segment in near.lines[2][0].get_segments()]
    assert bars == [[0.75, 1.25], [2.5, 3.5]]
    assert far.lines[0].get_ydata().tolist() == [2]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["2", "4", "8"]
    figure.savefig(tmp_path / "bars.png")
    assert Image.open(tmp_path / "bars.png").size[0] > 400


def test_needs_no_global_pyplot():
    program = "import sys, lpd_jax.viz.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
