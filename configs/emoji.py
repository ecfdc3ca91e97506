"""Colour images at 16x16 codes: 6,453 emoji of 64x64 pixels in nine classes.

    python -m lpd_jax pipeline --config=emoji --workdir=runs/emoji --config.data.path=emoji64
    python -m lpd_jax pipeline --config=emoji:gpu --workdir=runs/emoji --config.data.path=emoji64

`launch/emoji_images.py` makes the folder from four npm packages, and says whose the images are. Its
`train/` and `heldout/` are the splits: no held-out emoji is trained on, in any style.
"""

from ml_collections import ConfigDict

from lpd_jax.configs import base
from lpd_jax.errors import InputError

SIZES = ("cpu", "gpu")


def get_config(size: str = "cpu") -> ConfigDict:
    """64x64 pixels, 256 codes of a vocabulary of 256; `size` is "cpu" (two cores) or "gpu"."""
    if size not in SIZES:
        raise InputError(f"emoji has no size {size!r}; choose from {', '.join(SIZES)}.")
    config = base.get_config()
    # Letters, digits and flags are not themselves in a mirror.
    config.data.update(size=64, flip=False)
    config.tokenizer.update(
        ch=16, ch_mult=(1, 2, 2), num_res_blocks=1, z_channels=64, codebook_size=256, norm_groups=8
    )
    config.train_tokenizer.update(
        steps=1200,
        batch_size=16,
        learning_rate=1e-3,
        warmup_steps=60,
        log_every=10,
        save_every=100,
    )
    config.encode.update(batch_size=64, shard_size=1024)
    config.decoder.update(width=128, depth=4, heads=4, dropout=0.0, dtype="float32", unroll=4)
    config.train.update(
        steps=1400,
        batch_size=32,
        learning_rate=1.5e-3,
        warmup_steps=100,
        decay_start=700,
        schedules=(256, 128, 64, 32, 24, 20, 16, 12, 8),
        log_every=10,
        save_every=100,
    )
    config.sample.update(steps=20, repulsion=2.0, guidance=1.8, temperature=0.95, batch_size=36)
    config.evaluate.steps = 20
    if size == "gpu":
        _enlarge(config)
    return config


def _enlarge(config: ConfigDict) -> None:
    """Sizes and lengths for one GPU: a starting point, which no one has trained yet."""
    config.tokenizer.update(ch=64, ch_mult=(1, 2, 4), num_res_blocks=2, z_channels=256)
    config.train_tokenizer.update(
        steps=10_000, batch_size=64, learning_rate=4e-4, warmup_steps=500, save_every=1000
    )
    # Some 200 epochs: without dropout it would learn the images by heart.
    config.decoder.update(width=512, depth=12, heads=8, dropout=0.2, dtype="bfloat16", unroll=1)
    config.train.update(
        steps=10_000,
        batch_size=128,
        learning_rate=4e-4,
        warmup_steps=500,
        decay_start=7_000,
        log_every=50,
        save_every=1000,
    )
    config.sample.batch_size = 128
