"""Figures of a tokenizer: what it keeps of held-out images. Shared by the tasks that judge."""

from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from lpd_jax import distributed, storage
from lpd_jax.evaluation import distances, keeping, reconstruction, scores
from lpd_jax.evaluation.heldout_images import round_trip
from lpd_jax.evaluation.looking import Extractor, FeatureNetwork
from lpd_jax.evaluation.moments import Moments
from lpd_jax.evaluation.units import Units
from lpd_jax.models.tokenizer import Tokenizer
from lpd_jax.pixels import to_unit
from lpd_jax.tasks import build, measuring
from lpd_jax.tasks.workdir import alone, claim, plain
from lpd_jax.trained import load_tokenizer

_SHOWN = 20
_RFID = "squared Fréchet distance of pool3 features, reconstructions to the images themselves"


class Distance(NamedTuple):
    """float32 [B]."""

    lpips: jax.Array


class RoundTrip:
    """A `looking.Look`: images beside what a tokenizer makes of them.

    Args:
        tokenizer, params: the network.
        features: Inception-v3; None leaves out rFID.
        lpips: apply of (parameters, uint8 [B, 2 H, W, 3] of pairs, one over the other); or None.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        params: Any,
        features: FeatureNetwork | None,
        lpips: FeatureNetwork | None,
    ):
        def apply(params: Any, images: jax.Array) -> measuring.Decoded:
            return measuring.Decoded(round_trip(tokenizer, params, images)[1])

        self.decode = Extractor(FeatureNetwork("tokenizer", "", apply, params), measuring.DECODED)
        self._features = features and Extractor(features, measuring.DECODED)
        self._lpips = lpips and Extractor(lpips, measuring.DECODED)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        decoded = self.decode(images)["images"]
        found = {
            "psnr": reconstruction.psnr_of_each(images, decoded),
            "ssim": reconstruction.ssim_of_each(images, decoded),
        }
        if self._lpips:
            found |= self._lpips(np.concatenate([images, decoded], axis=1))
        if self._features:
            found |= {f"real_{name}": x for name, x in self._features(images).items()}
            found |= self._features(decoded)
        return found


def run(config: ConfigDict, workdir: storage.Path) -> tuple[dict, np.ndarray, storage.Path]:
    """Figures of held-out images of `config.data`; goes on where it was stopped.

    Returns:
        Figures, pairs of an image and its reconstruction, and the directory of the evaluation.

    Raises:
        InputError: no tokenizer, or images or weights that do not fit.
    """
    path = storage.path(config.checkpoint or workdir) / "tokenizer/model"
    tokenizer, params, about = load_tokenizer(path, build.mesh(config))
    build.grid(config, tokenizer.config.stride)
    chosen, identity = config.evaluate, about["fingerprint"]
    of = measuring.network(chosen.inception) if chosen.inception else None
    perceptual = _perceptual(chosen.lpips) if chosen.lpips else None
    look = RoundTrip(tokenizer, jax.device_get(params), of, perceptual)
    source = measuring.of_data(config, "heldout")
    directory = workdir / "report" / f"tokenizer-{identity[:8]}-{source.name}"
    named = [network.identity[:12] if network else "none" for network in (of, perceptual)]
    with alone(directory):
        claim(directory, source.settings | {"tokenizer": identity}, config)
        what = f"reconstructions-{'-'.join(named)}"
        units = measuring.look_at(source, look, what, directory)
        found = distributed.decided(lambda: _figures(units, of))
    if of:
        found["rfid"] |= {"tool": scores.TOOL, "weights": of.identity, "convention": _RFID}
    real = keeping.read_pngs(directory / "shown", source.shown[:_SHOWN])
    pairs = np.concatenate([real, look.decode(real)["images"]])
    found["evaluation"] = {
        "what": "tokenizer",
        "data": plain(config.data),
        "tokenizer": identity,
        "rounding": measuring.ROUNDING,
        "ssim": f"windows of {reconstruction.SSIM_WINDOW}x{reconstruction.SSIM_WINDOW} pixels, "
        "as scikit-image by default",
        "lpips": perceptual.name if perceptual else "",
    }
    return found, pairs, directory


def _figures(units: Units, of: FeatureNetwork | None) -> dict[str, Any]:
    """PSNR, SSIM, LPIPS where it was asked for, and the distance to the images themselves."""
    names = ("psnr", "ssim", "lpips")
    parts, moments = {name: [] for name in names}, {}
    for seen in units.read():
        for name in {*names} & {*seen}:
            parts[name].append(seen[name])
        for name in {"pool3", "real_pool3"} & {*seen}:
            own = Moments.of(seen[name])
            moments[name] = moments[name].merge(own) if name in moments else own
    means = {name: float(np.concatenate(own).mean()) for name, own in parts.items() if own}
    found = {"reconstruction": {"count": units.count, "psnr_db": means["psnr"]}}
    found["reconstruction"] |= {name: means[name] for name in ("ssim", "lpips") if name in means}
    if of is not None:
        own, real = moments["pool3"], moments["real_pool3"]
        value = distances.frechet(own.mean, own.covariance, real.mean, real.covariance)
        found["rfid"] = {"value": value}
    return found


def _perceptual(path: str) -> FeatureNetwork:
    """LPIPS with the weights at `path`."""
    from lpd_jax.evaluation import vgg

    found = vgg.load(path)

    def apply(variables: Any, pairs: jax.Array) -> Distance:
        height = pairs.shape[1] // 2
        real, decoded = to_unit(pairs[:, :height]), to_unit(pairs[:, height:])
        return Distance(vgg.lpips(variables, real, decoded))

    return FeatureNetwork(found.name, found.sha256, apply, found.variables)
