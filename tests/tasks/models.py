"""Untrained models in a workdir: all that is needed to generate images, in a second."""

import dataclasses

import flax.linen as nn
import jax

from lpd_jax import checkpoint
from lpd_jax.configs import digits
from lpd_jax.models.initial import init_decoder, init_tokenizer
from lpd_jax.tasks import build
from lpd_jax.tasks.workdir import plain
from lpd_jax.trained import decoder_of


def tiny():
    """The digits config with networks too small to be good, in four steps."""
    config = digits.get_config()
    config.tokenizer.update(ch=8, ch_mult=(1, 1, 1), z_channels=8, norm_groups=4)
    config.decoder.update(width=32, depth=1, heads=2, unroll=1)
    config.sample.update(count=1, batch_size=64, steps=4)
    config.evaluate.update(steps=4, num_images=300)
    return config


def save(config, workdir, class_names=tuple("0123456789"), label_drop=0.1):
    """Writes a tokenizer and a decoder of these classes."""
    tokenizer = build.tokenizer(config)
    params = jax.jit(lambda key: init_tokenizer(tokenizer, key))(jax.random.key(0))
    about = {"kind": "tokenizer", "config": tokenizer.config, "fingerprint": "t" * 16}
    checkpoint.save_model(workdir / "tokenizer/model", plain(about), params)
    sizes = {"grid": build.grid(config), "vocab_size": tokenizer.config.codebook_size}
    decoder = decoder_of(config.decoder, num_classes=len(class_names), **sizes)
    params = jax.jit(lambda key: nn.unbox(init_decoder(decoder, key)))(jax.random.key(1))
    about = {
        "kind": "decoder",
        "config": dataclasses.asdict(decoder.config),
        "class_names": [*class_names],
        "label_drop": label_drop,
        "tokenizer": "t" * 16,
        "fingerprint": "d" * 16,
        "steps": 0,
    }
    checkpoint.save_model(workdir / "decoder/model", plain(about), params)
