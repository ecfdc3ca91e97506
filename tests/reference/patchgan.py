"""Writes `patchgan.npz`: what PyTorch makes of LlamaGen's discriminator, hinge and adaptive weight.

    pip install torch
    python tests/reference/patchgan.py

Written from the published description of `discriminator_patchgan.py` and `vq_loss.py`: their layers
and formulas, with PyTorch's own modules, losses and gradients. Parameters and images are drawn by
NumPy, here and in the test, in the order of `shapes`.
"""

from pathlib import Path

import numpy as np

WIDTH, LAYERS, SIDE, BATCH = 8, 2, 16, 3
CHANNELS = 6  # of the hidden layer under the last one of the tokenizer


def shapes(norm: str) -> dict[str, tuple[int, ...]]:
    """Parameters of a discriminator; kernels [height, width, in, out]."""
    found, inputs = {"conv0.kernel": (4, 4, 3, WIDTH), "conv0.bias": (WIDTH,)}, WIDTH
    for i in range(1, LAYERS + 1):
        width = WIDTH * min(2**i, 8)
        found[f"conv{i}.kernel"] = (4, 4, inputs, width)
        if norm == "none":
            found[f"conv{i}.bias"] = (width,)
        else:
            found |= {f"norm{i}.scale": (width,), f"norm{i}.bias": (width,)}
        inputs = width
    return found | {"conv_out.kernel": (4, 4, inputs, 1), "conv_out.bias": (1,)}


def parameters(norm: str) -> dict[str, np.ndarray]:
    """float32, none of them 0 or 1."""
    draw, found = np.random.default_rng(0), {}
    for name, shape in shapes(norm).items():
        values = draw.standard_normal(shape) * (0.3 if len(shape) == 1 else 0.15)
        found[name] = np.float32(values + name.endswith("scale"))
    return found


def inputs() -> dict[str, np.ndarray]:
    """Real images uint8, what is under the tokenizer's last layer, and the kernel of that layer."""
    draw = np.random.default_rng(1)
    return {
        "real": draw.integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8),
        "hidden": draw.standard_normal((BATCH, SIDE, SIDE, CHANNELS), np.float32),
        "kernel": np.float32(0.1) * draw.standard_normal((3, 3, CHANNELS, 3), np.float32),
    }


def main():
    import torch
    from torch import nn
    from torch.nn import functional as F

    def conv(values, x, name, stride):
        kernel = values[f"{name}.kernel"].permute(3, 2, 0, 1)
        return F.conv2d(x, kernel, values.get(f"{name}.bias"), stride, padding=1)

    def judge(values, norm, x):
        x = F.leaky_relu(conv(values, x, "conv0", 2), 0.2)
        for i in range(1, LAYERS + 1):
            x = conv(values, x, f"conv{i}", 2 if i < LAYERS else 1)
            if norm == "batch":
                module = nn.BatchNorm2d(x.shape[1])  # in training mode, as it is made
                own = {"weight": values[f"norm{i}.scale"], "bias": values[f"norm{i}.bias"]}
                x = torch.func.functional_call(module, own, (x,))
            x = F.leaky_relu(x, 0.2)
        return conv(values, x, "conv_out", 1)

    def nchw(x):
        return torch.from_numpy(x).permute(0, 3, 1, 2)

    given, answers = inputs(), {}
    real, hidden = nchw(np.float32(given["real"]) / 127.5 - 1), nchw(given["hidden"])
    for norm in ("batch", "none"):
        values = {
            name: torch.from_numpy(x).requires_grad_() for name, x in parameters(norm).items()
        }
        kernel = torch.from_numpy(given["kernel"]).requires_grad_()
        made = F.conv2d(hidden, kernel.permute(3, 2, 0, 1), padding=1)
        # The discriminator.
        out_real, out_made = judge(values, norm, real), judge(values, norm, made.detach())
        opposing = 0.5 * (F.relu(1 - out_real).mean() + F.relu(1 + out_made).mean())
        soft = 0.5 * (F.softplus(-out_real).mean() + F.softplus(out_made).mean())
        grads = torch.autograd.grad(opposing, values.values())
        # The tokenizer.
        pixels = F.mse_loss(made, real)
        verdict = -judge(values, norm, made).mean()
        pull = torch.autograd.grad(pixels, kernel, retain_graph=True)[0]
        push = torch.autograd.grad(verdict, kernel, retain_graph=True)[0]
        weight = torch.clamp(pull.norm() / (push.norm() + 1e-4), 0, 1e4).detach()
        (total,) = torch.autograd.grad(pixels + 0.5 * weight * verdict, kernel)
        answers |= {f"{norm}/grad/{n}": g for n, g in zip(values, grads, strict=True)}
        answers |= {
            f"{norm}/real": out_real[:, 0],
            f"{norm}/made": out_made[:, 0],
            f"{norm}/hinge": opposing,
            f"{norm}/non_saturating": soft,
            f"{norm}/verdict": verdict,
            f"{norm}/weight": weight,
            f"{norm}/by_kernel": total,
        }
    answers = {name: x.detach().numpy() for name, x in answers.items()}
    np.savez(Path(__file__).with_name("patchgan.npz"), **answers)
    for name in ("real", "hinge", "verdict", "weight"):
        print(
            name,
            *(np.round(answers[f"{norm}/{name}"].ravel()[:3], 4) for norm in ("batch", "none")),
        )


if __name__ == "__main__":
    main()
