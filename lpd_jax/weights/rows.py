"""The conversion table between official and our parameters, and the engine that reads it.

A `Row` pairs an official name with one of our paths and says in einops notation how the array
turns from the one into the other. Both directions, the shapes that the official file must have and
every check follow from the table and our abstract parameter tree.

The axes: d e h k f v c n i o x y width, code dimension, heads, head width, hidden width, codebook,
classes, positions, channels in and out, kernel rows and columns; s query/key/value.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from einops import rearrange
from flax.traverse_util import flatten_dict, unflatten_dict

from lpd_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        official: name in the official state dict; `{field}` matches one part of a name.
        ours: path in our parameter tree with the same fields, except `{layer}`: our leaf stacks
            the layers on a leading axis.
        axes: einops pattern from the official array to ours; swapped, it is the inverse.
    """

    official: str
    ours: str
    axes: str

    def inverse_axes(self) -> str:
        return " -> ".join(reversed(self.axes.split(" -> ")))

    def sizes(self, shape: Sequence[int]) -> dict[str, int]:
        """Axis sizes, given the shape of our array (without the layer axis)."""
        return dict(zip(self.axes.split(" -> ")[1].split(), shape, strict=True))

    def official_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the official array, given that of ours (without the layer axis)."""
        sizes = self.sizes(shape) | {"1": 1}
        axes = re.findall(r"\(([^)]*)\)|(\S+)", self.axes.split(" -> ")[0])
        return tuple(math.prod(sizes[x] for x in (a or b).split()) for a, b in axes)


def _affine(official: str, ours: str, axes: str) -> tuple[Row, Row]:
    return (
        Row(f"{official}.weight", f"{ours}/kernel", axes),
        Row(f"{official}.bias", f"{ours}/bias", "o -> o"),
    )


def _norm(official: str, ours: str) -> tuple[Row, Row]:
    return (
        Row(f"{official}.weight", f"{ours}/scale", "d -> d"),
        Row(f"{official}.bias", f"{ours}/bias", "d -> d"),
    )


# Problems printed before an error is cut short.
_LISTED = 40

_DENSE = "o i -> i o"
_CONV1 = "o i 1 1 -> i o"
_CONV3 = "o i x y -> x y i o"

DECODER = (
    Row("class_emb.weight", "class_embed/embedding", "c d -> c d"),
    Row("token_emb.weight", "token_embed/embedding", "v d -> v d"),
    Row("fake_latent", "null_class", "1 d -> d"),
    Row("mask_token", "query", "1 1 d -> d"),
    Row("pos_embed", "pos_embed", "1 n d -> n d"),
    *_norm("z_proj_ln", "embed_norm"),
    *_norm("blocks.{layer}.norm1", "blocks/norm1"),
    Row("blocks.{layer}.attn.qkv.weight", "blocks/qkv/kernel", "(s h k) d -> d s h k"),
    Row("blocks.{layer}.attn.qkv.bias", "blocks/qkv/bias", "(s h k) -> s h k"),
    Row("blocks.{layer}.attn.proj.weight", "blocks/proj/kernel", "d (h k) -> h k d"),
    Row("blocks.{layer}.attn.proj.bias", "blocks/proj/bias", "d -> d"),
    *_norm("blocks.{layer}.norm2", "blocks/norm2"),
    *_affine("blocks.{layer}.mlp.fc1", "blocks/up", _DENSE),
    *_affine("blocks.{layer}.mlp.fc2", "blocks/down", _DENSE),
    *_norm("norm", "norm"),
    Row("head.weight", "head/kernel", _DENSE),
)


def _tokenizer_rows() -> Iterable[Row]:
    yield Row("quantize.embedding.weight", "quantizer/embedding", "v e -> v e")
    yield from _affine("quant_conv", "to_code", _CONV1)
    yield from _affine("post_quant_conv", "from_code", _CONV1)
    yield from _affine("{side}.conv_in", "{side}/conv_in", _CONV3)
    yield from _norm("{side}.norm_out", "{side}/norm_out")
    yield from _affine("{side}.conv_out", "{side}/conv_out", _CONV3)
    stage = "{side}.conv_blocks.{stage}"
    for direction in ("downsample", "upsample"):
        resample = f"{{side}}/{direction}{{stage}}/conv"
        yield from _affine(f"{stage}.{direction}.conv", resample, _CONV3)
    for official, ours in (
        (f"{stage}.res.{{block}}", "{side}/stage{stage}/block{block}"),
        ("{side}.mid.0", "{side}/middle/block0"),
        ("{side}.mid.2", "{side}/middle/block1"),
    ):
        for part in ("1", "2"):
            yield from _norm(f"{official}.norm{part}", f"{ours}/norm{part}")
            yield from _affine(f"{official}.conv{part}", f"{ours}/conv{part}", _CONV3)
        yield from _affine(f"{official}.nin_shortcut", f"{ours}/shortcut", _CONV1)
    for official, ours in (
        (f"{stage}.attn.{{block}}", "{side}/stage{stage}/attention{block}"),
        ("{side}.mid.1", "{side}/middle/attention"),
    ):
        yield from _norm(f"{official}.norm", f"{ours}/norm")
        for theirs, name in (("q", "q"), ("k", "k"), ("v", "v"), ("proj_out", "proj")):
            yield from _affine(f"{official}.{theirs}", f"{ours}/{name}", _CONV1)


TOKENIZER = tuple(_tokenizer_rows())


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where one official array lives in our tree: a leaf, or one layer of it."""

    row: Row
    path: str
    layer: int | None
    shape: tuple[int, ...]

    def of(self, leaf: np.ndarray) -> np.ndarray:
        return leaf if self.layer is None else leaf[self.layer]


