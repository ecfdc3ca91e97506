"""Resizing: the position embedding for another grid, and the crop of training images."""

import re

import numpy as np
import pytest
from PIL import Image

from lpd_jax.data.crop import center_crop
from lpd_jax.weights import resize_pos_embed


def test_position_embedding_resize(reference, close):
    arrays = reference("pos_embed_interp.npz")
    for sides, before in arrays.under("in_").items():
        old, new = map(int, re.fullmatch(r"(\d+)to(\d+)", sides).groups())
        ours = resize_pos_embed(before[0], (old, old), (new, new))
        close(ours[None], arrays[f"out_{sides}"], sides)


def test_center_crop(reference):
    arrays = reference("crop.npz")
    crops = {k: v for k, v in arrays.under("img").items() if "/crop" in k}
    if not crops:
        pytest.skip("crop.npz has no crops")
    for key, theirs in crops.items():
        image, size = key.split("/crop")
        ours = np.asarray(center_crop(Image.fromarray(arrays[f"img{image}"]), int(size)))
        np.testing.assert_array_equal(ours, theirs, f"img{key}")
