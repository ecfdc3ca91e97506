"""Curves and histograms as matplotlib figures; no display, no global state.

`save(figure, path)` writes one, and a notebook shows it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lpd_jax import storage

# Okabe and Ito's: told apart by colour-blind readers too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

# Metrics that fall by factors.
DECADES = frozenset({"loss", "mse", "commitment", "grad_norm"})

# The vertical axes of what the tasks draw; "loss" is drawn for the decoder only.
UNITS = {
    "loss": "nats per code",
    "accuracy": "share of codes",
    "grad_norm": "L2 norm, before clipping",
    "mse": "mean square, pixels in [-1, 1]",
    "commitment": "weighted loss",
    "entropy": "weighted loss",
    "codes_in_batch": "share of the codebook",
}


# Before the name of a metric, its label, marker and color.
HELDOUT = (
    ("heldout_", "held out", "o", COLORS[1]),
    ("ema_heldout_", "held out, EMA", "s", COLORS[2]),
    ("ema_", "EMA", "s", COLORS[2]),
)


def save(figure: Figure, path: storage.Where, dpi: float | None = None) -> None:
    """Writes a figure in the format that the suffix of `path` names."""
    with storage.whole(path) as file:
        figure.savefig(file, dpi=dpi or "figure")


def curves(rows: Sequence[Mapping[str, float]], names: Sequence[str], x: str = "step") -> Figure:
    """One panel per metric against `x`, two in a row.

    The vertical axis is logarithmic for a metric of `DECADES` that spans one. For any metric, here
    "loss", the points of "heldout_loss" (with error bars of "heldout_loss_se") and of
    "ema_heldout_loss" lie over the curve where rows have them, and so do those of "ema_loss".

    Args:
        rows: metrics as logged, e.g. {"step": 100, "loss": 3.2}; a row may lack some.
        names: the metrics to draw.
        x: the key of the horizontal axis.
    """
    columns = min(2, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(4 * columns, 2.7 * lines), layout="constrained")
    for panel, name in enumerate(names, 1):
        axes = figure.add_subplot(lines, columns, panel)
        at, training, _ = _points(rows, x, name)
        axes.plot(at, training, color=COLORS[0], linewidth=1.5, label="training")
        values = training[np.isfinite(training)]
        for key, label, marker, color in HELDOUT:
            at, heldout, error = _points(rows, x, key + name)
            if len(at):
                style: dict[str, Any] = {
                    "color": color,
                    "markersize": 4,
                    "capsize": 2,
                    "label": label,
                }
                axes.errorbar(at, heldout, error, fmt=marker, **style)
                axes.legend()
            values = np.concatenate([values, heldout[np.isfinite(heldout)]])
        if name in DECADES and values.size and 0 < 10 * values.min() <= values.max():
            axes.set_yscale("log")
        axes.set(title=name, xlabel=x, ylabel=UNITS.get(name, ""))
        axes.grid(alpha=0.3)
    return figure


def _points(rows: Sequence[Mapping[str, float]], x: str, name: str) -> np.ndarray:
    """float64 [3, M]: where a metric was logged, what it was, its standard error (else NaN)."""
    points = [(row[x], row[name], row.get(f"{name}_se", np.nan)) for row in rows if name in row]
    return np.array(points, np.float64).reshape(-1, 3).T


def code_histogram(counts: np.ndarray) -> Figure:
    """How evenly a codebook is used: share of each code, most frequent first.

    Args:
        counts: int [V] occurrences, see `lpd_jax.evaluation.reconstruction.code_counts`.
    """
    share = np.sort(counts)[::-1] / max(1, counts.sum())
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(np.arange(len(share)), share, step="mid", color=COLORS[0])
    axes.axhline(1 / len(share), color="black", linewidth=1, linestyle="--", label="even use")
    axes.set(
        title=f"{np.count_nonzero(counts)} of {len(counts)} codes used",
        xlabel="code, by frequency",
        ylabel="share of tokens",
        ylim=(0, None),
    )
    axes.legend()
    return figure


def error_bars(
    rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], axis: Sequence[Any], label: str
) -> Figure:
    """One panel per metric, one curve per name, with error bars.

    Args:
        rows: each with "name", "x", and per metric a tuple that begins with mean and standard
            error (NaN draws no bar), see `lpd_jax.evaluation.summary`.
        metrics: the panels.
        axis: the values of "x" from left to right, drawn at equal distances.
        label: what "x" is.
    """
    figure = Figure(figsize=(4.5 * len(metrics) + 1.5, 3.6), layout="constrained")
    names = list(dict.fromkeys(row["name"] for row in rows))
    # Side by side, or the bars would hide each other.
    shifts = 0.3 * (np.arange(len(names)) - (len(names) - 1) / 2) / max(1, len(names))
    for axes, metric in zip(np.ravel(figure.subplots(1, len(metrics))), metrics, strict=True):
        axes.set_prop_cycle(color=COLORS)
        for name, shift in zip(names, shifts, strict=True):
            own = sorted(
                (axis.index(row["x"]), *row[metric][:2]) for row in rows if row["name"] == name
            )
            at, mean, error = np.reshape(own, (-1, 3)).T
            axes.errorbar(at + shift, mean, error, label=name, marker=".", capsize=2, linewidth=1)
        axes.set(title=metric, xlabel=label, xticks=range(len(axis)), xticklabels=axis)
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    return figure
