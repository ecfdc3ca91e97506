"""The page in a browser, in Gradio: where controls are, and which handler each of them calls.

Everything that computes waits in one queue for the device, in the order of the clicks; what only
draws does not.
"""

import functools
import socket
from collections.abc import Callable
from typing import Any

import gradio as gr

from lpd_jax.demo import handlers, requests, studio
from lpd_jax.demo.studio import Studio
from lpd_jax.errors import InputError
from lpd_jax.generation import orders

_WAITING = 64  # clicks in the queue, at most
_VISITORS = 200  # whose images are kept
_HOUR = 3600
# A click while another is being answered waits for its turn, too.
_DEVICE = {"concurrency_limit": 1, "concurrency_id": "device", "trigger_mode": "multiple"}
# A picture takes room when there is one, and the gallery as much as its images do.
_CSS = """.picture:not(:has(img)) { display: none !important }
#gallery .grid-wrap { min-height: 0 !important }"""
_TOOLS = 64  # pixels of the editor's tools, above and below what one draws on
_HEAD = """### {title}
{classes} classes, {height}x{width} pixels, {cells} codes on a grid of {rows}x{columns}.
Images appear while they are generated; beside them the step at which each cell came: dark blue
first, yellow last, white not yet, grey kept from the start."""

Parts = dict[str, gr.components.Component]


def page(at: Studio) -> gr.Blocks:
    """The page of a studio, ready to be launched."""
    network, (height, width) = at.sampler.decoder.config, at.sampler.image_size
    head = _HEAD.format(
        title="Locality-aware parallel decoding",
        classes=len(at.sampler.class_names),
        height=height,
        width=width,
        cells=network.num_tokens,
        rows=network.grid[0],
        columns=network.grid[1],
    )
    with gr.Blocks(title="lpd_jax", analytics_enabled=False, delete_cache=(_HOUR, _HOUR)) as blocks:
        gr.Markdown(head)
        history = gr.State([], time_to_live=_HOUR)
        canvas = gr.State(None, time_to_live=_HOUR)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                controls = _controls(at)
            with gr.Column(scale=3):
                gallery = _gallery()
                with gr.Tabs() as tabs:
                    with gr.Tab("Generate"):
                        _generate_tab(at, controls, history, gallery)
                    with gr.Tab("Edit", id="edit"):
                        edited = _edit_tab(at, controls, history, canvas, gallery)
                    with gr.Tab("Compare"):
                        _compare_tab(at, controls)
                gr.Markdown("**Your last images**; click one to edit it")
                gallery.render()
        _gallery_to_editor(at, history, gallery, edited, tabs)
    return blocks.queue(max_size=_WAITING, default_concurrency_limit=4)


def serve(at: Studio, host: str, port: int, upload_mb: int, wait: bool = True) -> str:
    """Shows the page at http://host:port until Ctrl-C, or with `wait=False` in the background.

    Args:
        at: the studio.
        host: address to listen on; 127.0.0.1 is this machine alone.
        port: to listen on; 0 takes a free one.
        upload_mb: megabytes of a file, at most.
        wait: return only when the page is closed.

    Returns:
        The address of the page.

    Raises:
        InputError: the address cannot be listened on.
    """
    port = port or _free_port(host)
    try:
        _, address, _ = page(at).launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            prevent_thread_lock=not wait,
            max_file_size=upload_mb * 2**20,
            state_session_capacity=_VISITORS,
            footer_links=[],
            css=_CSS,
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        )
    except OSError as error:
        raise InputError(
            f"the page cannot listen on {host}:{port} ({error}); choose another "
            "--config.demo.port or --config.demo.host."
        ) from error
    return address


def _free_port(host: str) -> int:
    with socket.socket() as free:
        free.bind((host, 0))
        return free.getsockname()[1]


def _classes(at: Studio) -> list[tuple[str, int]]:
    """Names and labels to choose from, the last "any" where the model generates without a class."""
    named = [(name, label) for label, name in enumerate(at.sampler.class_names)]
    return named + [("any", len(named))] * at.sampler.guidable


