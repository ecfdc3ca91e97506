"""What the fields of a config are, read off `configs/base.py`: names, values and comments."""

import ast
import textwrap
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lpd_jax.configs import base

_WIDTH = 100


def listed(config: ConfigDict, sections: set[str]) -> str:
    """A line for each field of those sections, and of the fields outside of any section.

    Args:
        config: whose values are shown.
        sections: names of sections of `base`, in whose order they come.
    """
    notes = comments()
    lines = []
    for section, value in [("", config), *config.items()]:
        if section and (section not in sections or not isinstance(value, ConfigDict)):
            continue
        if section in notes:
            lines += textwrap.wrap(f"{section}: {notes[section]}", _WIDTH, initial_indent="  ")
        fields = [(name, x) for name, x in value.items() if not isinstance(x, ConfigDict)]
        for name, x in fields:
            path = f"{section}.{name}" if section else name
            lines += _line(path, x, notes.get(path, ""))
    return "\n".join(lines)


def comments() -> dict[str, str]:
    """What `configs/base.py` says of each field that it comments on: "sample.steps" -> text.

    A comment stands behind a field or in the lines before it.
    """
    source = Path(base.__file__).read_text("utf-8")
    lines = source.splitlines()
    found = {}
    for node in ast.walk(ast.parse(source)):
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if not isinstance(target, ast.Attribute) or getattr(target.value, "id", "") != "config":
            continue
        if text := _comment(lines, node.lineno):
            found[target.attr] = text
        for part in ast.walk(node.value):
            if isinstance(part, ast.Dict):
                for key in part.keys:
                    if text := _comment(lines, key.lineno):
                        found[f"{target.attr}.{key.value}"] = text
    return found


def read_by(source: str) -> set[str]:
    """Sections that the source text of a task reads: the X of its `config.X`."""
    return {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "config"
    }


def imported(source: str, package: str) -> set[str]:
    """The X of `from package import X` in a source text."""
    return {
        alias.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.module == package
        for alias in node.names
    }


def _comment(lines: list[str], number: int) -> str:
    """The comment in line `number` (from 1), else in the lines of nothing else above it."""
    line = lines[number - 1]
    _, mark, text = line.partition("  # ")
    if mark:
        return text.strip()
    above = []
    while (before := lines[number - 2].strip()).startswith("# "):
        above.insert(0, before.removeprefix("# "))
        number -= 1
    return " ".join(above)


def _line(path: str, value: Any, note: str) -> list[str]:
    text = f"  {path}={value!r}"
    if not note:
        return [text]
    if len(text) + len(note) + 3 <= _WIDTH:
        return [f"{text:<44} {note}"] if len(text) < 44 else [f"{text}  {note}"]
    return [text, *textwrap.wrap(note, _WIDTH, initial_indent=45 * " ", subsequent_indent=45 * " ")]
