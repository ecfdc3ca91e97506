"""The whole chain on your own images: a folder with one sub-folder per class.

    python -m lpd_jax pipeline --config=configs/folder.py --workdir=runs/mine \\
        --config.data.path=/data/flowers

A starting point for some thousands of images of 64x64 pixels on one GPU: 8x8 = 64 codes of a
vocabulary of 1,024. Raise `data.size`, the widths and the steps with the data. Images are resized
and centre-cropped; a `train/` and a `val/` sub-folder, if present, are the splits, else a tenth of
each class is held out.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    """64x64 pixels, 8x8 codes; everything not named here is as in `digits.py`."""
    config = digits.get_config()
    config.data.update(source="folder", size=64, flip=True)
    config.tokenizer.update(
        ch=64,
        ch_mult=(1, 1, 2, 4),
        num_res_blocks=2,
        z_channels=256,
        codebook_size=1024,
        norm_groups=32,
    )
    config.train_tokenizer.update(
        steps=20_000,
        batch_size=64,
        learning_rate=4e-4,
        warmup_steps=1000,
        save_every=2000,
        log_every=50,
    )
    config.encode.update(batch_size=128, shard_size=16_384)
    config.decoder.update(width=512, depth=12, heads=8, dtype="bfloat16", unroll=1)
    config.train.update(
        steps=50_000,
        batch_size=256,
        learning_rate=4e-4,
        warmup_steps=2000,
        decay_start=40_000,
        save_every=2000,
        log_every=50,
    )
    return config
