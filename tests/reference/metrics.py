"""Writes `metrics.json`: the figures of torch-fidelity and clean-fid, of features drawn by NumPy.

    pip install torch torch-fidelity==0.4.0 clean-fid==0.1.35
    python tests/reference/metrics.py

The features are not kept: they are drawn again in the test.
"""

import json
from pathlib import Path

import numpy as np


def random_features() -> tuple[np.ndarray, np.ndarray]:
    """float32 [600, 96] and [500, 96], real and generated: about as spread as pool3, not normal."""
    draw = np.random.default_rng(0)
    mix = draw.standard_normal((96, 96)) / 30
    sets = (np.abs(draw.standard_normal((count, 96)) @ mix + 0.4) for count in (600, 500))
    real, made = (np.float32(features) for features in sets)
    return real, made * np.float32(0.95) + np.float32(0.02)


def random_logits() -> np.ndarray:
    """float32 [1234, 40], in class order."""
    logits = np.random.default_rng(1).standard_normal((1234, 40))
    logits[np.arange(1234), np.arange(1234) // 100] += 3
    return np.float32(logits)


def main():
    import torch
    from cleanfid import fid as clean_fid
    from torch_fidelity import metric_fid, metric_isc, metric_prc

    real, made = (torch.from_numpy(features) for features in random_features())
    statistics = [metric_fid.fid_features_to_statistics(x) for x in (made, real)]
    flat = [value for x in statistics for value in (x["mu"], x["sigma"])]
    neighbours = {"prc_neighborhood": 3, "prc_batch_size": 100, "verbose": False}
    shares = metric_prc.prc_features_to_metric(made, real, save_cpu_ram=True, **neighbours)
    distance = metric_fid.fid_statistics_to_metric(*statistics, False)
    score = metric_isc.isc_features_to_metric(torch.from_numpy(random_logits()))
    found = {
        "Fréchet distance of torch-fidelity": distance["frechet_inception_distance"],
        "Fréchet distance of clean-fid": float(clean_fid.frechet_distance(*flat)),
        "inception score and deviation": [*score.values()],
        "precision and recall": [shares["precision"], shares["recall"]],
    }
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    Path(__file__).with_name("metrics.json").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
