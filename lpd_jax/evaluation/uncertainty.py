"""How far a figure of one set of generated images would move with another set as large.

Only the generated images count as drawn; the reference stays. That of a Fréchet distance is in
`distances.frechet_error`.

N images, C classes.
"""

from collections.abc import Iterable

import numpy as np

REPLICATES = 200


def score_error(splits: Iterable[np.ndarray], seed: int = 0) -> float:
    """Standard error of an inception score: the bootstrap over the images of each split.

    Args:
        splits: logits float [n, C] of the images of each split, one after the other.
        seed: of the draws.

    Returns:
        Standard deviation of the mean over the splits, over 200 replicates.
    """
    rng, found = np.random.default_rng(seed), []
    for logits in splits:
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
        count = len(p)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=REPLICATES) / count
        marginal = weights @ p
        entropy = -np.sum(marginal * np.log(np.maximum(marginal, 1e-300)), axis=1)
        found.append(np.exp(weights @ np.sum(p * log_p, axis=1) + entropy))
    return float(np.mean(found, axis=0).std(ddof=1))


def share_error(share: float, count: int) -> float:
    """Standard error of a share of `count` images, as of so many throws."""
    return float(np.sqrt(share * (1 - share) / count))
