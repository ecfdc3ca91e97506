"""How fast training goes: images a second, waiting for data, and the share of the chips' peak."""

import contextlib
import time
from collections.abc import Iterator, Sequence

import jax

from lpd_jax.models.decoder import DecoderConfig

# Dense bfloat16 FLOP/s of one device, by its `device_kind`. Sources: cloud.google.com/tpu/docs,
# NVIDIA's data sheets (without sparsity).
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989.4e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989.4e12,
}


def decoder_flops(config: DecoderConfig) -> int:
    """FLOPs that one image of a training step needs: its matrix products, forward and backward.

    Scores that are always masked (context against queries) are left out, and so is what is
    computed again to save memory: model FLOPs as in PaLM's MFU (arXiv 2204.02311, appendix B).
    """
    n, d = config.num_tokens, config.width
    places = 2 * n
    attended = n * n + n * places
    dense = places * (4 * d * d + 2 * d * round(d * config.mlp_ratio))
    forward = 2 * (config.depth * (dense + 2 * attended * d) + n * d * config.vocab_size)
    return 3 * forward


class Clock:
    """Rates since the last reading.

    Args:
        devices: that share the work.
        flops: that an image needs, 0 if nobody has counted them.
    """

    def __init__(self, devices: Sequence[jax.Device], flops: float = 0):
        self._flops = flops
        self._peak = len(devices) * PEAKS.get(devices[0].device_kind, 0)
        self._waited, self._images = 0.0, 0
        self._since: float | None = None

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what fetches data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def count(self, images: int) -> None:
        """Notes a step with this global batch."""
        self._images += images

    def restart(self) -> None:
        """Begins anew: what was done since the last reading was no training."""
        self._since, self._waited, self._images = time.perf_counter(), 0.0, 0

    def read(self) -> dict[str, float]:
        """`images_per_second`, `data_wait` (share of the time, in [0, 1]) and `mfu` (share of the
        peak, left out where peak or FLOPs are unknown).

        Nothing at the first reading, whose time is that of the compiler.
        """
        rates = {}
        if self._since is not None and self._images:
            seconds = time.perf_counter() - self._since
            rate = self._images / seconds
            rates = {"images_per_second": rate, "data_wait": self._waited / seconds}
            if self._flops and self._peak:
                rates["mfu"] = rate * self._flops / self._peak
        self.restart()
        return rates
