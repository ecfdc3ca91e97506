"""Task: judges orders and numbers of steps by the likelihood of held-out codes.

    python -m lpd_jax likelihood --config=digits --workdir=runs/digits

Writes likelihood.json (one row for each order and number of steps), a table and pictures to a
directory that is named by the settings. Fields of `config.likelihood` say what is measured: an
order is a name, or "field" for `sample.order_field`, and may come with its groups, as
`random:uniform` or `random:FILE` of fit_schedule. The codes are those in the workdir; with
--checkpoint the model is another one.
"""

import itertools
import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from lpd_jax import parallel, storage
from lpd_jax.errors import InputError
from lpd_jax.evaluation.likelihood import (
    Bits,
    Score,
    bits_given,
    by_order,
    difference,
    label,
    score,
)
from lpd_jax.generation import editing, groups, orders
from lpd_jax.generation.addresses import draw_orders, image_keys
from lpd_jax.generation.groups import step_of
from lpd_jax.tasks import build, results, scoring
from lpd_jax.tasks.workdir import digest, done, timed, write_json
from lpd_jax.viz import likelihood as pictures
from lpd_jax.viz import plots
from lpd_jax.viz.pareto import Point, pareto

_LOG = logging.getLogger(__name__)
LAST = scoring.LIKELIHOOD  # says that a directory is complete


class Schedule(NamedTuple):
    """An order and its groups.

    Attributes:
        order: its name, or "field".
        repulsion: None for orders that have none.
        group_sizes: S ints, sum N.
        groups: "cosine", "uniform" or "fitted".
    """

    order: str
    repulsion: float | None
    group_sizes: tuple[int, ...]
    groups: str = "cosine"

    @property
    def name(self) -> str:
        """Of the order and the kind of its groups, for people."""
        return label(self.order, self.repulsion, self.groups)

    @property
    def single(self) -> tuple[str, float | None]:
        """What schedules share whose order is the same at one token a step."""
        return self.order, self.repulsion


def run(config: ConfigDict, workdir: storage.Where) -> storage.Path:
    """Measures; returns the directory of the results.

    Raises:
        InputError: a setting is wrong, or the codes are absent or another tokenizer's.
    """
    workdir, section = storage.path(workdir), config.likelihood
    about = build.about(config, workdir)
    scoring.check_codes(workdir, about)
    unknown = scored_cells(section.box, tuple(about["config"]["grid"]))
    chosen = schedules(config, int(unknown.sum()))
    names = ("dtype", "params", "proximity", "order_field", "field_context")
    deciding, fields = build.deciding(config.sample), ("order", "repulsion", "group_sizes")
    settings = {
        "seed": config.seed,
        "model": about["identity"],
        "sample": {name: deciding[name] for name in names},
        "likelihood": {n: section[n] for n in ("draws", "images", "split", "box")},
        "schedules": [{n: getattr(schedule, n) for n in fields} for schedule in chosen],
    }
    name = f"{section.split}-{section.draws}draws-seed{config.seed}-{digest(settings)}"
    directory = workdir / "likelihood" / name
    if done(directory / LAST):
        _LOG.info("likelihood: already in %s", directory)
        return directory
    with timed(workdir, "likelihood"):
        scores = _measure(config, workdir, chosen, unknown)
        if jax.process_index() == 0:
            with results.directory(directory, settings, config, LAST) as partial:
                _write(partial, chosen, scores, tuple(about["config"]["grid"]), section)
            results.index(directory.parent, "bits.png")
    _LOG.info("likelihood: %d schedules in %s", len(chosen), directory)
    return directory


def scored_cells(box: Sequence[float], grid: tuple[int, int]) -> np.ndarray:
    """The cells that are generated, bool [N]; those outside the box are known.

    Raises:
        InputError: it is not a box of the grid.
    """
    if not box:
        return np.ones(math.prod(grid), bool)
    try:
        return editing.rectangle(grid, box).ravel()
    except InputError as error:
        raise InputError(f"likelihood.box: {error}") from None


def schedules(config: ConfigDict, num_tokens: int) -> list[Schedule]:
    """What the section asks for; steps of more than `num_tokens`, which are scored, are left out.

    Raises:
        InputError: an order or groups that there are not, or no schedule at all.
    """
    section = config.likelihood
    steps = section.steps or sorted({num_tokens, *config.train.schedules}, reverse=True)
    repulsions = section.repulsions or (config.sample.repulsion,)
    found = []
    for entry, number in itertools.product(section.orders, steps):
        name, _, kind = entry.partition(":")
        kind = kind or config.sample.group_schedule
        named(config, name)
        if number <= num_tokens:
            sizes = build.scheduled_sizes(kind, number, num_tokens)
            kind = kind if kind in groups.KINDS else "fitted"
            choices = repulsions if name == "locality" else (None,)
            found += [Schedule(name, choice, sizes, kind) for choice in choices]
    if not found:
        raise InputError("likelihood.orders and likelihood.steps must name at least one schedule.")
    return found


def named(config: ConfigDict, name: str, repulsion: float | None = None) -> Any:
    """The order of this name, or of `config.sample.order_field`.

    Raises:
        InputError: there is no such order, or no field was given.
    """
    if name != "field":
        return orders.named(name, config.sample.proximity, repulsion or 0.0)
    if not config.sample.order_field:
        raise InputError(
            "likelihood.orders names 'field', which needs a file of fit_order; give "
            "--config.sample.order_field=FILE."
        )
    return build.order(config.sample)


