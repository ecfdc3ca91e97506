"""What networks see in images, in programs of one shape on the devices of this process alone.

A row of a convolution or a product is the same to the bit in every batch of the same shape. So
features depend neither on the number of images that are at hand at a time, nor on the number of
devices or processes.

M images, H x W pixels, D features.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from lpd_jax import parallel

AT_ONCE = 16  # images on each device


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """A network by whose features sets of images are compared.

    Attributes:
        name: of network and weights, for people.
        identity: hash of the weights, which says whether two figures compare.
        apply: (parameters, images uint8 [B, H, W, 3]) -> a NamedTuple of arrays [B, ...]; for
            figures pool3, spatial and logits, see `inception.InceptionFeatures`.
        params: parameters.
    """

    name: str
    identity: str
    apply: Callable[[Any, jax.Array], Any]
    params: Any


class Look(Protocol):
    """Sees something in images uint8 [M, H, W, 3]: name -> array [M, ...]. M may be 0."""

    def __call__(self, images: np.ndarray) -> Mapping[str, np.ndarray]: ...


class Extractor:
    """A `Look` that is a network, on all devices of this process.

    Args:
        network: its parameters are copied to every device.
        each: images that one device takes at a time.
    """

    def __init__(self, network: FeatureNetwork, each: int = AT_ONCE):
        devices = jax.local_devices()
        self._mesh = parallel.make_mesh(parallel.MeshConfig(data=len(devices)), devices)
        self._params = jax.device_put(network.params, parallel.replicated(self._mesh))
        self._apply = jax.jit(network.apply)
        self.at_once = each * len(devices)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """What the network gives for images uint8 [M, H, W, 3], or other rows that it takes.

        Returns:
            Name -> array [M, ...].
        """
        rows = parallel.batch_sharding(self._mesh)
        parts = []
        # Once for no images too: what is empty has its width.
        for start in range(0, max(1, len(images)), self.at_once):
            part = images[start : start + self.at_once]
            spare = np.zeros((self.at_once - len(part), *images.shape[1:]), images.dtype)
            padded = jax.device_put(np.concatenate([part, spare]), rows)
            with parallel.use(self._mesh):
                found = jax.device_get(self._apply(self._params, padded))
            parts.append({name: x[: len(part)] for name, x in found._asdict().items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
