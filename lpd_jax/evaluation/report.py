"""One report of a run as JSON for programs, Markdown for reviews, HTML and a table for people.

Figures come first, in groups, each beside that of real images and what it is held to; then the
classes, worst first; the settings; the pictures.
"""

import base64
import html
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from lpd_jax import storage
from lpd_jax.evaluation import figures, likelihood
from lpd_jax.evaluation.figures import show

# Of a thousand classes, the tables show the worst; report.json has all.
CLASSES_SHOWN = 20

# Columns that are set to the right.
NUMBERS = frozenset(
    {"value", "± error", "published", "real images", "bar", "images", "class accuracy"}
)

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:60rem;"
    "margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:.5rem 0 1.5rem}"
    "td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #ddd}"
    ".number{text-align:right;white-space:nowrap}"
    ".good{color:#00664b}.short{color:#b03a00;font-weight:bold}"
    "img{max-width:100%;image-rendering:pixelated}figure{margin:1.5rem 0}"
)

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]  # title, head, cells


def write_report(
    directory: storage.Where, report: Mapping[str, Any], pictures: Mapping[str, storage.Path]
) -> storage.Path:
    """Writes `report.json`, `report.md` and `report.html` (self-contained) into `directory`.

    Args:
        directory: created when absent.
        report: nested figures, JSON data but for NaN, which is written as null. `figures.FIGURES`
            explains the usual ones, `report["bars"]` (key -> number) says what they are held to,
            `report["classes"]` has those of each class, see `Judge.by_class`,
            `report["likelihood"]` the rows of a likelihood.json.
        pictures: caption -> PNG or GIF file, in the order shown.

    Returns:
        Path of the HTML page.
    """
    directory = storage.path(directory)
    page = directory / "report.html"
    files = {
        directory / "report.json": json.dumps(_json(report), indent=2, allow_nan=False) + "\n",
        directory / "report.md": _markdown(report, pictures, directory),
        page: _html(report, pictures),
    }
    for file, text in files.items():
        storage.write_text(file, text)
    return page


def table(report: Mapping[str, Any]) -> str:
    """The explained figures of `report` and its worst classes, aligned for a terminal."""
    lines = []
    for title, head, cells in _figure_tables(report):
        shown = [[title, *head[1:-1]], *(row[:-1] for row in cells)]  # without the meaning
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        for row in shown:
            padded = (
                cell.rjust(width) if name in NUMBERS - {"bar"} else cell.ljust(width)
                for name, cell, width in zip(head[:-1], row, widths, strict=True)
            )
            lines.append("  ".join(padded).rstrip())
        lines.append("")
    classes = report.get("classes", {})
    worst = [(n, c["accuracy"]) for n, c in _worst(classes) if figures.known(c["accuracy"])]
    if schedules := report.get("likelihood"):
        least = min(schedules, key=lambda row: row["bits_per_token"])
        lines.append(
            f"likelihood of {least['images']} held-out images: {least['bits_per_token']:.3f} bits "
            f"per token at best ({least['order']}, {least['steps']} steps)"
        )
    if worst:
        named = ", ".join(f"{name} {show(accuracy, '%')}" for name, accuracy in worst[:3])
        lines.append(f"worst of {len(classes)} classes: {named}")
    return "\n".join(lines).rstrip()


def _figure_tables(report: Mapping[str, Any]) -> list[Table]:
    """Columns that are empty throughout are left out."""
    columns = {"value": "value", "± error": "error", "published": "published"}
    columns |= {"real images": "real", "bar": "bar", "verdict": "verdict"}
    tables = []
    for group, rows in figures.rows(report).items():
        used = {
            head: name for head, name in columns.items() if any(getattr(row, name) for row in rows)
        }
        cells = [[r.name, *(getattr(r, name) for name in used.values()), r.meaning] for r in rows]
        tables.append((group, ["figure", *used, "meaning"], cells))
    return tables


