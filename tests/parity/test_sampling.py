"""Temperature, top-k and top-p against the official filter."""

import jax
import numpy as np

from lpd_jax.generation.sampling import filter_logits


def cases(arrays):
    for i, (k, p, temperature) in enumerate(
        zip(arrays["cases_k"], arrays["cases_p"], arrays["cases_temperature"], strict=True)
    ):
        yield f"case{i}", int(k), None if p == 1 else np.float32(p), np.float32(temperature)


def test_filters(reference, close):
    arrays = reference("sampling.npz")
    for case, k, p, temperature in cases(arrays):
        ours = np.asarray(filter_logits(arrays["logits"] / temperature, k, p))
        theirs = arrays[f"{case}/filtered"]
        np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(theirs), case)
        np.testing.assert_array_equal(np.isfinite(ours).sum(-1), arrays[f"{case}/kept"], case)
        close(ours[np.isfinite(ours)], theirs[np.isfinite(theirs)], case)
        close(jax.nn.softmax(ours), arrays[f"{case}/probs"], case)


def test_filters_keep_ties(reference, close):
    arrays = reference("sampling.npz")
    tied = [case for case in cases(arrays) if f"{case[0]}/probs_ties" in arrays]
    assert tied
    for case, k, p, temperature in tied:
        ours = filter_logits(arrays["logits_ties"] / temperature, k, p)
        close(jax.nn.softmax(ours), arrays[f"{case}/probs_ties"], case)
