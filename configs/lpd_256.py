"""LPD on ImageNet at 256 px, as published: `--config=configs/lpd_256.py:L` (or XL, XXL).

Sampling from converted weights (see `convert`) with the settings of the published figures:

    python -m lpd_jax sample --config=configs/lpd_256.py:XL --workdir=runs/xl \\
        --config.checkpoint=weights/lpd_xl_256

Expected (paper, 50,000 images, one A100 in bfloat16): L 20 steps FID 2.40, IS 284.5; XL 2.10,
326.7; XXL 2.00, 337.6. With 32 steps (`:L-32`, `:XL-32`): L 2.29, 282.7; XL 1.92, 319.4.

Training from scratch, on codes of the LlamaGen tokenizer (as published: L and XL 450 epochs, batch
2048 and 1024), on one machine, on a Slurm cluster, or on a TPU slice (`docs/pods.md`):

    python -m lpd_jax encode --config=configs/lpd_256.py:L --workdir=/data/l \\
        --checkpoint=weights/lpd_l_256 --config.data.path=...
    bash launch/gpu_node.sh train --config=configs/lpd_256.py:L --workdir=/data/l
    sbatch --nodes=4 launch/slurm.sbatch train --config=configs/lpd_256.py:L --workdir=/data/l
    bash launch/tpu_pod.sh train --config=configs/lpd_256.py:XXL --workdir=/data/xxl \\
        --config.mesh.fsdp=16 --config.decoder.remat=full

Sources: official `scripts/train`, `scripts/eval`, `engine.py`; paper sections 4.1 and appendix.
"""

from ml_collections import ConfigDict

from lpd_jax.configs import base
from lpd_jax.errors import InputError

# size -> width, depth, heads, batch, steps -> (guidance, repulsion)
SIZES = {
    "L": (1024, 24, 16, 2048, {20: (4.8, 2.0), 32: (5.4, 2.0)}),
    "XL": (1280, 36, 20, 1024, {20: (4.9, 2.0), 32: (5.0, 2.0)}),
    "XXL": (1536, 48, 24, 1024, {20: (5.9, 3.0)}),
}
IMAGES = 1_281_167


def get_config(size: str = "L") -> ConfigDict:
    """`size` is L, XL or XXL, optionally with the published number of steps: "XL-32"."""
    name, _, steps = size.partition("-")
    if name not in SIZES or (steps or "20") not in map(str, SIZES[name][4]):
        choices = [f"{n}-{s}" for n, size in SIZES.items() for s in size[4]]
        raise InputError(f"lpd_256 has no size {size!r}; choose from {', '.join(choices)}.")
    width, depth, heads, batch, settings = SIZES[name]
    guidance, repulsion = settings[int(steps or 20)]

    config = base.get_config()
    config.seed = 1
    config.data.size = 256
    config.tokenizer.update(
        ch=128,
        ch_mult=(1, 1, 2, 2, 4),
        num_res_blocks=2,
        z_channels=256,
        codebook_size=16384,
        codebook_dim=8,
        norm_groups=32,
    )
    config.decoder.update(
        width=width, depth=depth, heads=heads, dropout=0.1, dtype="bfloat16", unroll=1
    )
    epoch = IMAGES // batch
    config.train.update(
        steps=450 * epoch,
        batch_size=batch,
        learning_rate=1e-4 * batch / 256,
        min_learning_rate=1e-5,
        schedule="constant+cosine",
        warmup_steps=50 * epoch,
        decay_start=400 * epoch,
        weight_decay=0.02,
        clip_norm=3.0,
        label_drop=0.1,
        schedules=(256, 128, 64, 32, 24, 20, 16, 12, 8),
        log_every=100,
        save_every=5 * epoch,
        keep_every=25 * epoch,
    )
    config.sample.update(
        labels=(207, 360, 387, 974, 88, 979, 417, 279),
        count=1,
        steps=int(steps or 20),
        order="locality",
        proximity=1.0,
        repulsion=repulsion,
        guidance=guidance,
        guidance_schedule="linear",
        temperature=1.0,
        batch_size=64,
        dtype="bfloat16",  # decoder and VQ decoder, as the official evaluation under autocast
        segments=8 if name == "L" else 4,  # padded work 1.045 and 1.124; more compile longer
    )
    config.evaluate.update(steps=config.sample.steps, num_images=50_000)
    return config
