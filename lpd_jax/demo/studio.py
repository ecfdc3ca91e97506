"""What happens after a click: images appear, with the order in which their cells did.

Dims: B images, H x W pixels, h x w grid.
"""

import dataclasses
import itertools
import math
import time
from collections.abc import Iterator

import numpy as np
from PIL import Image

from lpd_jax import pixels
from lpd_jax.demo import marks, snippets
from lpd_jax.demo.requests import Request, image_bucket, own_steps, steps_given
from lpd_jax.errors import InputError
from lpd_jax.generation import editing, orders
from lpd_jax.sampler import Sampler
from lpd_jax.viz import images as pictures
from lpd_jax.viz import orders as order_pictures

_LOOKS = 32  # at unfinished images, at most
_TILE = 128  # pixels that an image is shown with, at least
_EDITOR = 384  # the same of an image to draw on


@dataclasses.dataclass(frozen=True)
class Edit:
    """What an edit keeps.

    Attributes:
        image: uint8 [H, W, 3].
        cells: bool [h, w], generated anew.
        keep_pixels: copy the given pixels of the others.
    """

    image: np.ndarray
    cells: np.ndarray
    keep_pixels: bool = False


@dataclasses.dataclass(frozen=True)
class Frame:
    """Images on their way.

    Attributes:
        images: uint8 [B, H, W, 3].
        step_map: int [B, h, w]: the look from 1 at which a cell was there, 0 where it was kept, -1
            where it is not there yet.
        step, steps: done, and of all.
    """

    images: np.ndarray
    step_map: np.ndarray
    step: int
    steps: int


@dataclasses.dataclass(frozen=True)
class Shown:
    """What the page shows of a frame.

    Attributes:
        images, order: sheets.
        status: a line of text.
        frame: the arrays.
    """

    images: Image.Image
    order: Image.Image
    status: str
    frame: Frame


