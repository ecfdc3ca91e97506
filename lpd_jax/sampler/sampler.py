"""`Sampler`: a decoder, its tokenizer, and what they can be asked for."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from lpd_jax import parallel, pixels, storage
from lpd_jax.checks import seed as check_seed
from lpd_jax.checks import whole
from lpd_jax.errors import InputError
from lpd_jax.generation import editing
from lpd_jax.generation.plan import make_plan
from lpd_jax.generation.program import edit, generate, preview
from lpd_jax.generation.results import Batch, Edits, Partial, Samples, join_edits
from lpd_jax.generation.sampling import SamplingRule
from lpd_jax.generation.schedule import Schedule
from lpd_jax.models.decoder import Decoder
from lpd_jax.models.tokenizer import Tokenizer
from lpd_jax.sampler import checks, loading
from lpd_jax.sampler.appearing import live, replay
from lpd_jax.sampler.defaults import Defaults, Guidance, left_out
from lpd_jax.sampler.stream import Batches, Take

Labels = Sequence[int | str] | np.ndarray
Program = Callable[[Take, int], Samples]
Given = Callable[[Take], tuple[Any, ...]]  # labels, indices, key and order, on the devices


@dataclasses.dataclass(frozen=True, repr=False)
class Sampler:
    """A decoder and the tokenizer that it was trained with.

    Attributes:
        decoder, decoder_params, tokenizer, tokenizer_params: networks and parameters.
        class_names: what the labels mean.
        guidable: trained with label dropout, so that guidance means something.
        mesh, rules: devices, and how parameters lie on them.
        defaults: how it is sampled where a call does not say.
    """

    decoder: Decoder
    decoder_params: Any
    tokenizer: Tokenizer
    tokenizer_params: Any
    class_names: tuple[str, ...]
    guidable: bool
    mesh: jax.sharding.Mesh
    rules: parallel.Rules = parallel.RULES
    defaults: Defaults = dataclasses.field(default_factory=Defaults)

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
        models = loading.load(path, mesh, rules, dtype, quantize, params)
        return cls(**vars(models), mesh=mesh, rules=rules)

    def __call__(
        self,
        labels: Labels,
        *,
        steps: int | None = None,
        guidance: Guidance = "default",
        temperature: float | None = None,
        order: Any = None,
        seed: int = 0,
    ) -> np.ndarray:
        """Images uint8 [B, H, W, 3] of the classes `labels`, by number or name.

        Args:
            labels: B of them.
            steps: decoding steps, 1 to N.
            guidance: scale of classifier-free guidance; any number costs the same, 1 included, and
                None, without guidance, half.
            temperature: 0 takes the best code each time.
            order: as in `sample`.
            seed: 0 to 2^32 - 1.

        What is left out is as in `defaults`.

        Raises:
            InputError: as `sample`.
        """
        sizes, rule = self._sizes(steps), self.defaults.rule(guidance, temperature)
        return self.sample(labels, sizes, order, rule, seed=seed).images

    def stream(
        self,
        labels: Labels,
        *,
        steps: int | None = None,
        guidance: Guidance = "default",
        temperature: float | None = None,
        order: Any = None,
        seed: int = 0,
        images: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        every: int = 1,
        segments: int = 1,
        cover: bool = True,
    ) -> Iterator[Partial]:
        """The images of `sampler(labels, ...)` while they are made, the finished ones last.

        Each step is a program (`lpd_jax.generation.stepwise`) that runs while the images of the one
        before arrive. To look at unfinished images costs what the VQ decoder costs, each time.

        Args:
            labels, steps, guidance, temperature, order, seed: as in a call of the sampler.
            images, mask: as in `edit`, with as many masked cells in every image, at least one.
            every: steps from one look to the next.
            segments: as in `sample`.
            cover: as in `replay`.

        Yields:
            A `Partial` for what was known from the start, if anything was, one after each `every`
            steps, and the finished images, equal to those of the one program to the bit.

        Raises:
            InputError: as `sample` and `edit`; by the call itself.
        """
        rule = self._rule(self.defaults.rule(guidance, temperature))
        every, segments = whole("every", every, 1), whole("segments", segments, 1)
        count, given = self._given(labels, order, seed)
        sizes, edited = self._sizes(steps), ()
        if images is not None or mask is not None:
            edited = self._cells(images, mask, count)
            sizes = self._edit_sizes(editing.same_count(edited[1]), len(sizes))
        plan = make_plan(sizes, segments, self.decoder.config.num_tokens - sum(sizes))
        return live(self._networks, given, edited, plan, rule, self._batches(), count, every, cover)

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
        grid, network = self.decoder.config.grid, (self.tokenizer, self.tokenizer_params)

        def look(known: np.ndarray) -> np.ndarray:
            def run(take, parts):
                return preview(*network, take(codes), take(known), grid, parts)

            return self._batches().everywhere(np.arange(len(codes)), run)

        return replay(images, step_map, look, cover)

    def schedule(self, samples: Samples, group_sizes: Sequence[int] | None = None) -> Schedule:
        """The schedule that generated `samples`; by default that of `defaults`."""
        sizes = self._sizes() if group_sizes is None else tuple(group_sizes)
        return Schedule(samples.orders, sizes, self.decoder.config.grid, samples.steps)

    def sample(
        self,
        labels: Labels,
        group_sizes: Sequence[int] | None = None,
        order: Any = None,
        rule: SamplingRule | None = None,
        *,
        seed: int = 0,
        first_index: int = 0,
        batch_size: int | None = None,
        segments: int = 1,
        progress: bool = False,
    ) -> Samples:
        """Generates any number of images with one compiled batch shape.

        Args:
            labels: B numbers or names of classes; `num_classes` generates without a class.
            group_sizes: S ints, sum N.
            order: the name of an order, one of `lpd_jax.generation.orders`, or orders
                int [images, N], NumPy or jax: image i of the run gets the i-th.
            rule: guidance and sampling.
            seed: with an image's index, decides that image; 0 to 2^32 - 1.
            first_index: index of the first image.
            batch_size: images per call of the program; all at once by default.
            segments: compiled loop bodies that the steps are divided among.
            progress: show a bar.

        Sizes, order and rule are those of `defaults` when left out.

        Returns:
            `Samples` of NumPy arrays: all images, in every process.

        Raises:
            InputError: a label, the group sizes, the orders, the guidance or a number do not fit
                the model.
        """
        batches = self._batches(batch_size, "sample" * progress)
        rows, program = self._generation(
            labels, group_sizes, order, rule, seed, first_index, segments
        )
        return batches.everywhere(rows, program)

    def batches(
        self,
        labels: Labels,
        group_sizes: Sequence[int] | None = None,
        order: Any = None,
        rule: SamplingRule | None = None,
        *,
        seed: int = 0,
        first_index: int = 0,
        batch_size: int | None = None,
        segments: int = 1,
        progress: bool = False,
        pixels: bool = True,
    ) -> Iterator[Batch]:
        """The images of `sample`, one batch at a time, in memory that does not grow.

        Arguments and errors are those of `sample`; errors are raised by the call itself. Without
        `pixels` images are left out, of sides 0, and their codes alone are made.

        Yields:
            For each batch the rows (places in `labels`) and images that this process's devices
            hold, perhaps none. No other yields them, nothing is sent, and all take as many batches.
        """
        batches = self._batches(batch_size, "sample" * progress)
        rows, program = self._generation(
            labels, group_sizes, order, rule, seed, first_index, segments, pixels
        )
        return batches.here(rows, program)

    def _generation(
        self, labels, group_sizes, order, rule, seed, first_index, segments, pixels=True
    ) -> tuple[np.ndarray, Program]:
        """Checks; returns the rows to generate, and the program that does."""
        count, given = self._given(labels, order, seed, first_index)
        rule, sizes = self._rule(rule), self._sizes() if group_sizes is None else group_sizes
        sizes = checks.group_sizes(sizes, self.decoder.config.num_tokens)
        plan = make_plan(sizes, whole("segments", segments, 1))

        def program(take: Take, parts: int) -> Samples:
            return generate(*self._networks, *given(take), plan, rule, parts * pixels)

        return np.arange(count), program

    def _given(self, labels, order, seed, first_index=0) -> tuple[int, Given]:
        """Checks; returns how many images are asked for, and what the programs take of them."""
        config, chosen = self.decoder.config, self.defaults
        labels = checks.labels(labels, self.class_names, config.num_classes, self.guidable)
        first_index = checks.index(first_index, len(labels))
        order = checks.order(
            chosen.order if order is None else order,
            len(labels),
            config.num_tokens,
            first_index,
            proximity=chosen.proximity,
            repulsion=chosen.repulsion,
        )
        key = jax.random.key(check_seed(seed))
        indices = first_index + np.arange(len(labels), dtype=np.int32)
        return len(labels), lambda take: (take(labels), take(indices), key, take(order))

    def edit(
        self,
        images: np.ndarray,
        mask: np.ndarray,
        labels: Labels,
        *,
        steps: int | None = None,
        guidance: Guidance = "default",
        temperature: float | None = None,
        order: Any = None,
        rule: SamplingRule | None = None,
        group_schedule: str | None = None,
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
            labels: B numbers or names of classes of what is generated, the image's own or another.
            steps: of a whole image; M of N cells get ceil(steps M / N).
            guidance, temperature: as in a call of the sampler.
            order: as in `sample`, orders of whole images, from which the known cells are left out.
            rule: in place of guidance and temperature.
            group_schedule: "cosine" or "uniform".
            keep_pixels: copy the given pixels of the cells that are not masked.
            seed, first_index, batch_size, segments, progress: as in `sample`.

        What is left out is as in `defaults`.

        Raises:
            InputError: images, mask, labels, steps, orders or guidance do not fit the model.
        """
        if rule is None:
            rule = self.defaults.rule(guidance, temperature)
        elif not left_out(guidance) or temperature is not None:
            raise InputError("edit takes guidance and temperature, or a rule that holds both.")
        rule, (count, given) = self._rule(rule), self._given(labels, order, seed, first_index)
        units, unknown = self._cells(images, mask, count)
        segments, batch_size = whole("segments", segments, 1), checks.batch_size(batch_size)
        steps, parts = len(self._sizes(steps)), []
        for cells, rows in editing.by_count(unknown):
            sizes = self._edit_sizes(cells, steps, group_schedule)
            plan = make_plan(sizes, segments, unknown.shape[1] - cells) if sizes else None

            def program(take, parts, plan=plan):
                arrays = take(units), take(unknown), *given(take)
                return edit(*self._networks, *arrays, plan, rule, parts)

            batches = self._batches(batch_size, f"edit {cells} cells" * progress)
            parts.append((rows, sizes, batches.everywhere(rows, program)))
        edits = join_edits(parts, self.decoder.config.grid)
        if keep_pixels:
            pasted = pixels.paste(images, edits.images, edits.step_map >= 0)
            edits = dataclasses.replace(edits, images=pasted)
        return edits

    def _cells(self, images, mask, count) -> tuple[np.ndarray, np.ndarray]:
        """Checks; images to edit float32 [B, H, W, 3] in [-1, 1], and bool [B, N] to generate."""
        images, grid = checks.images(images, count, self.image_size), self.decoder.config.grid
        return pixels.to_unit(images), editing.unknown_cells(mask, count, grid, self.image_size)

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        stride = self.tokenizer.config.stride
        return tuple(side * stride for side in self.decoder.config.grid)

    def __repr__(self) -> str:
        network, devices = self.decoder.config, self.mesh.devices
        sizes = [
            sum(x.size for x in jax.tree.leaves(params)) / 1e6
            for params in (self.decoder_params, self.tokenizer_params)
        ]
        names = ", ".join(self.class_names[:5]) + (", ..." if len(self.class_names) > 5 else "")
        axes = " x ".join(f"{size} {axis}" for axis, size in self.mesh.shape.items() if size > 1)
        return (
            f"Sampler of {len(self.class_names)} classes: {names}\n"
            f"  decoder: {sizes[0]:.1f} M parameters, {network.depth} layers of width "
            f"{network.width}, {network.dtype}\n"
            f"  tokenizer: {sizes[1]:.1f} M parameters, images of {self.image_size[0]}x"
            f"{self.image_size[1]} pixels in {network.grid[0]}x{network.grid[1]} codes of "
            f"{network.vocab_size}\n"
            f"  devices: {devices.size} {devices.flat[0].device_kind} {axes}".rstrip()
        )

    @property
    def _networks(self) -> tuple[Decoder, Tokenizer, tuple[Any, Any]]:
        return self.decoder, self.tokenizer, (self.decoder_params, self.tokenizer_params)

    def _batches(self, batch_size: Any = None, progress: str = "") -> Batches:
        size = checks.batch_size(batch_size)
        return Batches(self.mesh, self.rules, self.image_size, size, progress)

    def _rule(self, rule: SamplingRule | None) -> SamplingRule:
        return checks.rule(self.defaults.rule() if rule is None else rule, self.guidable)

    def _sizes(self, steps: int | None = None) -> tuple[int, ...]:
        return self.defaults.sizes(self.decoder.config.num_tokens, steps)

    def _edit_sizes(self, cells: int, steps: int, kind: str | None = None) -> tuple[int, ...]:
        kind = self.defaults.group_schedule if kind is None else kind
        return editing.group_sizes(cells, self.decoder.config.num_tokens, steps, kind)
