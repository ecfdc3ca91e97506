"""The whole chain on scikit-learn's 1,797 handwritten digits, for two CPU cores.

python -m lpd_jax pipeline --config=configs/digits.py --workdir=runs/digits
"""

from ml_collections import ConfigDict

from lpd_jax.configs import base


def get_config() -> ConfigDict:
    """32x32 pixels, 8x8 = 64 codes, 10 classes; everything not named here is as in `base.py`."""
    config = base.get_config()
    config.data.update(source="digits", size=32, flip=False)  # a flipped digit is no digit
    config.tokenizer.update(
        ch=16,
        ch_mult=(1, 2, 4),
        num_res_blocks=1,
        z_channels=64,
        codebook_size=128,
        norm_groups=8,
    )
    config.train_tokenizer.update(
        steps=600,
        batch_size=32,
        learning_rate=2e-3,
        warmup_steps=50,
        log_every=10,
        save_every=200,
    )
    config.encode.update(batch_size=64, shard_size=1024)
    config.decoder.update(width=128, depth=4, heads=4, dropout=0.0, dtype="float32", unroll=4)
    config.train.update(
        steps=800,
        batch_size=64,
        learning_rate=2e-3,
        warmup_steps=50,
        decay_start=400,
        log_every=10,
        save_every=200,
    )
    # Repulsion as in the paper: fewer bits of held-out codes than 1, and as good samples
    # (docs/schedules.md).
    config.sample.update(repulsion=2.0, guidance=1.8, temperature=0.95, batch_size=90)
    return config