def _regex(template: str) -> re.Pattern:
    """`{field}` stands for digits or lower-case letters: one part of a name or path."""
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile(
        "".join(f"(?P<{p}>[a-z]+|[0-9]+)" if i % 2 else re.escape(p) for i, p in enumerate(parts))
    )


def _places(rows: Sequence[Row], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, _Place]:
    """The official arrays that make up a tree with these leaves.

    Raises:
        ValueError: the table does not name every leaf exactly once (a bug, not a bad file).
    """
    patterns = [(_regex(row.ours), row) for row in rows]
    places = {}
    for path, shape in shapes.items():
        found = [(m, row) for pattern, row in patterns if (m := pattern.fullmatch(path))]
        if len(found) != 1:
            raise ValueError(f"{len(found)} rows of the conversion table match {path!r}.")
        ((match, row),) = found
        if "{layer}" not in row.official:
            places[row.official.format(**match.groupdict())] = _Place(row, path, None, shape)
            continue
        for layer in range(shape[0]):
            places[row.official.format(layer=layer)] = _Place(row, path, layer, shape[1:])
    return places


def from_official(
    weights: Mapping[str, np.ndarray],
    rows: Sequence[Row],
    abstract,
    ignored: Iterable[str] = (),
) -> dict:
    """Official arrays -> our parameters, float32.

    Each array is read, transformed and let go before the next, straight into its place, so that
    memory holds the result and one array.

    Args:
        weights: official name -> array; may read lazily.
        rows: the table.
        abstract: our unboxed parameter tree of shapes.
        ignored: official names that have no place with us.

    Raises:
        InputError: names are missing or unexpected, or shapes are wrong; all of them are named.
    """
    leaves = flatten_dict(abstract, sep="/")
    places = _places(rows, {path: tuple(leaf.shape) for path, leaf in leaves.items()})
    problems = [f"missing: {name}" for name in places if name not in weights]
    unexpected = set(weights) - set(places) - set(ignored)
    problems += [f"unexpected: {name}" for name in sorted(unexpected)]
    params = {path: np.empty(leaf.shape, np.float32) for path, leaf in leaves.items()}
    for name, place in places.items():
        if name not in weights:
            continue
        array, expected = weights[name], place.row.official_shape(place.shape)
        if array.shape != expected:
            problems.append(f"wrong shape: {name} is {array.shape}, expected {expected}")
            continue
        sizes = place.row.sizes(place.shape)
        place.of(params[place.path])[...] = rearrange(array, place.row.axes, **sizes)
    if problems:
        listed = problems[:_LISTED] + ["..."] * (len(problems) > _LISTED)
        raise InputError(
            f"The weights do not fit the model they seem to be ({len(problems)} problems); check "
            "that the file is complete and holds one model:\n  " + "\n  ".join(listed)
        )
    return unflatten_dict(params, sep="/")


def to_official(params, rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Our unboxed parameters -> official name -> array, the exact inverse of `from_official`."""
    leaves = {path: np.asarray(leaf) for path, leaf in flatten_dict(params, sep="/").items()}
    places = _places(rows, {path: leaf.shape for path, leaf in leaves.items()})
    return {
        name: np.ascontiguousarray(
            rearrange(
                place.of(leaves[place.path]),
                place.row.inverse_axes(),
                **place.row.sizes(place.shape),
            )
        )
        for name, place in places.items()
    }
