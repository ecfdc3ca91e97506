"""Pictures and statistics of generation orders.

Dims: B images, h×w grid, S steps. Everything is read off step maps: int[h, w], the step (0..S-1) at
which each cell is generated, -1 where it is known (`Schedule.step_map`). Figures are drawn on their
own canvas, so nothing here touches the state of pyplot.
"""

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from lpd_jax import storage
from lpd_jax.viz.images import save_gif


def step_heatmap(step_map: np.ndarray, title: str = "") -> Figure:
    """Heat map of one step map; known cells are blank."""
    figure = _figure(4.6, 4)
    axes = figure.subplots()
    shown = axes.imshow(np.ma.masked_less(step_map, 0), cmap="viridis")
    figure.colorbar(shown, ax=axes, label="step")
    axes.set(xlabel="column of the grid", ylabel="row of the grid", title=title)
    axes.locator_params(integer=True)
    return figure


def group_panels(step_map: np.ndarray, panels: int = 10, title: str = "") -> Figure:
    """Groups over time as small multiples: new cells dark, earlier ones grey, the rest white."""
    step_map = np.asarray(step_map)
    total = step_map.max() + 1
    chosen = np.unique(np.linspace(0, total - 1, min(panels, total)).round().astype(int))
    columns = min(5, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = _figure(1.7 * columns, 1.9 * rows)
    for axes, step in zip(figure.subplots(rows, columns, squeeze=False).flat, chosen, strict=False):
        axes.imshow(_frame(step_map, step), cmap="Greys", vmin=0, vmax=2)
        axes.set_title(f"step {step}: {(step_map == step).sum()}", fontsize=8)
    for axes in figure.axes:
        axes.set(xticks=[], yticks=[])
        axes.set_axis_on() if axes.images else axes.set_axis_off()
    figure.suptitle(title)
    return figure


def step_colours(step_map: np.ndarray, steps: int) -> np.ndarray:
    """Step maps that are being filled as pictures, one pixel per cell: uint8 [B, h, w, 3].

    Args:
      step_map: int[B, h, w], 1..steps where a cell was generated (dark to yellow), 0 where it was
        known from the start (grey), -1 where it is not there yet (white).
      steps: of the whole generation.
    """
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 1, max(steps, 1)))[:, :3]
    around = np.concatenate([colours, np.array([[0.75] * 3, [1.0] * 3])])  # known, not yet
    places = np.where(step_map > 0, step_map - 1, np.where(step_map == 0, steps, steps + 1))
    return np.rint(255 * around[places]).astype(np.uint8)


def save_animation(
    path: storage.Where, step_map: np.ndarray, cell: int = 12, seconds: float = 0.25
) -> None:
    """Writes the groups of one step map as a looping GIF.

    Args:
      path: where to write it.
      step_map: int[h, w].
      cell: side of a grid cell in pixels.
      seconds: how long a step is shown; the last one stays ten times as long.
    """
    step_map = np.asarray(step_map)
    shades = np.array([255, 170, 30], np.uint8)
    frames = [
        Image.fromarray(np.kron(shades[_frame(step_map, step)], np.ones((cell, cell), np.uint8)))
        for step in range(step_map.max() + 1)
    ]
    save_gif(frames, path, seconds)


def statistics(step_maps: np.ndarray) -> dict[str, np.ndarray]:
    """What locality-aware orders are measured by, per image and step.

    Args:
      step_maps: int[B, h, w] with the same group sizes in every image.

    Returns:
      float64[B, S] each: 'proximity', the mean over a group of the sum of 1/distance to the
      8-neighbours of earlier steps; 'min_dist', the smallest Euclidean distance inside a group (NaN
      for groups of one); 'frac8', the share of a group with an 8-neighbour of an earlier step. The
      first and third are NaN in a first step that nothing precedes.
    """
    steps = np.asarray(step_maps)
    h, w = steps.shape[1:]
    never = np.iinfo(steps.dtype).max
    around = np.pad(steps, ((0, 0), (1, 1), (1, 1)), constant_values=never)
    offsets = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    earlier = [around[:, 1 + y : 1 + y + h, 1 + x : 1 + x + w] < steps for y, x in offsets]
    score = sum(before / np.hypot(*at) for before, at in zip(earlier, offsets, strict=True))
    touched = np.any(earlier, axis=0)
    rows = {"proximity": [], "min_dist": [], "frac8": []}
    for step in range(steps.max() + 1):
        inside = steps == step
        size = inside.sum((1, 2)) if (steps < step).any() else np.full(len(steps), np.nan)
        rows["proximity"].append((score * inside).sum((1, 2)) / size)
        rows["min_dist"].append(_min_distance(inside))
        rows["frac8"].append((touched & inside).sum((1, 2)) / size)
    return {name: np.stack(values, 1) for name, values in rows.items()}


def statistics_table(step_maps: np.ndarray) -> list[dict[str, float]]:
    """One row per step: its size and the mean over images of each statistic (NaN: undefined)."""
    means = {name: value.mean(0) for name, value in statistics(step_maps).items()}
    sizes = np.bincount(step_maps[0][step_maps[0] >= 0].ravel()).tolist()
    return [
        {"step": step, "size": size} | {name: float(mean[step]) for name, mean in means.items()}
        for step, size in enumerate(sizes)
    ]


def markdown_table(rows: list[dict[str, float]]) -> str:
    """Rows as a Markdown table; floats to three decimals, undefined ones as a dash."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([_text(row[name]) for name in head] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _frame(steps: np.ndarray, step: int) -> np.ndarray:
    """0 not yet, 1 earlier or known, 2 this step: int[h, w]."""
    return np.where(steps == step, 2, np.where(steps < step, 1, 0))


def _min_distance(inside: np.ndarray) -> np.ndarray:
    """Smallest Euclidean distance between two of the marked cells of bool[B, h, w]: float64[B]."""
    cells = np.stack(np.nonzero(inside)[1:], -1).reshape(len(inside), -1, 2).astype(float)
    size = cells.shape[1]
    if size < 2:
        return np.full(len(inside), np.nan)
    distance = np.linalg.norm(cells[:, :, None] - cells[:, None], axis=-1)
    return distance[:, *np.triu_indices(size, 1)].min(1)


def _text(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return "-" if np.isnan(value) else f"{value:.3f}"