def _measure(
    config: ConfigDict, workdir: storage.Path, chosen: Sequence[Schedule], unknown: np.ndarray
) -> list[Score]:
    section, mesh, rules = config.likelihood, build.mesh(config), build.rules(config)
    bits, count, grid = scoring.prepare(config, workdir, section.split, section.images)
    scores, progress = [], tqdm(chosen, "likelihood", unit="schedule", dynamic_ncols=True)
    with parallel.use(mesh, rules):
        for schedule in progress:
            scores.append(measure(bits, schedule, config, grid, count, unknown))
            progress.set_postfix_str(f"{schedule.name} {scores[-1].bits_per_token:.3f}")
    return scores


def measure(
    bits: Bits,
    schedule: Schedule,
    config: ConfigDict,
    grid: tuple[int, int],
    count: int,
    unknown: np.ndarray,
) -> Score:
    """The score of one schedule; draw r of image i has its address from the seed, r and i."""
    order = named(config, schedule.order, schedule.repulsion)
    indices, found, drawn = np.arange(count, dtype=np.int32), [], []
    for draw in range(config.likelihood.draws):
        key = jax.random.fold_in(jax.random.key(config.seed), draw)
        own = jax.device_get(_drawn(order, key, indices, unknown, grid, schedule.group_sizes))
        drawn.append(own)
        found.append(bits_given(bits, own, step_of(schedule.group_sizes), unknown))
    return score(np.stack(found), np.stack(drawn), len(unknown))


def _drawn(
    order: Any,
    key: jax.Array,
    indices: np.ndarray,
    unknown: np.ndarray,
    grid: tuple[int, int],
    group_sizes: tuple[int, ...],
) -> jax.Array:
    """Orders int32 [M, K] of the unknown cells, those that images or edits `indices` get."""
    if unknown.all():
        return draw_orders(order, key, indices, grid, group_sizes)
    every = np.broadcast_to(unknown, (len(indices), len(unknown)))
    return _of_unknown(order, image_keys(key, indices)[0], every, grid, group_sizes)


_of_unknown = jax.jit(editing.orders_of_unknown, static_argnames=("grid", "group_sizes"))


def rows(chosen: Sequence[Schedule], scores: Sequence[Score], draws: int) -> list[dict[str, Any]]:
    """One row of JSON data for each schedule.

    `price_of_parallelism` is against one token a step in the same order, `price_of_order` that
    against the best order at one token a step, `against_best` against the best order in as many
    steps; the two last are means of differences image by image, with their standard errors.
    """
    single = {s.single: x for s, x in zip(chosen, scores, strict=True) if max(s.group_sizes) == 1}
    best = min(single.values(), key=lambda x: x.bits_per_token, default=None)
    found = []
    for schedule, own in zip(chosen, scores, strict=True):
        steps = len(schedule.group_sizes)
        rivals = [x for s, x in zip(chosen, scores, strict=True) if len(s.group_sizes) == steps]
        against = difference(own, min(rivals, key=lambda x: x.bits_per_token))
        row = {
            "order": schedule.order,
            "repulsion": schedule.repulsion,
            "groups": schedule.groups,
            "steps": steps,
            "group_sizes": schedule.group_sizes,
            "bits_per_token": own.bits_per_token,
            "standard_error": own.standard_error,
            "standard_error_images": own.standard_error_images,
            "images": len(own.by_image),
            "draws": draws,
            "against_best": against[0],
            "against_best_se": against[1],
        }
        if (alone := single.get(schedule.single)) is not None:
            row["price_of_parallelism"] = own.bits_per_token - alone.bits_per_token
            row["price_of_order"], row["price_of_order_se"] = difference(alone, best)
        found.append({name: _plain(value) for name, value in row.items()})
    return found


def points(found: Sequence[dict[str, Any]]) -> dict[str, list[Point]]:
    """Steps and bits of each schedule by its name, for the picture of those that none beats."""
    named: dict[str, list[Point]] = {}
    for row in found:
        name = label(row["order"], row["repulsion"], row["groups"])
        own = row["steps"], row["bits_per_token"], f"{row['steps']} steps"
        named.setdefault(name, []).append(own)
    return named


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line for each order, a column for each number of steps, the best in bold."""
    head, lines = by_order(found, "**{}**")
    rule = "|---" * len(head) + "|"
    return "\n".join([_line(head), rule, *map(_line, lines)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _write(
    directory: storage.Path,
    chosen: Sequence[Schedule],
    scores: Sequence[Score],
    grid: tuple[int, int],
    section: ConfigDict,
) -> None:
    found = rows(chosen, scores, section.draws)
    images, draws = found[0]["images"], section.draws
    what = f"cells in the box {tuple(section.box)} of {images}" if section.box else f"{images}"
    head = (
        f"Bits per token of {what} images ({section.split}), {draws} draws of orders, without "
        "guidance; less is better.\n\n"
    )
    storage.write_text(directory / "likelihood.md", head + table(found))
    named = [
        {"name": s.name, "x": r["steps"], "bits per token": (x.bits_per_token, x.standard_error)}
        for s, x, r in zip(chosen, scores, found, strict=True)
    ]
    axis = sorted({row["steps"] for row in found}, reverse=True)
    plots.save(plots.error_bars(named, ["bits per token"], axis, "steps"), directory / "bits.png")
    plots.save(pareto(points(found), "steps", "bits per token"), directory / "pareto.png")
    fewest = min(axis)
    shown = [p for p in zip(chosen, scores, strict=True) if len(p[0].group_sizes) == fewest]
    by_step = {s.name: (x.by_position, s.group_sizes) for s, x in shown}
    plots.save(pictures.cost_by_step(by_step), directory / "steps.png")
    maps = {s.name: x.by_cell.reshape(grid) for s, x in shown}
    plots.save(pictures.cell_maps(maps, fewest), directory / "cells.png")
    write_json(directory / LAST, found)
