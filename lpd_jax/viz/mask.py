"""The picture of the attention mask that a decoder is trained with.

Dims: N tokens, S groups.
"""

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lpd_jax.viz.plots import COLORS

_SHOWN = {
    "context sees context": COLORS[5],
    "a query sees earlier context": COLORS[0],
    "a query sees its group": COLORS[1],
}


def training_mask(visible: np.ndarray, step_of: np.ndarray, title: str = "") -> Figure:
    """The mask with the groups marked: rows ask, columns are seen.

    Args:
        visible: bool [2N, 2N] of `lpd_jax.models.mask.training_mask`: the class, the context of all
            tokens but the last, then N queries.
        step_of: int [N], group number of the i-th generated token, non-decreasing.
        title: above it.
    """
    visible, steps = np.asarray(visible), np.asarray(step_of)
    n = len(steps)
    is_query = np.arange(2 * n) >= n
    kinds = 1 + is_query[:, None] + (is_query[:, None] & is_query)
    figure = Figure(figsize=(6.4, 5), layout="constrained")
    axes = figure.subplots()
    colours = ListedColormap(["white", *_SHOWN.values()])
    axes.imshow(np.where(visible, kinds, 0), cmap=colours, vmin=0, vmax=3)
    groups = np.concatenate([[-1], steps[:-1], steps])
    ends = np.flatnonzero((np.diff(groups) != 0) | (np.diff(is_query) != 0))
    for end in ends:
        width = 1.6 if end == n - 1 else 0.4
        axes.axhline(end + 0.5, color="black", linewidth=width)
        axes.axvline(end + 0.5, color="black", linewidth=width)
    edges = np.concatenate([[-1], ends, [2 * n - 1]])
    middles = (edges[:-1] + edges[1:] + 1) / 2
    names = ["class", *(str(groups[int(end)] + 1) for end in edges[2:])]
    axes.set_xticks(middles, names, fontsize=7, rotation=90)
    axes.set_yticks(middles, names, fontsize=7)
    axes.set(
        xlabel="is seen: class, groups of context | groups of queries",
        ylabel="asks: queries | context",
        title=title,
    )
    handles = [Patch(color=colour, label=text) for text, colour in _SHOWN.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    return figure
