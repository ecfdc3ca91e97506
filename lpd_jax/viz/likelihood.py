"""Pictures of what a schedule costs: by step and by cell."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from lpd_jax.viz.plots import COLORS


def cost_by_step(orders: Mapping[str, tuple[np.ndarray, Sequence[int]]]) -> Figure:
    """Bits per token of each step's group, one curve for each order.

    Args:
        orders: name -> bits float [N] by position of generation, and the S group sizes.
    """
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=COLORS)
    for name, (bits, sizes) in orders.items():
        ends = np.cumsum(sizes)
        means = [bits[end - size : end].mean() for end, size in zip(ends, sizes, strict=True)]
        axes.plot(range(1, len(sizes) + 1), means, marker=".", label=name)
    axes.set(xlabel="step", ylabel="bits per token", title="cost of each step")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def group_sizes(schedules: Mapping[str, Sequence[int]]) -> Figure:
    """Tokens of each step, one curve for each schedule, from the first to the last step."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=COLORS)
    for name, sizes in schedules.items():
        axes.plot(np.linspace(0, 1, len(sizes)), sizes, marker=".", label=name)
    axes.set(xlabel="from the first to the last step", ylabel="tokens", title="group sizes")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def dependence(cells: np.ndarray, offsets: np.ndarray, grid: tuple[int, int]) -> Figure:
    """What two cells say about each other: by their offset, and of three cells with all others.

    Args:
        cells: float [N, N], bits.
        offsets: float [2h-1, 2w-1], means by offset; NaN is left white.
        grid: (h, w).
    """
    height, width = grid
    corner, side, middle = 0, width // 2, height // 2 * width + width // 2
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    panels = figure.subplots(1, 4)
    extent = (0.5 - width, width - 0.5, height - 0.5, 0.5 - height)
    shown = panels[0].imshow(offsets, vmin=0, vmax=cells.max(), extent=extent)
    panels[0].set_title("mean by offset", fontsize=9)
    panels[0].locator_params(integer=True)
    panels[0].set(xlabel="columns apart", ylabel="rows apart")
    for axes, cell in zip(panels[1:], (corner, side, middle), strict=True):
        shown = axes.imshow(cells[cell].reshape(grid), vmin=0, vmax=cells.max())
        axes.plot(*divmod(cell, width)[::-1], "w+")
        axes.set_axis_off()
        axes.set_title("of the cell at +", fontsize=9)
    figure.colorbar(shown, ax=list(panels), label="bits")
    figure.suptitle("what one cell says about another", fontsize=10)
    return figure


def cell_maps(orders: Mapping[str, np.ndarray], steps: int) -> Figure:
    """Bits of the token in each cell, one map for each order, all on one scale.

    Args:
        orders: name -> bits float [h, w]; NaN is left white.
        steps: that they were generated in.
    """
    columns = min(4, len(orders))
    lines = -(-len(orders) // columns)
    figure = Figure(figsize=(2.3 * columns + 1, 2.4 * lines + 0.3), layout="constrained")
    panels = np.ravel(figure.subplots(lines, columns, squeeze=False))
    every = np.stack(list(orders.values()))
    low, high = np.nanmin(every), np.nanmax(every)
    for axes in panels:
        axes.set_axis_off()
    for axes, (name, bits) in zip(panels, orders.items(), strict=False):
        shown = axes.imshow(bits, vmin=low, vmax=high, cmap="viridis")
        axes.set_title(name, fontsize=9)
    figure.colorbar(shown, ax=list(panels), label="bits per token")
    figure.suptitle(f"bits by cell, {steps} steps", fontsize=10)
    return figure
