"""Locality-aware parallel decoding for autoregressive image generation, in JAX.

import lpd_jax
sampler = lpd_jax.Sampler.load("runs/digits")
images = sampler([3, 1, 4], steps=10, guidance=1.5)
"""

# ruff: noqa: E402 - before any module starts jax
from lpd_jax import xla

xla.keep_reductions_right()

from lpd_jax.errors import InputError
from lpd_jax.sampler import Sampler, Samples

__version__ = "0.1.0"
__all__ = ["InputError", "Sampler", "Samples"]
