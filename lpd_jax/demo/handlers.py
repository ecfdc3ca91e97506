"""What each control of the page does: of plain values, the parts of the page that change.

A handler returns or yields dictionaries, name of a part -> its new value; what is not named stays.
What a person can mend comes as a sentence in the status line, and nothing else changes.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from lpd_jax.demo import marks, snippets, studio
from lpd_jax.demo.requests import Request, request
from lpd_jax.demo.studio import Edit, Studio
from lpd_jax.errors import InputError

KEPT = 24  # images of a visitor that stay to be looked at and edited

Update = dict[str, Any]
History = list[tuple[np.ndarray, str]]  # images uint8 [H, W, 3] and captions, the newest first


@dataclasses.dataclass(frozen=True)
class Canvas:
    """The image that is edited and what is marked on it, apart from what is drawn.

    Attributes:
        image: uint8 [H, W, 3].
        clicked: bool [h, w], cells that were clicked, which turns them over.
        uploaded: bool [h, w], cells of the last mask that was uploaded.
        caption: what it shows, in a word.
    """

    image: np.ndarray
    clicked: np.ndarray
    uploaded: np.ndarray
    caption: str

    def marked(self, drawn: np.ndarray) -> np.ndarray:
        """Cells bool [h, w]: drawn or uploaded, and turned over where clicked."""
        return (drawn | self.uploaded) ^ self.clicked


def generate(at: Studio, history: History, *controls: Any) -> Iterator[Update]:
    """Images as they appear, then the gallery with them; `controls` as `request` takes them."""
    try:
        asked = request(at.sampler, at.most, *controls)
        yield {"status": studio.waiting(at, asked)} | _snippets(at, asked)
        for view in studio.shown(at, asked):
            yield {"images": view.images, "order": view.order, "status": view.status}
        yield _finished(at, history, asked, view.frame.images)
    except InputError as error:
        yield {"status": _sentence(error)}


def compare(at: Studio, *controls: Any) -> Iterator[Update]:
    """Two sets of images side by side.

    Args:
        at: the studio.
        controls: as `request` takes them, and the last six a second time: steps, guidance,
            temperature, order and thresholds of the right side.
    """
    try:
        shared, own, seed, other = controls[:2], controls[2:8], controls[8], controls[9:]
        pair = [request(at.sampler, at.most, *shared, *how, seed) for how in (own, other)]
        waits = [studio.waiting(at, asked) for asked in pair]
        yield {"compare_status": max(waits, key=len)}
        for left, right in studio.side_by_side(at, *pair):
            yield {
                "left": left.images,
                "left_order": left.order,
                "right": right and right.images,
                "right_order": right and right.order,
                "compare_status": f"left {left.status}; right {right.status}",
            }
    except InputError as error:
        yield {"compare_status": _sentence(error)}


def edit(
    at: Studio,
    history: History,
    canvas: Canvas | None,
    drawn: Any,
    outside: bool,
    keep_pixels: bool,
    label: Any,
    *controls: Any,
) -> Iterator[Update]:
    """The image with its marked cells made anew, as it appears.

    Args:
        at, history: studio, and images so far.
        canvas, drawn: what is edited, and the value of the editor.
        outside: generate what is not marked instead.
        keep_pixels: see `Edit`.
        label: class of what is generated.
        controls: as `request` takes them; images are versions of the edit.
    """
    try:
        if canvas is None:
            raise InputError("there is no image to edit: click one in the gallery or upload one.")
        asked = request(at.sampler, at.most, label, *controls[1:])
        marked = canvas.marked(marks.drawn_cells(drawn, canvas.clicked.shape))
        cells = studio.to_generate(marked, outside)
        chosen = Edit(canvas.image, cells, keep_pixels)
        yield {"edit_status": studio.waiting(at, asked, chosen)} | _snippets(at, asked, cells)
        for view in studio.shown(at, asked, chosen):
            yield {"edited": view.images, "edit_order": view.order, "edit_status": view.status}
        update = _finished(at, history, asked, view.frame.images, "as ")
        yield update | {"edit_status": f"{view.status}; {int(cells.sum())} cells made anew"}
    except InputError as error:
        yield {"edit_status": _sentence(error)}


def pick(at: Studio, history: History, place: int) -> Update:
    """An image of the gallery to edit."""
    if not 0 <= place < len(history):
        return {"edit_status": "that image is gone; generate another."}
    return _fresh(at, *history[place])


def upload_picture(at: Studio, file: str | None) -> Update:
    """An uploaded picture to edit."""
    if file is None:
        return {}
    try:
        image = marks.read_picture(file, at.sampler.image_size)
    except InputError as error:
        return {"edit_status": _sentence(error)}
    return _fresh(at, image, "your image")


def upload_mask(at: Studio, file: str | None, canvas: Canvas | None, drawn: Any) -> Update:
    """The cells of an uploaded mask, in place of those of an earlier one."""
    if file is None:
        return {}
    try:
        if canvas is None:
            raise InputError("first choose an image to edit, then its mask.")
        cells = marks.read_mask(file, at.sampler.image_size, at.sampler.decoder.config.grid)
    except InputError as error:
        return {"edit_status": _sentence(error)}
    return look(at, dataclasses.replace(canvas, uploaded=cells), drawn)


def click(at: Studio, canvas: Canvas | None, drawn: Any, place: tuple[int, int]) -> Update:
    """The canvas with the cell at (x, y) of the picture turned over."""
    if canvas is None:
        return {}
    shown = [side * at.editor_scale for side in at.sampler.image_size]
    clicked = canvas.clicked.copy()
    clicked[marks.clicked_cell(place, tuple(shown), clicked.shape)] ^= True
    return look(at, dataclasses.replace(canvas, clicked=clicked), drawn)


def clear(at: Studio, canvas: Canvas | None) -> Update:
    """The same image without marks."""
    return {} if canvas is None else _fresh(at, canvas.image, canvas.caption)


def look(at: Studio, canvas: Canvas | None, drawn: Any) -> Update:
    """What is marked, and what is added to it, on the token grid."""
    if canvas is None:
        return {}
    marked = canvas.marked(marks.drawn_cells(drawn, canvas.clicked.shape))
    status = f"to edit: {canvas.caption}; nothing is marked"
    if marked.any():
        count, filled = int(marked.sum()), int(marks.snapped(marked).sum())
        status = f"{count} of {marked.size} cells marked (orange)"
        status += f", {filled - count} added (green) for a program that exists" * (filled > count)
    picture = marks.overlay(canvas.image, marked, at.editor_scale)
    return {"canvas": canvas, "cells": picture, "edit_status": status}


def _fresh(at: Studio, image: np.ndarray, caption: str) -> Update:
    nothing = np.zeros(at.sampler.decoder.config.grid, bool)
    large = studio.enlarged(at, image)
    # Gradio's editor keeps its first change after it came into sight to itself. With a layer to
    # load that is the loading of it, without one it is the first stroke.
    empty = np.zeros((*large.shape[:2], 4), np.uint8)
    editor = {"background": large, "layers": [empty], "composite": None}
    return look(at, Canvas(image, nothing, nothing, caption), None) | {"editor": editor}


def _finished(
    at: Studio, history: History, asked: Request, images: np.ndarray, how: str = ""
) -> Update:
    """Gallery and history with new images before the others."""
    names = [*at.sampler.class_names, "any"]
    new = [(x, f"{how}{names[y]}") for x, y in zip(images, asked.labels, strict=True)]
    history = [*new, *history][:KEPT]
    pictures = studio.tiles(at, np.stack([image for image, _ in history]))
    captions = [caption for _, caption in history]
    return {"history": history, "gallery": list(zip(pictures, captions, strict=True))}


def _snippets(at: Studio, asked: Request, cells: np.ndarray | None = None) -> Update:
    return {
        "python": snippets.python(at.origin, at.sampler, asked, cells),
        "command": snippets.command(at.origin, at.sampler, asked, cells is not None),
    }


def _sentence(error: InputError) -> str:
    return f"⚠ {error}"
