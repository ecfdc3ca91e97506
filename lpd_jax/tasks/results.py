"""Results that are named by what made them: a directory for each model and set of settings."""

import contextlib
import datetime
import html
import json
import pathlib
import re
import shutil
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

import lpd_jax
from lpd_jax import storage
from lpd_jax.errors import InputError
from lpd_jax.tasks.workdir import SETTINGS, digest, note_config, plain, write_json

_STYLE = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:2rem}td,th{padding:.3rem .7rem;"
    "text-align:left;vertical-align:top}img{max-width:24rem;max-height:12rem}"
    "tr:nth-child(even){background:#f4f4f4}"
)


def name(
    settings: Mapping[str, Any], steps: int, *, labels: Sequence[str] | None = None, of: str = ""
) -> str:
    """What a person tells results apart by, and a digest of all settings, model included.

    Args:
        settings: all that decides the result, with `seed` and a `sample` section.
        steps: of an image.
        labels: names of the classes, "all" when empty; left out when None.
        of: what else to begin with.
    """
    section = settings["sample"]
    parts = [
        of,
        order(section),
        f"{steps}steps",
        "cfgNone" if section["guidance"] is None else f"cfg{section['guidance']:g}",
        f"t{section['temperature']:g}",
        f"seed{settings['seed']}",
        "" if labels is None else _shortened(labels),
        digest(settings),
    ]
    return "-".join(part for part in parts if part)


def order(section: Mapping[str, Any]) -> str:
    """What a sample section generates in, for names: its order, or the kind of its file."""
    if section["order_file"]:
        return "orders"
    return "field" if section.get("order_field") else section["order"]


def _shortened(labels: Sequence[str]) -> str:
    """At most three names of at most twelve characters, fit for a file name."""
    names = [re.sub(r"[^\w.]+", "_", label)[:12] for label in dict.fromkeys(labels)]
    more = [f"{len(names) - 3}more"] if len(names) > 3 else []
    return "+".join(names[:3] + more) or "all"


def chunks(
    settings: Mapping[str, Any], labels: Iterable[int], names: Sequence[str]
) -> dict[str, str]:
    """Text chunks of a picture: what made it, and the settings that decide it as JSON.

    Args:
        settings: that decide it.
        labels: of the classes in the picture.
        names: of all classes; the picture has those of its own, as "classes".
    """
    classes = {str(int(label)): names[label] for label in sorted({*map(int, labels)})}
    return {
        "Software": f"lpd_jax {lpd_jax.__version__}",
        "lpd_jax": json.dumps(plain(dict(settings) | {"classes": classes})),
    }


@contextlib.contextmanager
def directory(
    final: storage.Path, settings: Mapping[str, Any], config: ConfigDict, last: str
) -> Iterator[pathlib.Path]:
    """Writes a directory of results whole or not at all; for process 0.

    What an earlier software left unfinished there is removed: a directory is finished when `last`
    is in it.

    Yields:
        A local directory to write files to; the settings and the config are added.

    Raises:
        InputError: it cannot be written.
    """
    try:
        if not storage.in_bucket(final) and final.is_dir() and not (final / last).is_file():
            shutil.rmtree(final)
        with storage.whole_directory(final, last) as partial:
            yield partial
            write_json(partial / SETTINGS, plain(dict(settings)))
            note_config(partial, config)
    except OSError as error:
        raise InputError(
            f"{final} cannot be written ({error.strerror or storage.brief(error)}) and nothing of "
            "it was kept; make room there, or give another --workdir, and run this again."
        ) from error


def index(parent: storage.Path, picture: str) -> None:
    """Writes `index.html` of all results below `parent` that have this picture, newest first.

    For process 0. Where the page cannot be written, the results are worth no less without it.
    """
    found = [file for file in parent.glob(f"*/{picture}") if not file.parent.name.startswith(".")]
    rows = "".join(
        _row(file.parent, picture, storage.modified(file))
        for file in sorted(found, key=storage.modified, reverse=True)
    )
    page = (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{parent.name}</title>\n'
        f"<style>{_STYLE}</style>\n<h1>{parent.name}</h1>\n<table>\n"
        f"<tr><th>picture</th><th>settings</th></tr>\n{rows}</table>\n</html>\n"
    )
    with contextlib.suppress(OSError):
        storage.write_text(parent / "index.html", page)


def _row(place: storage.Path, picture: str, seconds: float) -> str:
    try:
        settings = json.loads((place / SETTINGS).read_text())
    except (OSError, ValueError):
        settings = {}
    date = datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
    lines = [f"<b>{html.escape(place.name)}</b>", date]
    lines += [html.escape(f"{key} = {value}") for key, value in flat(settings)]
    link = urllib.parse.quote(f"{place.name}/{picture}")
    return (
        f'<tr><td><a href="{link}"><img src="{link}" alt="{html.escape(place.name)}"></a></td>'
        f"<td>{'<br>'.join(lines)}</td></tr>\n"
    )


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings one by one, a section's as "section.name"."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
