"""The order that the model chooses against given ones, from one decoder, on the digits.

python -m lpd_jax ablate --config=configs/ablations/confident.py --workdir=runs/digits
"""

from ml_collections import ConfigDict

from lpd_jax.configs.ablations import orders

_GIVEN = (("locality", {"sample.order": "locality"}), ("spread", {"sample.order": "spread"}))
_NOISE = tuple(
    (f"confident, noise {noise:g}", {"sample.order": "confident", "sample.confidence_noise": noise})
    for noise in (0.0, 1.0, 4.5)
)


def get_config() -> ConfigDict:
    """One curve per rule, over the number of passes; three seeds."""
    config = orders.get_config()
    config.ablation.update(
        name="confident",
        seeds=(0, 1, 2),
        variants=tuple(
            (name, diff | {"sample.steps": steps})
            for name, diff in _GIVEN + _NOISE
            for steps in (16, 10, 6)
        ),
        x="sample.steps",
    )
    return config
