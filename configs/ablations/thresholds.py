"""Repulsion and proximity of the locality-aware order, from one decoder, on the digits.

python -m lpd_jax ablate --config=configs/ablations/thresholds.py --workdir=runs/digits
"""

from ml_collections import ConfigDict

from lpd_jax.configs.ablations import orders


def get_config() -> ConfigDict:
    """One curve per proximity threshold, over the repulsion; 8 steps of 8x8 codes."""
    config = orders.get_config()
    config.sample.steps = 8
    config.ablation.update(
        name="thresholds",
        variants=tuple(
            (f"proximity {near:g}", {"sample.proximity": near, "sample.repulsion": apart})
            for near in (0.5, 1.0, 2.0, 3.0)
            for apart in (0.0, 1.0, 2.0, 3.0)
        ),
        x="sample.repulsion",
    )
    return config
