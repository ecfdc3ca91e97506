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


def test_curves_that_span_a_decade_have_a_logarithmic_axis():
    falling = [{"step": i, "loss": 10 / (i + 1), "mse": 3.0 - i / 10} for i in range(12)]
    odd = [{"step": i, "grad_norm": 10.0 * i, "accuracy": 0.01 + 0.08 * i} for i in range(12)]
    odd += [{"step": 12, "grad_norm": float("nan")}]
    figure = curves([*falling, *odd], ["loss", "mse", "grad_norm", "accuracy"])
    # mse spans no decade, one norm is zero, and accuracy does not fall by factors.
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear", "linear", "linear"]
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "nats per code",
        "mean square, pixels in [-1, 1]",
        "L2 norm, before clipping",
        "share of codes",
    ]
    assert {axes.get_xlabel() for axes in figure.axes} == {"step"}


def test_heldout_points_lie_over_the_training_curve():
    rows = [{"step": i, "loss": 3.0 - i, "accuracy": 0.5} for i in range(3)]
    rows[2]["heldout_loss"] = 0.1
    rows.append({"step": 5, "heldout_loss": 0.2, "heldout_loss_se": 0.05, "ema_heldout_loss": 0.15})
    loss, accuracy, norm = curves(rows, ["loss", "accuracy", "grad_norm"]).axes
    assert loss.lines[0].get_xydata().tolist() == [[0, 3], [1, 2], [2, 1]]
    heldout, ema = (bars.lines for bars in loss.containers)
    assert heldout[0].get_xydata().tolist() == [[2, 0.1], [5, 0.2]]
    assert ema[0].get_xydata().tolist() == [[5, 0.15]]
    bar = heldout[2][0].get_segments()[-1]
    np.testing.assert_allclose(bar, [[5, 0.15], [5, 0.25]])
    shown = [text.get_text() for text in loss.get_legend().get_texts()]
    assert shown == ["training", "held out", "held out, EMA"]
    assert loss.get_yscale() == "log"  # the held-out points count
    assert len(accuracy.lines) == 1 and accuracy.get_legend() is None
    assert norm.get_title() == "grad_norm"


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