def _tables(report: Mapping[str, Any]) -> list[Table]:
    tables = _figure_tables(report)
    if classes := report.get("classes"):
        worst = _worst(classes)[:CLASSES_SHOWN]
        title = "classes" if len(worst) == len(classes) else f"the worst of {len(classes)} classes"
        cells = [
            [name, str(c["count"]), show(c["accuracy"], "%"), show(c["heldout_accuracy"], "%")]
            for name, c in worst
        ]
        tables.append((title, ["class", "images", "class accuracy", "real images"], cells))
    if schedules := report.get("likelihood"):
        head, cells = likelihood.by_order(schedules, "{} *")
        images = schedules[0]["images"]
        title = (
            f"likelihood: bits per token of {images} held-out images by order and steps (* least)"
        )
        tables.append((title, head, cells))
    explained = {key for group in figures.FIGURES.values() for key in group}
    known = [figure for group in figures.FIGURES.values() for figure in group.values()]
    explained |= {key for figure in known for key in (figure.real, figure.error, figure.published)}
    rest = [
        [key.removeprefix("samples.settings."), show(value)]
        for key, value in figures.flatten(report)
        if key not in explained and value not in ("", [], ())
    ]
    return [*tables, ("settings", ["setting", "value"], rest)] if rest else tables


def _worst(classes: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Classes by accuracy, those without one last."""

    def rank(item: tuple[str, Mapping[str, Any]]) -> tuple[bool, float]:
        accuracy = item[1]["accuracy"]
        return (False, accuracy) if figures.known(accuracy) else (True, 0)

    return sorted(classes.items(), key=rank)


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json(inner) for inner in value]
    return value if figures.known(value) else None


def _markdown(
    report: Mapping[str, Any], pictures: Mapping[str, storage.Path], directory: storage.Path
) -> str:
    lines = ["# Report"]
    for title, head, cells in _tables(report):
        lines += ["", f"## {title.capitalize()}", ""]
        rule = ["---:" if _is_number(name) else "---" for name in head]
        cells = [[cell.replace("|", "\\|") for cell in row] for row in cells]
        lines += [f"| {' | '.join(row)} |" for row in (head, rule, *cells)]
    for caption, file in pictures.items():
        link = pathlib.Path(os.path.relpath(file, directory)).as_posix().replace(" ", "%20")
        lines += ["", f"## {caption}", "", f"![{caption}]({link})"]
    return "\n".join(lines) + "\n"


def _html(report: Mapping[str, Any], pictures: Mapping[str, storage.Path]) -> str:
    sections = "".join(
        f"<h2>{html.escape(title.capitalize())}</h2>\n<table>\n"
        f"{_html_row('th', head, head)}{''.join(_html_row('td', head, row) for row in cells)}"
        "</table>\n"
        for title, head, cells in _tables(report)
    )
    shown = "".join(
        f'<figure><figcaption>{html.escape(caption)}</figcaption><img src="{_embed(file)}" '
        f'alt="{html.escape(caption)}"></figure>\n'
        for caption, file in pictures.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Report</title>\n'
        f"<style>{STYLE}</style>\n<h1>Report</h1>\n{sections}<h2>Pictures</h2>\n{shown}</html>\n"
    )


def _html_row(tag: str, head: Sequence[str], row: Sequence[str]) -> str:
    cells = []
    for name, cell in zip(head, row, strict=True):
        kind = "number" if _is_number(name) else cell if name == "verdict" else ""
        mark = f' class="{kind}"' if kind else ""
        cells.append(f"<{tag}{mark}>{html.escape(cell)}</{tag}>")
    return f"<tr>{''.join(cells)}</tr>\n"


def _is_number(head: str) -> bool:
    """Whether a column is set to the right; one for each number of steps is too."""
    return head in NUMBERS or head.isdigit()


def _embed(file: storage.Path) -> str:
    kind = file.suffix.lstrip(".").lower()
    return f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
