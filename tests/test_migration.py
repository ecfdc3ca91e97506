"""Whoever comes from the official repository finds each of its files and flags in the guide."""

import json
import re
from pathlib import Path

import pytest

from lpd_jax import __main__ as cli
from lpd_jax.configs import base

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs/migration.md").read_text()
OFFICIAL = json.loads((ROOT / "tests/reference/official_names.json").read_text())
# Headings and what stands under each.
SECTIONS = dict(re.findall(r"^## (.*)\n((?:(?!^## ).*\n)*)", GUIDE, re.MULTILINE))


def named(text):
    return set(re.findall(r"`([^`\n]+)`", text))


def rows(text):
    """First and second column of the rows of the tables in a section, without their heads."""
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [row[:2] for row in cells if row[0] != "there" and not row[0].startswith("---")]


@pytest.mark.parametrize("script", OFFICIAL["flags"])
def test_every_official_flag_is_in_the_guide_under_its_script(script):
    assert set(OFFICIAL["flags"][script]) <= named(SECTIONS[f"Flags of `{script}`"])


def test_every_official_file_has_a_row_with_a_counterpart():
    table = rows(SECTIONS["Files"])
    assert set(OFFICIAL["files"]) == set().union(*(named(there) for there, _ in table))
    for there, here in table:
        ours = [name for name in named(here) if re.search(r"\.\w+$", name) and "/" in name]
        assert ours or "--config=" in here, there
        for name in ours:
            assert (ROOT / name).exists(), name


def test_fields_and_flags_that_the_guide_names_exist():
    config, flags = base.get_config(), set(cli._define())
    for title, text in SECTIONS.items():
        for _, here in rows(text) if title.startswith("Flags") else ():
            for name in named(here):
                field = re.fullmatch(r"([a-z_]+)\.([a-z_]+)", name)
                if field:
                    assert field[2] in config[field[1]], name
                elif name.startswith("--"):
                    assert name.removeprefix("--") in flags, name


def test_the_list_of_flags_is_whole():
    assert len(OFFICIAL["flags"]["main.py"]) == 58
    assert sum(map(len, OFFICIAL["flags"].values())) == 94