@dataclasses.dataclass(frozen=True)
class Studio:
    """The models of a page, and its limits.

    Attributes:
        sampler: the models.
        origin: where they come from.
        most: images of a click.
        seconds: that a click may take.
        segments: see `Sampler.sample`.
        compiled: kinds of programs that were run; grows.
    """

    sampler: Sampler
    origin: snippets.Origin
    most: int = 16
    seconds: float = 120.0
    segments: int = 1
    compiled: set[tuple] = dataclasses.field(default_factory=set)

    @property
    def scale(self) -> int:
        """How many times the size of the model an image is shown."""
        return max(1, _TILE // self.sampler.image_size[0])

    @property
    def editor_scale(self) -> int:
        """The same of an image to draw on."""
        return max(1, _EDITOR // self.sampler.image_size[0])


def kind(studio: Studio, asked: Request, edit: Edit | None = None) -> tuple:
    """What programs are compiled for: of requests of one kind the first compiles, no other."""
    cells = 0 if edit is None else int(edit.cells.sum())
    return image_bucket(asked.count, studio.most), asked.steps, asked.order, cells


def frames(studio: Studio, asked: Request, edit: Edit | None = None) -> Iterator[Frame]:
    """The images of a request as they appear, the finished ones last.

    Raises:
        InputError: it took longer than `studio.seconds`; what was yielded stays.
    """
    sampler, started = studio.sampler, None
    grid = sampler.decoder.config.grid
    padding = image_bucket(asked.count, studio.most) - asked.count
    labels = asked.labels + padding * asked.labels[:1]
    every = math.ceil(asked.steps / _LOOKS)
    given = {}
    if edit is not None:
        repeated = np.broadcast_to(edit.image, (len(labels), *edit.image.shape))
        given = {"images": np.ascontiguousarray(repeated), "mask": edit.cells}
    stream = sampler.stream(
        labels,
        steps=steps_given(sampler, asked.steps),
        guidance=asked.guidance,
        temperature=asked.temperature,
        order=orders.named(asked.order, asked.proximity, asked.repulsion),
        seed=asked.seed,
        every=every,
        segments=studio.segments,
        **given,
    )
    steps = _number_of_steps(studio, asked, edit)
    step_map = np.full((asked.count, *grid), -1)
    for partial in stream:
        known = partial.known[: asked.count].reshape(-1, *grid)
        step_map = np.where((step_map < 0) & known, partial.step, step_map)
        images = partial.images[: asked.count]
        if edit is not None and edit.keep_pixels:
            kept = np.broadcast_to(~edit.cells, known.shape)
            images = pixels.paste(images, np.broadcast_to(edit.image, images.shape), kept)
        yield Frame(images, step_map, partial.step, steps)
        # Counted from here on: what came before may have been compiling.
        started = time.monotonic() if started is None else started
        if time.monotonic() - started > studio.seconds and partial.step < steps:
            raise InputError(
                f"stopped after {studio.seconds:g} seconds; ask for fewer images or steps."
            )
    studio.compiled.add(kind(studio, asked, edit))


def _number_of_steps(studio: Studio, asked: Request, edit: Edit | None) -> int:
    if edit is None:
        return asked.steps
    return editing.num_steps(int(edit.cells.sum()), edit.cells.size, asked.steps)


def shown(studio: Studio, asked: Request, edit: Edit | None = None) -> Iterator[Shown]:
    """The frames of a request as pictures with a line of text.

    Raises:
        InputError: as `frames`.
    """
    started = time.monotonic()
    names = [*studio.sampler.class_names, "any"]
    for frame in frames(studio, asked, edit):
        seconds = time.monotonic() - started
        status = f"step {frame.step} of {frame.steps}, {seconds:.1f} s"
        if frame.step == frame.steps:
            status = f"{asked.count} in {frame.steps} steps, {seconds:.1f} s"
        yield Shown(
            images=sheet(studio, frame.images, [names[label] for label in asked.labels]),
            order=order_sheet(studio, frame),
            status=status,
            frame=frame,
        )


def side_by_side(
    studio: Studio, one: Request, other: Request
) -> Iterator[tuple[Shown | None, Shown | None]]:
    """Two requests at the same time, a step of each in turns.

    Raises:
        InputError: as `frames`.
    """
    last = None, None
    for pair in itertools.zip_longest(shown(studio, one), shown(studio, other)):
        last = tuple(new or old for new, old in zip(pair, last, strict=True))
        yield last


def waiting(studio: Studio, asked: Request, edit: Edit | None = None) -> str:
    """What a click says before the first image is there."""
    if kind(studio, asked, edit) in studio.compiled:
        return "working …"
    cells = "" if edit is None else f" of {int(edit.cells.sum())} cells"
    images = image_bucket(asked.count, studio.most)
    return (
        f"compiling for {asked.steps} steps{cells}, order {asked.order}, up to {images} "
        "images: the first time only …"
    )


def warm_up(studio: Studio, asked: Request) -> float:
    """Compiles what a first click needs; returns the seconds it took."""
    started = time.monotonic()
    for _ in frames(studio, asked):
        pass
    return time.monotonic() - started


def first_request(studio: Studio) -> Request:
    """What the page asks for when it opens: the model's own settings, as in a notebook."""
    own = studio.sampler.defaults
    classes = tuple(range(min(len(studio.sampler.class_names), 10, studio.most)))
    return Request(
        classes=classes,
        count=len(classes),
        steps=own_steps(studio.sampler),
        guidance=own.guidance,
        temperature=own.temperature,
        order=own.order if own.order in orders.NAMES else "locality",
        proximity=own.proximity,
        repulsion=own.repulsion,
        seed=0,
    )


def sheet(studio: Studio, images: np.ndarray, labels: list[str]) -> Image.Image:
    """Images uint8 [B, H, W, 3] enlarged, in about as many rows as columns, with their names."""
    return pictures.grid(images, _columns(len(images)), studio.scale, labels)


def order_sheet(studio: Studio, frame: Frame) -> Image.Image:
    """The step maps of a frame, laid out as its images are."""
    maps = order_pictures.step_colours(frame.step_map, frame.steps)
    stride = studio.sampler.tokenizer.config.stride
    return pictures.grid(maps, _columns(len(maps)), studio.scale * stride, [" "] * len(maps))


def _columns(count: int) -> int:
    return min(5, math.ceil(math.sqrt(count)) + (count > 4))


def tiles(studio: Studio, images: np.ndarray) -> list[Image.Image]:
    """Images uint8 [B, H, W, 3], each enlarged for the gallery."""
    side = [length * studio.scale for length in studio.sampler.image_size[::-1]]
    return [Image.fromarray(image).resize(side, Image.Resampling.NEAREST) for image in images]


def enlarged(studio: Studio, image: np.ndarray) -> np.ndarray:
    """An image uint8 [H, W, 3] as large as one draws on it."""
    return image.repeat(studio.editor_scale, 0).repeat(studio.editor_scale, 1)


def to_generate(marked: np.ndarray, outside: bool) -> np.ndarray:
    """Cells bool [h, w] that an edit generates: the marked ones or the others, in a full bucket.

    Raises:
        InputError: nothing is marked, or everything, and the others were asked for.
    """
    if outside and marked.all():
        raise InputError("everything is marked, and nothing lies outside of it; clear some.")
    if not marked.any():
        marks.snapped(marked)  # says so
    return marks.snapped(~marked if outside else marked)
