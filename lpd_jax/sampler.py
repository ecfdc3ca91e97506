"""The notebook API: trained models in, images out."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import struct
from tqdm import tqdm

from lpd_jax import parallel
from lpd_jax.errors import InputError
from lpd_jax.generation import groups
from lpd_jax.generation.loop import generate_codes, to_raster
from lpd_jax.generation.orders import LocalityAware
from lpd_jax.generation.plan import Plan, make_plan
from lpd_jax.generation.sampling import SamplingRule, sampling_rule
from lpd_jax.generation.schedule import Schedule
from lpd_jax.models.decoder import Decoder
from lpd_jax.models.tokenizer import Tokenizer, to_uint8
from lpd_jax.trained import load_decoder, load_tokenizer


@struct.dataclass
class Samples:
    """Generated images and how they came about.

    Attributes:
        images: uint8 [B, H, W, 3].
        codes: int32 [B, N], raster order.
        orders: int32 [B, N], generation position -> raster index.
    """

    images: Any
    codes: Any
    orders: Any


def image_keys(key: jax.Array, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Typed keys [B] of the orders and of the tokens of images `indices` int32 [B]."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, indices)
    return jax.vmap(lambda k: tuple(jax.random.split(k)))(keys)


@functools.partial(jax.jit, static_argnames=("grid", "group_sizes"))
def draw_orders(
    order: Any,
    key: jax.Array,
    indices: jax.Array,
    grid: tuple[int, int],
    group_sizes: tuple[int, ...],
) -> jax.Array:
    """The orders int32 [B, N] that images `indices` int32 [B] of a run get from `order`."""
    order_keys, _ = image_keys(key, indices)
    return jax.vmap(lambda k: order.draw(k, grid, group_sizes))(order_keys)


@functools.partial(jax.jit, static_argnames=("decoder", "tokenizer", "plan"))
def generate(
    decoder: Decoder,
    tokenizer: Tokenizer,
    params: tuple[Any, Any],
    labels: jax.Array,
    indices: jax.Array,
    key: jax.Array,
    order: Any,
    plan: Plan,
    rule: SamplingRule,
) -> Samples:
    """Labels to pixels in one XLA program: orders, all decoding steps, VQ decoding.

    Args:
        decoder, tokenizer: the networks; static.
        params: their parameters, in that order.
        labels: int32 [B].
        indices: int32 [B], address of each image: it alone, with `key`, decides the image's
            randomness.
        key: typed key of the run.
        order: one of `lpd_jax.generation.orders`, drawn per image; or orders int32 [B, N].
        plan: group sizes and padding; static.
        rule: guidance and sampling.
    """
    grid = decoder.config.grid
    _, token_keys = image_keys(key, indices)
    if isinstance(order, jax.Array):
        orders = order
    else:
        orders = draw_orders(order, key, indices, grid, plan.group_sizes)
    generated = generate_codes(decoder, params[0], labels, orders, token_keys, plan, rule)
    codes = parallel.constrain_batch(to_raster(generated, orders, decoder.config.num_tokens))
    images = tokenizer.apply({"params": params[1]}, codes, grid, method="decode")
    return Samples(to_uint8(images), codes, orders)


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A decoder and the tokenizer that it was trained with.

    Attributes:
        decoder, decoder_params, tokenizer, tokenizer_params: networks and parameters.
        class_names: what the labels mean.
        guidable: trained with label dropout, so that guidance means something.
        mesh, rules: devices, and how parameters lie on them.
    """

    decoder: Decoder
    decoder_params: Any
    tokenizer: Tokenizer
    tokenizer_params: Any
    class_names: tuple[str, ...]
    guidable: bool
    mesh: jax.sharding.Mesh
    rules: parallel.Rules = parallel.RULES

    @classmethod
    def load(
        cls,
        path: str | Path,
        mesh: jax.sharding.Mesh | None = None,
        rules: parallel.Rules = parallel.RULES,
        dtype: str | None = None,
    ) -> "Sampler":
        """The models in `path/decoder/model` and `path/tokenizer/model`.

        Args:
            path: a workdir in which they were trained or converted.
            mesh, rules: devices (all by default), and how parameters lie on them.
            dtype: of the decoder's matrix products; what it was trained or converted with by
                default.

        Raises:
            InputError: one is absent or damaged, or they do not belong together.
        """
        mesh = mesh or parallel.make_mesh(parallel.MeshConfig())
        path = Path(path)
        decoder, decoder_params, about = load_decoder(path / "decoder/model", mesh, rules)
        tokenizer, tokenizer_params, found = load_tokenizer(path / "tokenizer/model", mesh)
        if about["tokenizer"] != found["fingerprint"]:
            raise InputError(
                f"the decoder in {path} was trained on codes of another tokenizer; train it again "
                "or put back the tokenizer that it belongs to."
            )
        if dtype:
            decoder = Decoder(dataclasses.replace(decoder.config, dtype=dtype))
        return cls(
            decoder=decoder,
            decoder_params=decoder_params,
            tokenizer=tokenizer,
            tokenizer_params=tokenizer_params,
            class_names=tuple(about["class_names"]),
            guidable=about["label_drop"] > 0,
            mesh=mesh,
            rules=rules,
        )

    def __call__(
        self,
        labels: Sequence[int],
        *,
        steps: int = 20,
        guidance: float = 1.0,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> np.ndarray:
        """Images uint8 [B, H, W, 3] of the classes `labels`, in `steps` steps."""
        sizes = groups.group_sizes(self.decoder.config.num_tokens, steps)
        rule = sampling_rule(guidance=guidance, temperature=temperature)
        return self.sample(labels, sizes, LocalityAware(), rule, seed=seed).images

    def schedule(self, samples: Samples, group_sizes: Sequence[int]) -> Schedule:
        """The schedule that generated `samples`."""
        return Schedule(samples.orders, tuple(group_sizes), self.decoder.config.grid)

    def sample(
        self,
        labels: Sequence[int],
        group_sizes: Sequence[int],
        order: Any,
        rule: SamplingRule,
        *,
        seed: int = 0,
        first_index: int = 0,
        batch_size: int | None = None,
        segments: int = 1,
        progress: bool = False,
    ) -> Samples:
        """Generates any number of images with one compiled batch shape.

        Args:
            labels: int [B]; `num_classes` generates without a class.
            group_sizes: S ints, sum N.
            order: one of `lpd_jax.generation.orders`, or orders int [B or more, N].
            rule: guidance and sampling.
            seed: with an image's index, decides that image.
            first_index: index of the first image.
            batch_size: images per call of the program; all at once by default.
            segments: compiled loop bodies that the steps are divided among.
            progress: show a bar.

        Returns:
            `Samples` of NumPy arrays.

        Raises:
            InputError: a label, the group sizes, the orders or the guidance do not fit the model.
        """
        labels = self._check(labels, group_sizes, order, rule)
        ways = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        batch_size = ways * math.ceil(min(batch_size or len(labels), len(labels)) / ways)
        plan = make_plan(group_sizes, segments)
        place = parallel.batch_sharding(self.mesh)
        key = jax.random.key(seed)
        parts = []
        starts = range(0, len(labels), batch_size)
        with parallel.use(self.mesh, self.rules):
            for start in tqdm(starts, "sample", unit="batch", disable=not progress):
                # The last batch wraps around, so that every batch has one shape.
                rows = np.arange(start, start + batch_size) % len(labels)
                part = generate(
                    self.decoder,
                    self.tokenizer,
                    (self.decoder_params, self.tokenizer_params),
                    jax.device_put(labels[rows], place),
                    jax.device_put(np.int32(first_index + rows), place),
                    key,
                    jax.device_put(np.int32(order)[rows], place)
                    if isinstance(order, np.ndarray)
                    else order,
                    plan,
                    rule,
                )
                parts.append(jax.device_get(part))
        return jax.tree.map(lambda *x: np.concatenate(x)[: len(labels)], *parts)

    def _check(self, labels, group_sizes, order, rule: SamplingRule) -> np.ndarray:
        config = self.decoder.config
        labels = np.asarray(labels, np.int32)
        wrong = labels[(labels < 0) | (labels > config.num_classes)]
        if labels.ndim != 1 or not labels.size or wrong.size:
            raise InputError(
                f"label {wrong[0] if wrong.size else list(labels)} is out of range: labels are a "
                f"list of numbers from 0 to {config.num_classes - 1} ({config.num_classes} "
                "generates without a class)."
            )
        groups.check_group_sizes(tuple(group_sizes), config.num_tokens)
        if isinstance(order, np.ndarray) and (
            len(order) < len(labels) or order.shape[1] != config.num_tokens
        ):
            raise InputError(
                f"{len(order)} orders of {order.shape[1]} tokens were given for {len(labels)} "
                f"images of {config.num_tokens}; draw enough of them with the `orders` task."
            )
        if not self.guidable and (rule.guidance is not None or config.num_classes in labels):
            raise InputError(
                "guidance and generation without a class need a model trained with label dropout, "
                "and this one was trained with train.label_drop=0; set guidance to 1 or train "
                "again with label_drop=0.1."
            )
        return labels