def _controls(at: Studio) -> list[gr.components.Component]:
    """Those of the left column, in the order that `requests.request` takes them."""
    own = studio.first_request(at)
    classes = gr.Dropdown(
        _classes(at),
        value=list(own.classes),
        multiselect=True,
        max_choices=requests.MOST_CLASSES,
        label="Classes",
        info="in turns, if there are several",
        elem_id="classes",
    )
    count = gr.Slider(1, at.most, own.count, step=1, label="Images", elem_id="count")
    how = _how(at, own)
    seed = gr.Number(own.seed, label="Seed", precision=0, elem_id="seed")
    return [classes, count, *how, seed]


def _how(at: Studio, own: requests.Request, prefix: str = "") -> list[gr.components.Component]:
    """Controls of how images are made: steps, guidance, temperature, order and its thresholds."""
    return [
        gr.Dropdown(
            requests.step_choices(at.sampler),
            value=own.steps,
            label="Steps",
            elem_id=f"{prefix}steps",
        ),
        gr.Slider(
            *requests.GUIDANCE,
            1.0 if own.guidance is None else own.guidance,
            step=0.1,
            label="Guidance",
            interactive=at.sampler.guidable,
            elem_id=f"{prefix}guidance",
        ),
        gr.Slider(
            *requests.TEMPERATURE,
            own.temperature,
            step=0.05,
            label="Temperature",
            elem_id=f"{prefix}temperature",
        ),
        gr.Dropdown(
            list(orders.NAMES), value=own.order, label="Order", elem_id=f"{prefix}order_name"
        ),
        gr.Slider(
            *requests.PROXIMITY,
            own.proximity,
            step=0.1,
            label="Proximity",
            info="locality: how near to what is there",
            elem_id=f"{prefix}proximity",
        ),
        gr.Slider(
            *requests.REPULSION,
            own.repulsion,
            step=1,
            label="Repulsion",
            info="locality: how far apart in a step",
            elem_id=f"{prefix}repulsion",
        ),
    ]


def _picture(label: str, name: str, scale: int = 1) -> gr.Image:
    """A picture under its title; a label of Gradio's own would cover a corner of it."""
    with gr.Column(min_width=240, scale=scale, elem_classes="picture"):
        gr.Markdown(f"**{label}**")
        return gr.Image(
            label=label,
            show_label=False,
            format="png",
            interactive=False,
            buttons=["download"],
            elem_id=name,
        )


def _gallery() -> gr.Gallery:
    """A visitor's last images, to be placed with `render`."""
    return gr.Gallery(
        label="Your last images",
        show_label=False,
        buttons=[],
        columns=8,
        height="auto",
        format="png",
        interactive=False,
        preview=False,
        allow_preview=False,
        elem_id="gallery",
        render=False,
    )


def _snippets(name: str) -> Parts:
    with gr.Accordion("The same in Python and on the command line", open=False):
        return {
            "python": gr.Code(language="python", label="Python", elem_id=f"{name}_python"),
            "command": gr.Code(language="shell", label="Command line", elem_id=f"{name}_command"),
        }


def _go(name: str) -> tuple[gr.Button, gr.Button]:
    """The buttons that start and stop something."""
    with gr.Row():
        go = gr.Button(name, variant="primary", scale=4, elem_id=name.lower())
        return go, gr.Button("Stop", scale=1, min_width=80)


def _generate_tab(at: Studio, controls: list, history: gr.State, gallery: gr.Gallery) -> None:
    go, stop = _go("Generate")
    parts = {"status": gr.Markdown(elem_id="status")}
    with gr.Row():
        parts["images"] = _picture("Images", "images", 3)
        parts["order"] = _picture("Step of each cell", "order", 2)
    parts |= _snippets("generate")
    parts |= {"gallery": gallery, "history": history}
    event = _on(go.click, functools.partial(handlers.generate, at), [history, *controls], parts)
    stop.click(None, cancels=[event], api_visibility="private")


def _compare_tab(at: Studio, controls: list) -> None:
    gr.Markdown("Left: the settings of the left column. Right: these, with the same seed.")
    with gr.Accordion("Settings of the right side", open=True), gr.Row():
        other = _how(at, studio.first_request(at), "other_")
    go, stop = _go("Compare")
    parts = {"compare_status": gr.Markdown(elem_id="compare_status")}
    for side in ("left", "right"):
        with gr.Row():
            parts[side] = _picture(side.capitalize(), side, 3)
            parts[f"{side}_order"] = _picture("Step of each cell", f"{side}_order", 2)
    event = _on(go.click, functools.partial(handlers.compare, at), [*controls, *other], parts)
    stop.click(None, cancels=[event], api_visibility="private")


def _edit_tab(
    at: Studio, controls: list, history: gr.State, canvas: gr.State, gallery: gr.Gallery
) -> Parts:
    height, width = (side * at.editor_scale for side in at.sampler.image_size)
    with gr.Row():
        picture = gr.UploadButton("Upload an image", file_types=["image"], elem_id="upload_image")
        mask = gr.UploadButton("Upload a mask", file_types=["image"], elem_id="upload_mask")
        clear = gr.Button("Clear marks", elem_id="clear")
    with gr.Row():
        with gr.Column(min_width=240):
            gr.Markdown("**Draw** over what is to be made anew")
            editor = gr.ImageEditor(
                show_label=False,
                type="numpy",
                image_mode="RGBA",
                layers=False,
                sources=(),
                transforms=(),
                brush=gr.Brush(default_size=width // 10, colors=["#ff7f0e"], color_mode="fixed"),
                canvas_size=(width, height),
                fixed_canvas=True,
                height=height + _TOOLS,
                elem_id="editor",
            )
        cells = _picture("Cells; click to turn one over", "cells")
    with gr.Row():
        label = gr.Dropdown(_classes(at), value=0, label="Make it a", elem_id="edit_class")
        outside = gr.Checkbox(label="Generate around the marks instead", elem_id="outside")
        keep = gr.Checkbox(label="Keep the given pixels elsewhere", elem_id="keep")
    go, stop = _go("Edit")
    hint = "Click one of your last images below, or upload one."
    parts: Parts = {"edit_status": gr.Markdown(hint, elem_id="edit_status")}
    with gr.Row():
        parts["edited"] = _picture("Edited", "edited", 3)
        parts["edit_order"] = _picture("Step of each cell", "edit_order", 2)
    parts |= _snippets("edit")
    looks = {"canvas": canvas, "cells": cells, "edit_status": parts["edit_status"]}
    fresh = looks | {"editor": editor}
    _on(
        picture.upload,
        functools.partial(handlers.upload_picture, at),
        [picture],
        fresh,
        device=False,
    )
    _on(
        mask.upload,
        functools.partial(handlers.upload_mask, at),
        [mask, canvas, editor],
        looks,
        device=False,
    )
    _on(clear.click, functools.partial(handlers.clear, at), [canvas], fresh, device=False)
    _on(
        editor.change,
        functools.partial(handlers.look, at),
        [canvas, editor],
        {name: looks[name] for name in ("cells", "edit_status")},
        device=False,
    )

    def turn(canvas: Any, drawn: Any, event: gr.SelectData) -> Any:
        return _named(handlers.click(at, canvas, drawn, tuple(event.index)), looks)

    cells.select(
        turn,
        [canvas, editor],
        list(looks.values()),
        show_progress="hidden",
        api_visibility="private",
    )
    given = [history, canvas, editor, outside, keep, label, *controls]
    parts |= {"gallery": gallery, "history": history}
    event = _on(go.click, functools.partial(handlers.edit, at), given, parts)
    stop.click(None, cancels=[event], api_visibility="private")
    return fresh


def _gallery_to_editor(
    at: Studio, history: gr.State, gallery: gr.Gallery, edited: Parts, tabs: gr.Tabs
) -> None:
    def pick(history: Any, event: gr.SelectData) -> Any:
        update = _named(handlers.pick(at, history, event.index), edited)
        return update | {tabs: gr.Tabs(selected="edit")}

    gallery.select(
        pick,
        [history],
        [*edited.values(), tabs],
        show_progress="hidden",
        api_visibility="private",
    )


def _on(
    event: Callable[..., Any],
    handler: Callable[..., Any],
    given: list,
    parts: Parts,
    device: bool = True,
) -> Any:
    """Lets a handler answer an event; the parts that it names change."""

    def stream(*values: Any) -> Any:
        for update in handler(*values):
            yield _named(update, parts)

    def answer(*values: Any) -> Any:
        return _named(handler(*values), parts)

    return event(
        stream if device else answer,
        given,
        list(parts.values()),
        show_progress="minimal" if device else "hidden",
        api_visibility="private",
        **(_DEVICE if device else {}),
    )


def _named(update: dict[str, Any], parts: Parts) -> Any:
    """An update in terms of the page's parts; Gradio leaves those alone that are not in it."""
    found = {parts[name]: value for name, value in update.items() if name in parts}
    return found or gr.skip()
