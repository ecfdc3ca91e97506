"""Task: finds guidance, temperature and repulsion under which images are best, and judges those.

    python -m lpd_jax search --config=lpd_256:XL --workdir=runs/xl --checkpoint=weights/xl \\
        --config.search.guidances=3,4,5,6 \\
        --config.evaluate.inception=weights-inception-2015-12-05-6726825d.pth \\
        --config.evaluate.reference=VIRTUAL_imagenet256_labeled.npz

Each combination is judged by the FID of `search.num_images` images; without weights, by the
distance of the judge. Figures of few images are biased upwards, all alike, so that they choose but
do not compare with others: the last run, `evaluate` with the best on evaluate.num_images, does.
With --config.search.final=false its command is printed instead.
"""

import dataclasses
import itertools
import logging
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from lpd_jax import storage
from lpd_jax.errors import InputError
from lpd_jax.tasks import build, evaluate, judging, measuring
from lpd_jax.tasks.workdir import alone, claim, digest, plain, timed, write_json, writing
from lpd_jax.viz import plots

_LOG = logging.getLogger(__name__)
NAMES = ("guidance", "temperature", "repulsion")
LAST = "search.json"


def run(config: ConfigDict, workdir: storage.Where) -> storage.Path:
    """Judges every combination, then the best; returns the directory of `search.{json,md,png}`.

    What was judged already is not judged again.

    Raises:
        InputError: a setting, the weights or the reference do not fit the model.
    """
    workdir, chosen = storage.path(workdir), config.search
    if chosen.final and config.evaluate.inception and not config.evaluate.num_images:
        raise InputError(
            "evaluate.num_images=0: say on how many images the best is to be judged, such as "
            "--config.evaluate.num_images=50000; or leave that out, --config.search.final=false."
        )
    about = build.about(config, workdir)
    load = measuring.loader(config, workdir)
    base = judging.section(config, config.evaluate.steps)
    values = [tuple(chosen[f"{name}s"]) or (base[name],) for name in NAMES]
    judge, metric, by = _judge(config, workdir, about)
    settings = {
        "seed": config.seed,
        "model": about["identity"],
        "sample": build.deciding(base),
        "search": {name: value for name, value in plain(chosen).items() if name != "final"},
        "by": by,
    }
    directory = workdir / "search" / f"{metric}-seed{config.seed}-{digest(settings)}"
    with timed(workdir, "search"), alone(directory):
        claim(directory, settings, config)
        rows = []
        for combination in itertools.product(*values):
            section = base.copy_and_resolve_references()
            section.update(dict(zip(NAMES, combination, strict=True)))
            source = measuring.generated(config, about, section, chosen.num_images, load)
            own = dict(zip(NAMES, combination, strict=True)) | judge(source)
            rows.append(own)
            _LOG.info("search: %s", ", ".join(f"{k} {v}" for k, v in own.items()))
        best = min(rows, key=lambda row: row[metric])
        if jax.process_index() == 0:
            with writing(directory):
                _write(directory, rows, best, metric, chosen.num_images)
    _LOG.info("search: the best is judged by\n%s", final(sys.argv, best))
    if chosen.final:
        last = config.copy_and_resolve_references()
        last.sample.update({name: best[name] for name in NAMES})
        evaluate.run(last, workdir)
    return directory


def _judge(
    config: ConfigDict, workdir: storage.Path, about: dict[str, Any]
) -> tuple[Callable[[measuring.Source], dict[str, float]], str, dict[str, str]]:
    """Source -> its figures; the one that chooses; and what they depend on."""
    chosen, size = config.evaluate, tuple(about["image_size"])
    if not chosen.inception:
        judging.check_data(config, size)

        def by_judge(source: measuring.Source) -> dict[str, float]:
            place = workdir / "report" / source.name
            found = judging.by_units(config, source, place, about["class_names"])["samples"]
            return {name: found[name] for name in ("frechet", "class_accuracy")}

        return by_judge, "frechet", {"data": plain(config.data)}
    of = measuring.network(chosen.inception)
    if not chosen.reference:
        raise InputError("a search by FID needs a reference; give --config.evaluate.reference=...")
    how = (size, workdir, config.sample.batch_size, about["config"]["num_classes"])
    real = measuring.real(chosen.reference, of, *how)
    # Precision and recall choose nothing here, and cost most.
    few = measuring.Real(dataclasses.replace(real.reference, pool3=None))

    def by_network(source: measuring.Source) -> dict[str, float]:
        units = measuring.features(source, of, workdir / "report" / source.name)
        found = measuring.figures(units, few, of, workdir)
        return {
            "fid": found["fid"]["value"],
            "fid_error": found["fid"]["error"],
            "inception_score": found["inception_score"]["value"],
        }

    by = {"weights": of.identity, "reference": real.reference.sha256}
    return by_network, "fid", by


def final(command: Sequence[str], best: dict[str, float]) -> str:
    """The command that judges the best settings, from that of the search."""
    kept = [word for word in command[1:] if not word.startswith("--config.search.")]
    kept = ["evaluate" if word == "search" else word for word in kept]
    named = tuple(f"--config.sample.{name}" for name in NAMES)
    kept = [word for word in kept if not word.startswith(named)]
    own = [f"--config.sample.{name}={best[name]:g}" for name in NAMES if best[name] is not None]
    return " ".join(["lpd", *kept, *own])


def _write(
    directory: storage.Path,
    rows: list[dict[str, float]],
    best: dict[str, float],
    metric: str,
    count: int,
) -> None:
    columns = list(rows[0])
    lines = [f"| {' | '.join(columns)} |", "|---:" * len(columns) + "|"]
    for row in rows:
        cells = (f"{value:.4g}" if value is not None else "None" for value in row.values())
        lines.append(f"| {' | '.join(cells)} |")
    head = f"{metric} of {count} images for each row; the least is {best[metric]:.4g}, at "
    head += ", ".join(f"{name} {best[name]}" for name in NAMES) + ".\n\n"
    storage.write_text(directory / "search.md", head + "\n".join(lines) + "\n")
    axis = max(NAMES, key=lambda name: len({row[name] for row in rows}))
    others = [name for name in NAMES if name != axis and len({row[name] for row in rows}) > 1]
    drawn = [
        {
            "name": ", ".join(f"{name} {row[name]}" for name in others) or metric,
            "x": row[axis],
            metric: (row[metric], row.get(f"{metric}_error", math.nan)),
        }
        for row in rows
    ]
    ticks = sorted({row[axis] for row in rows}, key=lambda x: (x is None, x))
    plots.save(plots.error_bars(drawn, [metric], ticks, axis), directory / "search.png")
    write_json(directory / LAST, {"best": best, "rows": rows, "metric": metric, "images": count})
