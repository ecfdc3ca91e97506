"""Every generation order at every number of steps, from one decoder, on the digits.

    python -m lpd_jax pipeline --config=configs/digits.py --workdir=runs/digits
    python -m lpd_jax ablate --config=configs/ablations/orders.py --workdir=runs/digits

An ablation is a base config and `ablation`: a list of variants, each a name and the fields in which
it differs. docs/ablations.md has the figures.
"""

from ml_collections import ConfigDict

from lpd_jax.configs import digits

ORDERS = (
    *("locality", "near", "spread", "random", "raster"),
    *("halton", "wavefront", "staggered", "regions"),
)
STEPS = (64, 32, 16, 10, 8, 6, 4)


def get_config() -> ConfigDict:
    """Variants are named by their order; each is a curve over the steps."""
    config = digits.get_config()
    config.sample.batch_size = 450  # all images in one call of the program
    config.ablation = ConfigDict(
        {
            "name": "orders",
            "variants": tuple(
                (order, {"sample.order": order, "sample.steps": steps})
                for order in ORDERS
                for steps in STEPS
            ),
            "x": "sample.steps",  # the field on the horizontal axis
            "seeds": (0, 1, 2, 3, 4),
            "retrain": False,  # True: each variant and seed trains a decoder of its own
            "only": -1,  # measure this variant alone, for an array of jobs; -1 measures all
        }
    )
    return config
