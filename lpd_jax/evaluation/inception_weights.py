"""Weights of the Inception-v3 of FID, from the files that people have. None is downloaded.

All descend from TensorFlow's graph of 2015-12-05. The PyTorch file comes with torch-fidelity and
pytorch-fid, the pickle with jax-fid and what was made from it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from lpd_jax import storage
from lpd_jax.errors import InputError
from lpd_jax.evaluation import array_pickle
from lpd_jax.evaluation.inception import abstract_variables
from lpd_jax.weights import files

# sha256 -> what such a file is called.
KNOWN = {
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2": (
        "inception-2015-12-05 of torch-fidelity and pytorch-fid"
    ),
    "4e030efa5bccac3222d975f658d1884f9e00fab24f2812082884539220b90d77": (
        "inception_v3_weights_fid of jax-fid"
    ),
}
_EPSILON = 1e-3  # of batch normalisation
_PICKLES = (".pickle", ".pkl")
_LISTED = 5
# jax-fid's names of the arrays of a batch normalisation, and the PyTorch ones.
_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


class InceptionWeights(NamedTuple):
    """Weights that were read.

    Attributes:
        variables: float32, for `inception.apply_inception`.
        sha256: of the file, in hexadecimal.
        name: what a file of this hash is known as, or that it is unknown.
    """

    variables: Any
    sha256: str
    name: str


def load(path: storage.Where) -> InceptionWeights:
    """Reads the weights of the Inception-v3 that FID is defined by.

    Args:
        path: `.pth` or `.pt` (needs the extra `torch`), `.safetensors` or `.npz` with the names of
            the PyTorch file, or the `.pickle` or `.pkl` of jax-fid. A pickle with anything but
            NumPy arrays in dicts, lists and tuples is not opened.

    Raises:
        InputError: no such file, another format, damaged, or the weights of another network.
    """
    place = storage.path(path)
    if not place.is_file():
        raise InputError(f"There is no file of Inception weights {place}; check the path.")
    with storage.local(place) as file:
        digest = storage.sha256(file)
        if place.suffix in _PICKLES:
            arrays = _torch_names(array_pickle.read(file))
        else:
            arrays = files.read(file)
        variables = _variables(arrays, str(place))
    return InceptionWeights(variables, digest, KNOWN.get(digest, "unknown weights"))


def _torch_names(tree: Any) -> dict[str, Any]:
    """Arrays of jax-fid's nested dicts, which lie as ours do, as the PyTorch file has them."""
    named = {}
    for path, array in flatten_dict(tree).items() if isinstance(tree, Mapping) else ():
        *parents, leaf = map(str, path)
        parent = ".".join(parents)
        if not isinstance(array, np.ndarray):
            continue
        if leaf == "kernel":
            axes = (3, 2, 0, 1) if array.ndim == 4 else None
            named[f"{parent}.weight"] = np.transpose(array, axes)
        elif parents[-1:] == ["bn"]:
            named[f"{parent}.{_NORM.get(leaf, leaf)}"] = array
        else:
            named[f"{parent}.{leaf}"] = array
    return named


def _variables(arrays: Mapping[str, np.ndarray], where: str) -> Any:
    """Our variables of the arrays of a PyTorch file, each batch normalisation in its kernel.

    Raises:
        InputError: an array is missing, of another shape or not finite.
    """
    abstract = flatten_dict(abstract_variables()["params"])
    wanted = {}
    for (*parents, leaf), array in abstract.items():
        name = ".".join(parents)
        if name == "fc":
            wanted["fc.weight"] = array.shape[::-1]
        elif leaf == "kernel":
            *window, inputs, outputs = array.shape
            wanted[f"{name}.conv.weight"] = (outputs, inputs, *window)
            wanted |= {f"{name}.bn.{leaf}": (outputs,) for leaf in _NORM.values()}
    found = {name: np.asarray(arrays[name]) for name in wanted if name in arrays}
    wrong = [f"{name} is missing" for name in wanted if name not in found]
    wrong += [
        f"{name} is {array.shape} instead of {wanted[name]}"
        for name, array in found.items()
        if array.shape != wanted[name]
    ]
    if not wrong:
        wrong = [f"{name} is not all finite numbers" for name, x in found.items() if not _finite(x)]
    if wrong:
        more = f", and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
        raise InputError(
            f"{where} is not the Inception-v3 of FID ({', '.join(wrong[:_LISTED])}{more}); use "
            "torch-fidelity's weights-inception-2015-12-05-6726825d.pth or jax-fid's "
            "inception_v3_weights_fid.pickle."
        )
    folded = {("fc", "kernel"): np.float32(found["fc.weight"].T)}
    for *parents, leaf in abstract:
        if leaf == "kernel" and parents != ["fc"]:
            kernel, bias = _fold(found, ".".join(parents))
            folded[*parents, "kernel"], folded[*parents, "bias"] = kernel, bias
    return {"params": unflatten_dict(folded)}


def _fold(arrays: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Kernel float32 [rows, columns, in, out] and bias [out] of a normalised convolution."""
    # In float64: the network is held to 2e-5 of the one that normalises after each convolution.
    kernel = np.float64(arrays[f"{name}.conv.weight"])
    scale, bias, mean, var = (np.float64(arrays[f"{name}.bn.{leaf}"]) for leaf in _NORM.values())
    factor = scale / np.sqrt(var + _EPSILON)
    folded = np.transpose(kernel, (2, 3, 1, 0)) * factor
    return np.float32(folded), np.float32(bias - mean * factor)


def _finite(array: np.ndarray) -> bool:
    return np.issubdtype(array.dtype, np.floating) and bool(np.isfinite(array).all())
