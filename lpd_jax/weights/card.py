"""A model card beside weights that are given away: what they are, and how they are used."""

from collections.abc import Mapping
from typing import Any

_NAMES = 20  # of classes that are written out


def model_card(
    file: str,
    about: Mapping[str, Any],
    training: Mapping[str, Any] | None,
    figures: Mapping[str, float] | None,
    licence: str,
) -> str:
    """Markdown with the header that model hubs read.

    Args:
        file: name of the weights.
        about: `model.json` of the model.
        training: its settings, where it was trained here.
        figures: name -> number, what was measured at the end of training.
        licence: identifier such as "mit"; what is empty is said to be not stated.
    """
    kind, config = about["kind"], about["config"]
    header = {"license": licence or "unknown", "tags": "[jax, image-generation, lpd]"}
    parts = [
        "---\n" + "\n".join(f"{key}: {value}" for key, value in header.items()) + "\n---",
        f"# {file}",
        f"The {kind} of a locality-aware parallel decoding model (LPD, arXiv 2507.01957), "
        "in the layout of the official PyTorch code; written by lpd_jax.",
        f"Licence of the weights: {licence or 'not stated'}.",
        _section("Sizes", config),
    ]
    if kind == "decoder":
        parts.append(f"## Classes\n\n{_classes(about['class_names'])}")
        parts.append(_section("How it is sampled", about.get("sampling") or {}))
    if origin := about.get("converted"):
        parts.append(f"## Origin\n\nConverted from {origin['file']}, sha256 {origin['sha256']}.")
    for name, section in (training or {}).items():
        if isinstance(section, Mapping):
            parts.append(_section(f"Trained with: {name}", section))
    if figures:
        parts.append(_section("Figures at the end of training", figures))
    parts.append(
        f"## Use\n\n```bash\npython -m lpd_jax convert --config=CONFIG --workdir=DIR "
        f"--config.convert.{kind}={file}\n```"
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {key} | {_text(value)} |" for key, value in rows.items()]
    return "\n".join([f"## {title}\n", "| | |", "|---|---|", *lines]) if lines else ""


def _classes(names: list[str]) -> str:
    more = f", and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return f"{len(names)}: {', '.join(names[:_NAMES])}{more}."


def _text(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
