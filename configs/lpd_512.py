"""LPD on ImageNet at 512 px, as published: `--config=configs/lpd_512.py:L` (or XL).

Sampling from converted weights:

    python -m lpd_jax sample --config=configs/lpd_512.py:L --workdir=runs/l512 \\
        --config.checkpoint=weights/lpd_l_512

Expected (paper, 50,000 images, 48 steps, one A100 in bfloat16): L FID 2.54, IS 292.2; XL 2.10,
326.0.

Trained as published for 50 epochs from the 256 px model, its position embedding resized to 32x32:

    python -m lpd_jax encode --config=configs/lpd_512.py:L --workdir=/data/l512 \\
        --checkpoint=weights/lpd_l_256 --config.data.path=...
    sbatch --nodes=4 launch/slurm.sbatch train --config=configs/lpd_512.py:L --workdir=/data/l512 \\
        --config.train.init_from=/data/l

Sources: official `scripts/train`, `scripts/eval`.
"""

from ml_collections import ConfigDict

from lpd_jax.configs import lpd_256
from lpd_jax.errors import InputError

# size -> batch, guidance
SIZES = {"L": (512, 7.3), "XL": (256, 6.0)}


def get_config(size: str = "L") -> ConfigDict:
    """`size` is L or XL."""
    if size not in SIZES:
        raise InputError(f"lpd_512 has no size {size!r}; choose from {', '.join(SIZES)}.")
    batch, guidance = SIZES[size]
    config = lpd_256.get_config(size)
    config.data.size = 512
    epoch = lpd_256.IMAGES // batch
    config.train.update(
        steps=50 * epoch,
        batch_size=batch,
        learning_rate=1e-4 * batch / 256,
        schedule="cosine",
        warmup_steps=epoch,
        decay_start=0,
        schedules=(1024, 512, 256, 224, 192, 160, 128, 96, 80, 64, 56, 48, 40, 32),
        save_every=5 * epoch,
        keep_every=25 * epoch,
    )
    config.sample.update(steps=48, repulsion=4.0, guidance=guidance)
    config.evaluate.steps = 48
    return config
