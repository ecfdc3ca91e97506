"""The whole chain on your own images: a folder with one sub-folder per class.

    python -m lpd_jax pipeline --config=configs/folder.py --workdir=runs/mine \\
        --config.data.path=/data/flowers

A starting point for some thousands of images of 64x64 pixels on one GPU: 8x8 = 64 codes of a
vocabulary of 1,024. Raise `data.size`, the widths and the steps with the data. Images are resized
and centre-cropped; a `train/` and a `val/` sub-folder, if present, are the splits, else a tenth of
each class is held out.
"""

from ml_collections import ConfigDict

from lpd_jax.configs import base


def get_config() -> ConfigDict:
    """64x64 pixels, 8x8 codes; everything not named here is as in `base.py`."""
    config = base.get_config()
    config.decoder.dropout = 0.0
    config.sample.update(guidance=1.8, temperature=0.95)
    return config
