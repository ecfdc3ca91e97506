"""Repeated measurements in one table: mean and standard error over seeds.

A result is a flat mapping: what was measured ("name", "x"), and numbers by metric.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Mean(NamedTuple):
    """Mean of some measurements and its standard error (NaN of a single one; both of none)."""

    mean: float
    error: float
    count: int

    def __str__(self) -> str:
        if not self.count:
            return ""
        return f"{self.mean:.3f}" + ("" if math.isnan(self.error) else f" ± {self.error:.3f}")


def mean_of(values: Sequence[float]) -> Mean:
    """Mean with the standard error s / sqrt(n), where s has n - 1 degrees of freedom."""
    if len(values) == 0:
        return Mean(math.nan, math.nan, 0)
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Mean(float(np.mean(values)), float(error), len(values))


def summarise(results: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each (name, x), in order of appearance: name, x, and a `Mean` per metric.

    A metric that a result lacks, or has as None, was not measured there.
    """
    cells: dict[tuple, list] = {}
    for result in results:
        cells.setdefault((result["name"], result["x"]), []).append(result)
    return [
        {"name": name, "x": x}
        | {m: mean_of([r[m] for r in found if r.get(m) is not None]) for m in metrics}
        for (name, x), found in cells.items()
    ]


def csv_table(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], x: str) -> str:
    """One line per row: name, x, seeds, and each metric with its standard error."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", x, "seeds", *(f"{m}{end}" for m in metrics for end in ("", "_se"))])
    for row in rows:
        numbers = [number for m in metrics for number in (row[m].mean, row[m].error)]
        shown = ["" if math.isnan(number) else f"{number:.6g}" for number in numbers]
        writer.writerow([row["name"], row["x"], row[metrics[0]].count, *shown])
    return text.getvalue()


def markdown_table(rows: Sequence[Mapping[str, Any]], metric: str, x: str) -> str:
    """Names down, `x` across, mean ± standard error of one metric inside."""
    names, columns = list(dict.fromkeys(row["name"] for row in rows)), axis(rows)
    cells = {(row["name"], row["x"]): str(row[metric]) for row in rows}
    lines = [
        [f"{metric} by {x}", *map(str, columns)],
        ["---", *["---:"] * len(columns)],
        *([name, *(cells.get((name, column), "") for column in columns)] for name in names),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def axis(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The different `x`: numbers ascending, anything else in order of appearance."""
    values = list(dict.fromkeys(row["x"] for row in rows))
    return sorted(values) if all(isinstance(x, int | float) for x in values) else values
