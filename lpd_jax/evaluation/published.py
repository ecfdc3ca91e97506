"""What the paper reports for its models on ImageNet (arXiv 2507.01957, tables 1 and 2).

50,000 images, 50 of each class in class order, torch-fidelity's FID and inception score against
the statistics of ADM's reference batch; precision and recall where the paper has them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Published:
    """Figures of one model under the settings that they were made with.

    Attributes:
        config: name of the config with these settings.
        size: of an image, in pixels.
        width, depth: of the decoder.
        steps: of an image.
        guidance, repulsion: of the sampling; proximity is 1, the guidance linear, the temperature 1
            and no code is ruled out.
        figures: name in the report -> value.
    """

    config: str
    size: int
    width: int
    depth: int
    steps: int
    guidance: float
    repulsion: float
    figures: Mapping[str, float]


COUNT = 50_000  # images
_L, _XL, _XXL = (1024, 24), (1280, 36), (1536, 48)


def _of(fid: float, score: float) -> dict[str, float]:
    return {"fid": fid, "inception_score": score}


_SHARES = {"precision": 0.80, "recall": 0.60}
PUBLISHED = (
    Published("lpd_256:L", 256, *_L, 20, 4.8, 2.0, _of(2.40, 284.5)),
    Published("lpd_256:XL", 256, *_XL, 20, 4.9, 2.0, _of(2.10, 326.7)),
    Published("lpd_256:XXL", 256, *_XXL, 20, 5.9, 3.0, _of(2.00, 337.6) | _SHARES),
    Published("lpd_256:L-32", 256, *_L, 32, 5.4, 2.0, _of(2.29, 282.7)),
    Published("lpd_256:XL-32", 256, *_XL, 32, 5.0, 2.0, _of(1.92, 319.4)),
    Published("lpd_512:L", 512, *_L, 48, 7.3, 4.0, _of(2.54, 292.2)),
    Published("lpd_512:XL", 512, *_XL, 48, 6.0, 4.0, _of(2.10, 326.0)),
)

# What ADM's evaluator gives for its own published samples: the gate of `docs/evaluation.md`.
ADM_SAMPLES = {
    "file": "admnet_guided_upsampled_imagenet256.npz",
    "fid": 3.943,
    "sfid": 6.140,
    "inception_score_adm": 215.84,
    "precision": 0.8265,
    "recall": 0.5309,
}


def published(
    size: int, decoder: Mapping[str, Any], sample: Mapping[str, Any], count: int
) -> Published | None:
    """The paper's figures for these settings; None where it has none.

    Args:
        size: of an image, in pixels.
        decoder: the network's config, of `model.json`.
        sample: the sample section.
        count: images that are judged.
    """
    usual = {"order": "locality", "proximity": 1.0, "guidance_schedule": "linear"}
    usual |= {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "group_schedule": "cosine"}
    if count != COUNT or any(sample[name] != value for name, value in usual.items()):
        return None
    if sample["group_sizes"] or sample["order_file"] or sample["quantize"]:
        return None
    names = ("steps", "guidance", "repulsion")
    own = (size, decoder["width"], decoder["depth"], *(sample[name] for name in names))
    for row in PUBLISHED:
        if own == (row.size, row.width, row.depth, row.steps, row.guidance, row.repulsion):
            return row
    return None
