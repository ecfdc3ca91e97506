"""Curves and histograms as matplotlib figures; no display, no global state.

`save(figure, path)` writes one, and a notebook shows it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lpd_jax import storage


def save(figure: Figure, path: storage.Where, dpi: float | None = None) -> None:
    """Writes a figure in the format that the suffix of `path` names."""
    with storage.whole(path) as file:
        figure.savefig(file, dpi=dpi or "figure")


def curves(rows: Sequence[Mapping[str, float]], names: Sequence[str], x: str = "step") -> Figure:
    """One panel per metric against `x`.

    Args:
        rows: metrics as logged, e.g. {"step": 100, "loss": 3.2}; a row may lack some.
        names: the metrics to draw.
        x: the key of the horizontal axis.
    """
    figure = Figure(figsize=(4 * len(names), 3), layout="constrained")
    for axes, name in zip(np.ravel(figure.subplots(1, len(names))), names, strict=True):
        points = [(row[x], row[name]) for row in rows if name in row]
        axes.plot(*np.reshape(points, (-1, 2)).T)
        axes.set(title=name, xlabel=x)
        axes.grid(alpha=0.3)
    return figure


def code_histogram(counts: np.ndarray) -> Figure:
    """How evenly a codebook is used: share of each code, most frequent first.

    Args:
        counts: int [V] occurrences, see `lpd_jax.evaluation.reconstruction.code_counts`.
    """
    share = np.sort(counts)[::-1] / max(1, counts.sum())
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(np.arange(len(share)), share, step="mid")
    axes.axhline(1 / len(share), color="black", linewidth=1, linestyle="--", label="even use")
    axes.set(
        title=f"{np.count_nonzero(counts)} of {len(counts)} codes used",
        xlabel="code, by frequency",
        ylabel="share of tokens",
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
