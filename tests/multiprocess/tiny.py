"""The digits config with networks too small to be good, for tests with several processes."""

from ml_collections import ConfigDict

from lpd_jax.configs import digits


def get_config() -> ConfigDict:
    """Seconds from end to end, on eight devices in all."""
    config = digits.get_config()
    config.mesh.update(data=4, fsdp=2)
    config.tokenizer.update(ch=8, ch_mult=(1, 1, 1), z_channels=8, norm_groups=4)
    config.encode.update(batch_size=256, shard_size=500)
    config.decoder.update(width=32, depth=1, heads=2, unroll=1)
    config.train.update(
        steps=60,
        batch_size=16,
        warmup_steps=2,
        decay_start=40,
        schedules=(64, 8),
        log_every=1,
        save_every=10,
        keep_every=20,
    )
    config.sample.update(labels=(0, 1), count=4, batch_size=8, steps=6)
    return config


def evaluated(checkpoint: str, real: str) -> ConfigDict:
    """Judges 300 images of ten classes against those of an `.npz`."""
    config = get_config()
    config.checkpoint = checkpoint
    config.evaluate.update(steps=6, num_images=300, keep="npz", inception="w", reference=real)
    return config
