"""Your own images on a laptop: some hundreds to thousands of them, two CPU cores, about 20 minutes.

    python -m lpd_jax pipeline --config=folder_small --workdir=runs/mine \\
        --config.data.path=/data/flowers

The folder has one sub-folder per class (see `folder.py`). Images of 32x32 pixels become 8x8 = 64
codes of a vocabulary of 256. The networks and batches are those of the digits, whose speed is known
(2.3 steps/s of the tokenizer, 1.9 of the decoder), and so is the time: 1,000 steps of each. On a GPU
take `folder.py`.
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
