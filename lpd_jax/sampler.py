"""The notebook API: trained models in, images out."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from lpd_jax import distributed, parallel, storage
from lpd_jax.data.pipeline import to_unit
from lpd_jax.errors import InputError
from lpd_jax.generation import editing, groups
from lpd_jax.generation.orders import LocalityAware
from lpd_jax.generation.plan import make_plan
from lpd_jax.generation.program import (
    Edits,
    Partial,
    Samples,
    draw_orders,
    edit,
    generate,
    join_edits,
    preview,
    tokenizer_parts,
)
from lpd_jax.generation.sampling import SamplingRule, sampling_rule
from lpd_jax.generation.schedule import Schedule
from lpd_jax.models.decoder import Decoder
from lpd_jax.models.tokenizer import Tokenizer
from lpd_jax.quantize import quantize_decoder
from lpd_jax.trained import lay_out, load_decoder, load_tokenizer
from lpd_jax.viz import images as pictures

__all__ = ["Edits", "Partial", "Sampler", "Samples", "draw_orders", "generate"]

_PAPER_ORDER = LocalityAware()


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
        path: storage.Where,
        mesh: jax.sharding.Mesh | None = None,
        rules: parallel.Rules = parallel.RULES,
        dtype: str | None = None,
        quantize: str = "",
        params: str = "",
    ) -> "Sampler":
        """The models in `path/decoder/model` and `path/tokenizer/model`.

        Args:
            path: a workdir in which they were trained or converted; gs://bucket/... too.
            mesh, rules: devices (all by default), and how parameters lie on them.
            dtype: of the products of the decoder and of the VQ decoder ("bfloat16" is what the
                official evaluation does); what they were trained or converted with by default.
            quantize: "int8" keeps the kernels of the decoder's blocks and head in int8,
                "int8_w8a8" multiplies integers too (see `lpd_jax.quantize`); empty for neither.
            params: "raw" for the parameters of the last step, "ema" for their average, empty for
                the average where training kept one.

        Raises:
            InputError: one is absent or damaged, or they do not belong together.
        """
        mesh = mesh or parallel.make_mesh(parallel.MeshConfig())
        path = storage.path(path)
        decoder, decoder_params, about = load_decoder(path / "decoder/model", mesh, rules, params)
        tokenizer, tokenizer_params, found = load_tokenizer(path / "tokenizer/model", mesh)
        if about["tokenizer"] != found["fingerprint"]:
            raise InputError(
                f"the decoder in {path} was trained on codes of another tokenizer; train it again "
                "or put back the tokenizer that it belongs to."
            )
        if quantize:
            decoder_params = quantize_decoder(decoder_params, quantize, donate=True)
        layers = "scan" if mesh.devices.flat[0].platform == "tpu" else "unrolled"
        decoder, decoder_params = lay_out(decoder, decoder_params, layers, dtype)
        return cls(
            decoder=decoder,
            decoder_params=decoder_params,
            tokenizer=tokenizer.clone(decode_dtype=dtype or ""),
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
        order: Any = _PAPER_ORDER,
        seed: int = 0,
    ) -> np.ndarray:
        """Images uint8 [B, H, W, 3] of the classes `labels`, in `steps` steps."""
        sizes = groups.group_sizes(self.decoder.config.num_tokens, steps)
        rule = sampling_rule(guidance=guidance, temperature=temperature)
        return self.sample(labels, sizes, order, rule, seed=seed).images

    def stream(
        self,
        labels: Sequence[int],
        *,
        steps: int = 20,
        guidance: float = 1.0,
        temperature: float = 1.0,
        order: Any = _PAPER_ORDER,
        seed: int = 0,
        cover: bool = True,
    ) -> Iterator[Partial]:
        """The images of `sampler(labels, ...)` after each step; see `replay`.

        The steps are one XLA program, which ends before the first image appears: that is how the
        last image is exactly the one that the same call without `stream` gives.
        """
        sizes = groups.group_sizes(self.decoder.config.num_tokens, steps)
        rule = sampling_rule(guidance=guidance, temperature=temperature)
        samples = self.sample(labels, sizes, order, rule, seed=seed)
        step_map = np.asarray(self.schedule(samples, sizes).step_map)
        return self.replay(samples.images, samples.codes, step_map, cover=cover)

    def replay(
        self, images: np.ndarray, codes: np.ndarray, step_map: np.ndarray, *, cover: bool = True
    ) -> Iterator[Partial]:
        """How generated or edited images appeared, step by step.

        Args:
            images: uint8 [B, H, W, 3], the finished ones, which come last.
            codes: int32 [B, N].
            step_map: int32 [B, h, w], from a `Schedule` or `Edits`; -1 is known from the start.
            cover: hide the cells that are not known yet, rather than show what the tokenizer
                makes of them with the mean of the codebook in their place.

        Yields:
            A `Partial` for what was known from the start, if anything was, then one per step.
        """
        grid, last = self.decoder.config.grid, step_map.max()
        for step in range(-1 if (step_map < 0).any() else 0, last + 1):
            known = (step_map <= step).reshape(codes.shape)
            shown = images
            if step < last:

                def run(take, parts, known=known):
                    of_images = take(codes), take(known)
                    return preview(self.tokenizer, self.tokenizer_params, *of_images, grid, parts)

                shown = self._in_batches(np.arange(len(codes)), None, run)
            if cover:
                shown = pictures.hide_unknown(shown, known.reshape(step_map.shape))
            yield Partial(step + 1, shown, known)

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
        labels = self._check(labels, order, rule)
        groups.check_group_sizes(tuple(group_sizes), self.decoder.config.num_tokens)
        plan, key = make_plan(group_sizes, segments), jax.random.key(seed)
        indices = first_index + np.arange(len(labels))

        def run(take, parts):
            of_images = take(labels), take(indices)
            return generate(*self._networks, *of_images, key, take(order), plan, rule, parts)

        rows = np.arange(len(labels))
        return self._in_batches(rows, batch_size, run, "sample" if progress else "")

    @property
    def _networks(self) -> tuple[Decoder, Tokenizer, tuple[Any, Any]]:
        return self.decoder, self.tokenizer, (self.decoder_params, self.tokenizer_params)

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        stride = self.tokenizer.config.stride
        return tuple(side * stride for side in self.decoder.config.grid)

    def edit(
        self,
        images: np.ndarray,
        mask: np.ndarray,
        labels: Sequence[int],
        *,
        steps: int = 20,
        order: Any = _PAPER_ORDER,
        rule: SamplingRule | None = None,
        group_schedule: str = "cosine",
        keep_pixels: bool = False,
        seed: int = 0,
        first_index: int = 0,
        batch_size: int | None = None,
        segments: int = 1,
        progress: bool = False,
    ) -> Edits:
        """Generates the masked cells of images anew, in view of the others: one compiled program.

        The other cells keep their codes; their pixels go through the tokenizer, which loses some
        detail. How many cells are masked is compiled in, where they are is not.

        Args:
            images: uint8 [B, H, W, 3] of `image_size`.
            mask: True where to generate, in pixels or cells, one for all or one per image (see
                `editing.unknown_cells`; `editing.rectangle` makes them). An image without any is
                encoded and decoded.
            labels: int [B], the class of what is generated, the image's own or another.
            steps: of a whole image; M of N cells get ceil(steps M / N).
            order: one of `lpd_jax.generation.orders`, or orders int [B or more, N] of whole
                images, from which the known cells are left out.
            rule: guidance and sampling; plain sampling by default.
            group_schedule: "cosine" or "uniform".
            keep_pixels: copy the given pixels of the cells that are not masked.
            seed, first_index, batch_size, segments, progress: as in `sample`.

        Raises:
            InputError: images, mask, labels, steps, orders or guidance do not fit the model.
        """
        rule = sampling_rule() if rule is None else rule
        labels = self._check(labels, order, rule)
        editing.check_images(images, len(labels), self.image_size)
        grid, num_tokens = self.decoder.config.grid, self.decoder.config.num_tokens
        unknown = editing.unknown_cells(mask, len(images), grid, self.image_size)
        pixels, indices = to_unit(images), first_index + np.arange(len(images))
        key, parts = jax.random.key(seed), []
        for count, rows in editing.by_count(unknown):
            sizes = editing.group_sizes(count, num_tokens, steps, group_schedule)
            plan = make_plan(sizes, segments, num_tokens - count) if sizes else None

            def run(take, parts, plan=plan):
                of_images = take(pixels), take(unknown), take(labels), take(indices)
                return edit(*self._networks, *of_images, key, take(order), plan, rule, parts)

            part = self._in_batches(rows, batch_size, run, f"edit {count} cells" * progress)
            parts.append((rows, sizes, part))
        edits = join_edits(parts, grid)
        if keep_pixels:
            pasted = pictures.paste(images, edits.images, edits.step_map >= 0)
            edits = dataclasses.replace(edits, images=pasted)
        return edits

    def _in_batches(
        self,
        rows: np.ndarray,
        batch_size: int | None,
        run: Callable[[Callable, int], Any],
        progress: str = "",
    ) -> Any:
        """Calls `run(take, parts)` for as many rows each time, and joins what it returns.

        `take` cuts the rows out of an array and spreads them over the devices; what is no NumPy
        array it returns as it is. `parts` is of `tokenizer_parts`. `progress` is the name of a bar,
        which an empty one has not.
        """
        ways = parallel.batch_ways(self.mesh)
        size = ways * math.ceil(min(batch_size or len(rows), len(rows)) / ways)
        place, results = parallel.batch_sharding(self.mesh), []
        parts = tokenizer_parts(size, ways, self.image_size)
        with parallel.use(self.mesh, self.rules):
            starts = range(0, len(rows), size)
            for start in tqdm(starts, progress, unit="batch", disable=not progress):
                # The last batch wraps around, so that every batch has one shape.
                taken = rows[np.arange(start, start + size) % len(rows)]

                def take(x, taken=taken):
                    return jax.device_put(x[taken], place) if isinstance(x, np.ndarray) else x

                results.append(distributed.to_host(run(take, parts)))
        return jax.tree.map(lambda *x: np.concatenate(x)[: len(rows)], *results)

    def _check(self, labels, order, rule: SamplingRule) -> np.ndarray:
        config = self.decoder.config
        labels = np.asarray(labels, np.int32)
        wrong = labels[(labels < 0) | (labels > config.num_classes)]
        if labels.ndim != 1 or not labels.size or wrong.size:
            raise InputError(
                f"label {wrong[0] if wrong.size else list(labels)} is out of range: labels are a "
                f"list of numbers from 0 to {config.num_classes - 1} ({config.num_classes} "
                "generates without a class)."
            )
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
