"""Writes `inception_fid.npz`: what torch-fidelity's Inception-v3 answers with random weights.

    pip install torch torch-fidelity==0.4.0
    python tests/reference/inception.py

The weights are not kept: they are drawn by NumPy from their names, here and in the test.
"""

import tempfile
import zlib
from pathlib import Path

import numpy as np


def random_array(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 entry of a state dict, of a size that keeps activations near 1."""
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return draw.uniform(0.5, 1.5, shape).astype(np.float32)
    noise = draw.standard_normal(shape, np.float32)
    if name.endswith("bn.weight"):
        return 1 + np.float32(0.1) * noise
    if len(shape) == 1:
        return np.float32(0.1) * noise
    return noise * np.float32(np.sqrt(2 / np.prod(shape[1:])))


def random_images() -> np.ndarray:
    """uint8 [2, 96, 72, 3]: noise, and coloured stripes, which random weights tell apart."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 72, 3))
    rows, columns = np.arange(96)[:, None, None], np.arange(72)[:, None]
    stripes = 128 + 127 * np.sin(rows / 9 + columns / 5 * np.array([0, 0.5, -1]))
    return np.stack([noise, stripes]).astype(np.uint8)


def main():
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # Without its weights it would fetch the trained ones.
    load = FeatureExtractorInceptionV3.load_state_dict
    FeatureExtractorInceptionV3.load_state_dict = lambda self, state: None
    with tempfile.TemporaryDirectory() as directory:
        nothing = Path(directory) / "nothing.pth"
        torch.save({}, nothing)
        network = FeatureExtractorInceptionV3("random", ["2048", "logits_unbiased"], str(nothing))
    state = {
        name: torch.from_numpy(random_array(name, tuple(x.shape)))
        for name, x in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    load(network, state, strict=False)
    seen = []
    network.Mixed_6d.branch1x1.register_forward_hook(lambda module, x, y: seen.append(y))
    images = torch.from_numpy(random_images()).permute(0, 3, 1, 2)
    pool3, logits = network(images)
    spatial = seen[0][:, :7].permute(0, 2, 3, 1).flatten(1)
    answers = {"pool3": pool3, "spatial": spatial, "logits": logits}
    answers = {name: x.numpy() for name, x in answers.items()}
    np.savez(Path(__file__).with_name("inception_fid.npz"), **answers)
    for name, x in answers.items():
        print(name, x.shape, x.dtype, f"mean {x.mean():.3g}, largest {np.abs(x).max():.3g}")


if __name__ == "__main__":
    main()
