"""LlamaGen's recipe of a tokenizer at 256 px: `--config=vqgan` (or vqgan:8, vqgan:32).

    python -m lpd_jax train_tokenizer --config=vqgan:16 --workdir=runs/vq16 \\
        --config.data.path=imagenet --config.tokenizer_loss.lpips=vgg16.ckpt

Squared error, LPIPS and, from step 20,000 on, a PatchGAN; Adam at 1e-4 without warm-up, 40 epochs
in batches of 128. `docs/tokenizers.md` says where it differs from the original, where the weights
of LPIPS come from, and how to train on from a published tokenizer.

Source: LlamaGen's `tokenizer/tokenizer_image/vq_train.py` and `vq_loss.py`.
"""

from ml_collections import ConfigDict

from lpd_jax.configs import base
from lpd_jax.errors import InputError

# Pixels a side of a code -> widths; LlamaGen publishes 8 and 16.
STRIDES = {"8": (1, 2, 2, 4), "16": (1, 1, 2, 2, 4), "32": (1, 1, 2, 2, 4, 4)}
IMAGES = 1_281_167


def get_config(stride: str = "16") -> ConfigDict:
    """256x256 pixels, 16,384 codes; `stride` is "8", "16" or "32"."""
    if stride not in STRIDES:
        raise InputError(f"vqgan has no stride {stride!r}; choose from {', '.join(STRIDES)}.")
    config = base.get_config()
    config.data.size = 256
    config.tokenizer.update(
        ch=128,
        ch_mult=STRIDES[stride],
        num_res_blocks=2,
        z_channels=256,
        codebook_size=16384,
        codebook_dim=8,
        norm_groups=32,
        entropy=0.0,
        dtype="bfloat16",
    )
    epoch = IMAGES // 128
    config.train_tokenizer.update(
        steps=40 * epoch,
        batch_size=128,
        learning_rate=1e-4,
        schedule="constant",
        warmup_steps=0,
        clip_norm=1.0,
        random_crop=0.8,
        log_every=100,
        save_every=5000,
        eval_every=5000,
        sheet_every=5000,
    )
    config.tokenizer_loss.update(pixels="l2", lpips_dtype="bfloat16")
    config.discriminator.update(weight=0.5, start=20_000, loss="hinge", dtype="bfloat16")
    return config
