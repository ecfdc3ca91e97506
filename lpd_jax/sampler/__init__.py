"""The notebook API: trained models in, images out."""

from lpd_jax.generation.addresses import draw_orders
from lpd_jax.generation.program import generate
from lpd_jax.generation.results import Batch, Edits, Partial, Samples
from lpd_jax.sampler.defaults import Defaults
from lpd_jax.sampler.sampler import Sampler

__all__ = [
    "Batch",
    "Defaults",
    "Edits",
    "Partial",
    "Sampler",
    "Samples",
    "draw_orders",
    "generate",
]
