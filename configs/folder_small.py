"""Your own images on a laptop: some hundreds to thousands of them, two CPU cores.

    python -m lpd_jax pipeline --config=folder_small --workdir=runs/mine \\
        --config.data.path=/data/flowers

The folder has one sub-folder per class (see `folder.py`). Images of 32x32 pixels become 8x8 = 64
codes of a vocabulary of 256. Networks and batches are those of the digits, and so is their speed
(2.3 steps/s of the tokenizer and 1.9 of the decoder, on two x86-64 cores): 1,000 steps of each take
about 16 minutes. On a GPU take `folder.py`.
"""

from ml_collections import ConfigDict

from lpd_jax.configs import digits


def get_config() -> ConfigDict:
    """32x32 pixels, 8x8 codes; everything not named here is as in `digits.py`."""
    config = digits.get_config()
    config.data.update(source="folder", flip=True)
    config.tokenizer.codebook_size = 256  # photographs have more to say than digits
    config.train_tokenizer.steps = 1000
    config.train.update(steps=1000, decay_start=500)
    return config
