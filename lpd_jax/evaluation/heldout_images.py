"""What a tokenizer that is being trained makes of images that it never sees.

M images, H x W pixels, V codes.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from lpd_jax import distributed, parallel
from lpd_jax.evaluation import distances, reconstruction, vgg
from lpd_jax.evaluation.moments import Moments
from lpd_jax.models.tokenizer import Tokenizer, to_uint8
from lpd_jax.pixels import to_unit

SHOWN = 32  # images at most
_OF = "features of "


def round_trip(network: Tokenizer, params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Codes int32 [B, N] of images uint8 [B, H, W, 3], and uint8 of their shape made of these."""
    grid = tuple(side // network.config.stride for side in images.shape[1:3])
    codes = network.apply({"params": params}, to_unit(images), method="encode")
    return codes, to_uint8(network.apply({"params": params}, codes, grid, method="decode"))


class Features(NamedTuple):
    """What a Fréchet distance is taken of.

    Attributes:
        apply: (params, images uint8 [B, H, W, 3]) -> float32 [B, D].
        params: of the network.
    """

    apply: Callable[[Any, jax.Array], jax.Array]
    params: Any


class Kept(NamedTuple):
    """What was kept of the images.

    Attributes:
        figures: psnr_db, codebook_usage, ssim for images of 7 pixels a side and more, and lpips
            where there are weights: means over the images. Fréchet distances by their names.
        counts: int [V], how often each code occurs.
        pairs: uint8 [up to SHOWN, 2, H, W, 3], the first images beside their reconstructions.
    """

    figures: dict[str, float]
    counts: np.ndarray
    pairs: np.ndarray


class HeldoutImages:
    """Images to look at with any parameters of one network; compiles once.

    Args:
        network: the tokenizer.
        source: records with `image` uint8 [H, W, 3].
        batch_size: images at a time, over all devices; rounded up to what they divide.
        mesh: devices. All processes call this together.
        most: images at most, the first ones; 0: all.
        perceptual: weights of LPIPS, if any.
        frechet: name of a figure -> features whose squared Fréchet distance, of reconstructions to
            the images themselves, it is. Images fewer than features make it larger.
    """

    def __init__(
        self,
        network: Tokenizer,
        source: Any,
        *,
        batch_size: int,
        mesh: jax.sharding.Mesh,
        most: int = 0,
        perceptual: vgg.VggWeights | None = None,
        frechet: Mapping[str, Features] | None = None,
    ):
        self._source, self._mesh, self._codes = source, mesh, network.config.codebook_size
        self._count, self._at_once = min(len(source), most or len(source)), batch_size
        self._weights = None
        if perceptual is not None:
            self._weights = jax.device_put(perceptual.variables, parallel.replicated(mesh))
        frechet = frechet or {}
        networks = {name: features.params for name, features in frechet.items()}
        self._networks = jax.device_put(networks, parallel.replicated(mesh))

        def look(params, weights, networks, images):
            codes, decoded = round_trip(network, params, images)
            found = {"images": images, "codes": codes, "decoded": decoded}
            if weights is not None:
                found["lpips"] = vgg.lpips(weights, to_unit(images), to_unit(decoded))
            for name, features in frechet.items():
                found[f"{_OF}{name}"] = jax.numpy.stack(
                    [features.apply(networks[name], x) for x in (decoded, images)], 1
                )
            return found

        self._look = jax.jit(look)

    def __call__(self, params: Any) -> Kept:
        """The figures of these parameters, by all images."""
        each: dict[str, list[np.ndarray]] = {}
        counts, pairs, done = np.zeros(self._codes, np.int64), [], 0
        moments: dict[str, list[Moments]] = {}

        def take(index: np.ndarray) -> np.ndarray:
            return np.stack([self._source[i]["image"] for i in index.tolist()])

        look = functools.partial(self._look, params, self._weights, self._networks)
        batches = parallel.in_batches(self._count, self._at_once, self._mesh, take, look)
        hidden = jax.process_index() != 0 or self._count < 10 * self._at_once
        with tqdm(total=self._count, desc="held-out images", leave=False, disable=hidden) as bar:
            for batch in batches:
                seen = distributed.to_host(batch)
                seen = {name: x[: self._count - done] for name, x in seen.items()}
                for name, values in _figures(seen).items():
                    each.setdefault(name, []).append(values)
                for name in (name for name in seen if name.startswith(_OF)):
                    new = [Moments.of(x) for x in np.moveaxis(seen[name], 1, 0)]
                    old = moments.get(name, new)
                    moments[name] = new if old is new else list(map(Moments.merge, old, new))
                counts += reconstruction.code_counts(seen["codes"], self._codes)
                if done < SHOWN:
                    pairs.append(np.stack([seen["images"], seen["decoded"]], 1))
                done += len(seen["codes"])
                bar.update(len(seen["codes"]))
        figures = {name: float(np.concatenate(values).mean()) for name, values in each.items()}
        for name, (own, real) in moments.items():
            figures[name.removeprefix(_OF)] = distances.frechet(
                own.mean, own.covariance, real.mean, real.covariance
            )
        figures["codebook_usage"] = reconstruction.codebook_usage(counts)
        return Kept(figures, counts, np.concatenate(pairs)[:SHOWN])


def _figures(seen: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of each image of a batch, [B]."""
    images, decoded = seen["images"], seen["decoded"]
    found = {"psnr_db": reconstruction.psnr_of_each(images, decoded)}
    if min(images.shape[1:3]) >= reconstruction.SSIM_WINDOW:
        found["ssim"] = reconstruction.ssim_of_each(images, decoded)
    if "lpips" in seen:
        found["lpips"] = seen["lpips"]
    return found
