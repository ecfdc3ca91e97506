"""What is the best for its price: points of two figures, and those that none beats in both."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from lpd_jax.viz.plots import COLORS

_MARKERS = "os^Dvp*X<>"

# (price, loss, text beside it), of each less is better.
Point = tuple[float, float, str]


def frontier(price: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """bool [M]: the points that no other beats, float [M] each; of equal points all are kept.

    One point beats another that has no less of price and of loss, and more of one of them.
    """
    price, loss = np.asarray(price, float), np.asarray(loss, float)
    no_more = (price[:, None] <= price) & (loss[:, None] <= loss)
    less = (price[:, None] < price) | (loss[:, None] < loss)
    return np.asarray(~(no_more & less).any(0))


def pareto(named: Mapping[str, Sequence[Point]], price: str, loss: str, title: str = "") -> Figure:
    """Points of each name, and a line through those that none beats.

    Args:
        named: points by the name of what they are of.
        price: label of the horizontal axis, which is logarithmic, with its unit.
        loss: label of the vertical axis, with its unit; less is better.
        title: above it.
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for number, (name, points) in enumerate(named.items()):
        axes.plot(
            [point[0] for point in points],
            [point[1] for point in points],
            color=COLORS[number % len(COLORS)],
            marker=_MARKERS[number % len(_MARKERS)],
            linewidth=0.6,
            label=name,
        )
    every = [point for points in named.values() for point in points]
    x, y = np.array([point[:2] for point in every], float).T
    best = np.flatnonzero(frontier(x, y))
    best = best[np.argsort(x[best])]
    axes.plot(x[best], y[best], color="#777777", linewidth=5, alpha=0.4, zorder=0, label="best")
    for index in best:
        axes.annotate(
            every[index][2],
            (x[index], y[index]),
            xytext=(4, 5),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=price, ylabel=loss, title=title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure
