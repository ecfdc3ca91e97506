"""What a click is in Python and on the command line, ready to copy."""

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

from lpd_jax.demo.requests import Request, own_steps, steps_given
from lpd_jax.sampler import Sampler


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the models of the page come from, as a command names it.

    Attributes:
        models: directory of the models.
        loading: arguments of `Sampler.load` that are not left out.
        config, workdir, checkpoint: what follows those flags; checkpoint may be empty.
        fields: the `sample` section of the config as it is without further flags.
        changed: fields of that section that the page was started with.
    """

    models: str
    loading: Mapping[str, Any]
    config: str
    workdir: str
    checkpoint: str
    fields: Mapping[str, Any]
    changed: Mapping[str, Any]


def python(origin: Origin, sampler: Sampler, asked: Request, cells: np.ndarray | None) -> str:
    """The call as Python; `cells` bool [h, w] are those that an edit generates."""
    loading = "".join(f", {name}={value!r}" for name, value in origin.loading.items())
    arguments = {
        "steps": steps_given(sampler, asked.steps),
        "guidance": asked.guidance,
        "temperature": asked.temperature,
        "order": f'orders.named("{asked.order}", {asked.proximity:g}, {asked.repulsion:g})',
        "seed": asked.seed,
    }
    given = ", ".join(f"{name}={_plain(value)}" for name, value in arguments.items())
    names = ", ".join(_names(sampler, asked.classes))
    lines = [
        "import lpd_jax",
        "from lpd_jax.generation import orders",
        "",
        f"sampler = lpd_jax.Sampler.load({origin.models!r}{loading})",
        f"labels = {asked.labels}  # {names}",
    ]
    if cells is None:
        lines += [f"images = sampler(labels, {given})  # uint8 [images, height, width, 3]"]
    else:
        lines[0:0] = ["import numpy as np"]
        height, width = sampler.image_size
        lines += [
            f"mask = np.zeros({cells.shape}, bool)  # cells to generate",
            f"mask.ravel()[{np.flatnonzero(cells).tolist()}] = True",
            f"# images: uint8 [{asked.count}, {height}, {width}, 3], yours",
            f"images = sampler.edit(images, mask, labels, {given}).images",
        ]
    return "\n".join(lines)


def command(origin: Origin, sampler: Sampler, asked: Request, editing: bool) -> str:
    """The call as a command line: the fields that the config has otherwise."""
    wanted = dict(origin.changed) | dataclasses.asdict(sampler.defaults)
    wanted |= {"temperature": asked.temperature, "order": asked.order}
    wanted |= {"proximity": asked.proximity, "repulsion": asked.repulsion, "steps": asked.steps}
    wanted |= {"guidance": asked.guidance, "order_file": ""}
    if asked.steps != own_steps(sampler):
        wanted["group_sizes"] = ()
    section = "edit" if editing else "sample"
    flags = [f"--config.{section}.labels={','.join(map(str, asked.classes))}"]
    if not editing:
        flags += [f"--config.sample.count={-(-asked.count // len(asked.classes))}"]
    for name, value in wanted.items():
        if name in origin.fields and not _same(value, origin.fields[name]):
            text = ",".join(map(str, value)) if isinstance(value, tuple | list) else _plain(value)
            flags += [f"--config.sample.{name}={text}"]
    flags += [f"--config.seed={asked.seed}"]
    if editing:
        flags += ["--config.edit.images=image.png", "--config.edit.mask=mask.png"]
    where = [f"--config={origin.config}", f"--workdir={origin.workdir}"]
    where += [f"--checkpoint={origin.checkpoint}"] if origin.checkpoint else []
    words = ["python", "-m", "lpd_jax", section, *where, *flags]
    return " ".join(shlex.quote(word) for word in words)


def _names(sampler: Sampler, classes: tuple[int, ...]) -> list[str]:
    return [[*sampler.class_names, "any"][label] for label in classes]


def _plain(value: Any) -> str:
    """A number as one writes it: 2 and 0.95, not 2.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, tuple | list):
        return list(ours) == list(theirs)
    return ours == theirs
