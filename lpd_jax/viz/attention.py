"""The picture of how far a decoder looks.

Dims: L layers, H heads, S distances.
"""

import matplotlib
import numpy as np
from matplotlib.figure import Figure


def locality(per_token: np.ndarray, within: np.ndarray, distance: int) -> Figure:
    """Attention by distance for each layer, and the part of it that is near for each head.

    Args:
        per_token: float [L, H, S], the share of a query's attention that a token at a distance
            gets; NaN where there is none.
        within: float [L, H], the part of the attention to tokens that is at most `distance` away.
        distance: in cells.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    means = 100 * per_token.mean(axis=1)
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(means)))
    for number, (row, colour) in enumerate(zip(means, colours, strict=True), start=1):
        left.plot(range(len(row)), row, marker=".", color=colour, label=f"layer {number}")
    left.set(xlabel="distance, cells", ylabel="attention to one token, %", title="mean over heads")
    left.set_yscale("log")
    left.grid(alpha=0.3)
    if len(means) <= 8:
        left.legend(fontsize=8)
    shown = right.imshow(100 * within, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    layers, heads = within.shape
    right.set(
        xticks=range(heads),
        yticks=range(layers),
        xticklabels=range(1, heads + 1),
        yticklabels=range(1, layers + 1),
        xlabel="head",
        ylabel="layer",
        title=f"attention to tokens within {distance} cells",
    )
    figure.colorbar(shown, ax=right, label="%")
    return figure
