"""The web page: pictures in; what was found, before and after, and the files, out."""

# What only the extra [web] brings may be missing where types are checked.
# pyright: reportMissingImports=false
from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from gradio_client.utils import is_http_url_like
from PIL import Image, ImageOps

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.pictures.formats import FORMATS
from flashdiff_cli.pictures.limits import open_image_file
from flashdiff_cli.pictures.time_limit import in_time
from flashdiff_cli.serve.choices import Choices, safe_name
from flashdiff_cli.serve.results import KEPT, SWEPT, Done, Results, taken_bytes
from flashdiff_cli.serve.service import Service
from flashdiff_cli.serve.words import describe, sureness
from flashdiff_cli.serve.worker import Answer, Task

TITLE = "flashdiff"
LOOK = 0.5
"""Seconds between two looks at a picture that waits or is restored."""
WRONG = {
    "find out": (None, None, ""),
    "blurred": ("gaussian-blur", "blur_std", "Standard deviation of the blur, in pixels"),
    "JPEG compression": ("jpeg", "jpeg_quality", "Quality of the JPEG, 1 to 100"),
    "small, and enlarged": ("enlargement", "enlarged", "How many times it was enlarged along each side"),
    "only noise": ("identity", None, ""),
}
"""What a visitor may say of a picture: the operator, its parameter, and the parameter in words."""
USUAL = {"blur_std": 1.5, "jpeg_quality": 40.0, "enlarged": 2.0}
LARGER = {"as it is": None, "2 times": 2, "3 times": 3, "4 times": 4}
AS_PICTURE = "as the picture"
INTRODUCTION = """
<h1>flashdiff</h1>
<p>Restores photographs that are blurred, shaken, noisy, compressed, too small or damaged. The pictures stay on the machine that this page comes from.
The detail that comes back is plausible, not true: never use it to identify a person or as evidence.</p>
"""
MASK_SIDE = 1024
"""Longer side, in pixels, of the picture on which a mask is painted."""


@dataclass
class Wanted:
    """What a visitor has set, in the order of the page's controls."""

    wrong: str = "find out"
    parameter: float | None = None
    noise_known: bool = False
    noise_std: float = 0.05
    larger: str = "as it is"
    own_strength: bool = True
    strength: float = 2.2
    fast: bool = False
    severity_map: bool = False
    format: str = AS_PICTURE
    seed: float | None = 0

    def choices(self) -> Choices:
        """Return them in the form that page and API share.

        Raises:
            UsageError: one is out of range.
        """
        operator, parameter, _ = WRONG.get(str(self.wrong), (None, None, ""))
        values: dict[str, Any] = {"operator": operator, "scale": LARGER.get(str(self.larger)), "fast": self.fast, "severity_map": self.severity_map}
        if parameter is not None:
            values[parameter] = self.parameter
        values["noise_std"] = self.noise_std if self.noise_known else None
        values["variance_multiplier"] = None if self.own_strength else self.strength
        values["format"] = None if self.format == AS_PICTURE else self.format
        values["seed"] = int(self.seed or 0)
        return Choices.read({name: value for name, value in values.items() if value is not None})


def mask_from(painted: dict[str, Any] | None, size_of: Sequence[int] | None) -> bytes | None:
    """Return what was painted as a mask's PNG: black where it was, white elsewhere.

    Args:
        painted: value of an image editor: its layers are what was painted.
        size_of: (W, H) of the picture.

    Returns:
        None where nothing was painted.
    """
    layers = [layer for layer in (painted or {}).get("layers") or [] if layer is not None]
    if not layers or not size_of:
        return None
    opacity = Image.new("L", layers[0].size)
    for layer in layers:
        opacity.paste(255, mask=layer.getchannel("A").point(lambda value: 255 if value > 8 else 0))
    if not opacity.getbbox():
        return None
    mask = opacity.point(lambda value: 0 if value else 255).resize((size_of[0], size_of[1]), Image.Resampling.NEAREST)
    with tempfile.SpooledTemporaryFile() as file:
        mask.save(file, "PNG")
        file.seek(0)
        return file.read()


class Page:
    """The page before a service.

    Args:
        service: that restores.
        results: where they are kept.
        most: pictures of one batch.
        megabytes: MiB of one picture, for what the page says.
    """

    def __init__(self, service: Service, results: Results, most: int, megabytes: float):
        self.service, self.results, self.most, self.megabytes = service, results, most, megabytes
        self.controls: dict[str, gr.components.Component] = {}
        self.outputs: list[gr.components.Component] = []

    def build(self) -> gr.Blocks:
        """Return the page."""
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(SWEPT, KEPT)) as blocks:
            gr.HTML(INTRODUCTION)
            with gr.Row():
                with gr.Column(min_width=300):
                    self._inputs()
                with gr.Column(min_width=300):
                    self._results()
        for block in blocks.blocks.values():
            if isinstance(block, gr.components.Component):
                _refuse_addresses(block)
        return blocks

    def _inputs(self) -> None:
        label = f"Pictures: up to {self.most}, each of at most {self.megabytes:g} MiB"
        self.files = gr.File(label=label, file_count="multiple", height=160, elem_id="pictures")
        self.button = gr.Button("Restore", variant="primary", elem_id="restore")
        with gr.Accordion("Settings", open=False, elem_id="settings"):
            self._settings()
        self.size = gr.State(None)
        with gr.Accordion("Missing parts: paint over scratches and holes", open=False, elem_id="mask"):
            load = gr.Button("Show the picture, to paint on it", elem_id="load-mask")
            brush = gr.Brush(default_size=12, colors=["#ff2020"], default_color="#ff2020", color_mode="fixed")
            self.painted = gr.ImageEditor(
                label="What is painted red is filled in",
                type="pil",
                sources=(),
                transforms=(),
                layers=False,
                brush=brush,
                visible=False,
                elem_id="editor",
                buttons=[],
            )
        # One at a time: it is decoded here.
        load.click(ground, self.files, [self.painted, self.size], api_visibility="private", concurrency_limit=1)
        self.files.change(lambda: (gr.update(value=None, visible=False), None), None, [self.painted, self.size], api_visibility="private")

    def _settings(self) -> None:
        controls, usual = self.controls, Wanted()
        controls["wrong"] = gr.Dropdown(list(WRONG), value=usual.wrong, label="What is wrong with it")
        controls["parameter"] = gr.Number(1.5, label="How much", visible=False)
        with gr.Row():
            controls["noise_known"] = gr.Checkbox(usual.noise_known, label="I know the noise", min_width=140)
            controls["noise_std"] = gr.Slider(0, 0.3, usual.noise_std, step=0.005, label="Noise, of intensities from 0 to 1", visible=False)
        controls["larger"] = gr.Radio(list(LARGER), value=usual.larger, label="Enlarge (for pictures that are sharp but small)")
        with gr.Row():
            controls["own_strength"] = gr.Checkbox(usual.own_strength, label="Strength as the model has it", min_width=140)
            controls["strength"] = gr.Slider(
                0, 8, usual.strength, step=0.1, label="Strength (variance multiplier)", info="more: more steps, more is made up", visible=False
            )
        controls["fast"] = gr.Checkbox(usual.fast, label="Fast: no diffusion steps")
        controls["severity_map"] = gr.Checkbox(usual.severity_map, label="Map of where it is hard")
        controls["format"] = gr.Dropdown([AS_PICTURE, *(name[1:] for name in FORMATS)], value=AS_PICTURE, label="Format of the result")
        controls["seed"] = gr.Number(0, label="Seed of the random draws", precision=0)
        quiet = {"api_visibility": "private", "show_progress": "hidden"}
        controls["wrong"].change(_ask_parameter, controls["wrong"], controls["parameter"], **quiet)
        controls["noise_known"].change(lambda known: gr.update(visible=known), controls["noise_known"], controls["noise_std"], **quiet)
        controls["own_strength"].change(lambda own: gr.update(visible=not own), controls["own_strength"], controls["strength"], **quiet)

    def _results(self) -> None:
        slider = gr.ImageSlider(
            label="Before and after", type="filepath", interactive=False, max_height=640, elem_id="slider", buttons=["fullscreen"]
        )
        said = gr.HTML(visible=False, elem_id="said")
        sure = gr.Label(label="What it looks like", visible=False, show_heading=False, elem_id="sure")
        mapped = gr.Image(
            label="Severity: where it is hard", type="filepath", visible=False, interactive=False, elem_id="map", buttons=["fullscreen"]
        )
        files = gr.File(label="Results to download", visible=False, interactive=False, elem_id="results", file_count="multiple")
        gallery = gr.Gallery(label="All results", visible=False, interactive=False, elem_id="gallery", buttons=["fullscreen"])
        command = gr.Textbox(label="The same on the command line", visible=False, interactive=False, buttons=["copy"], elem_id="command", lines=1)
        self.outputs = [slider, said, sure, mapped, files, gallery, command]
        inputs = {self.files, self.painted, self.size, *self.controls.values()}
        self.button.click(
            self.restore, inputs, self.outputs, api_visibility="private", concurrency_limit=None, show_progress_on=[slider], trigger_mode="once"
        )

    def restore(self, values: dict[Any, Any], progress: gr.Progress = gr.Progress()) -> Iterator[tuple]:  # noqa: B008
        """Restore what was dropped, one after the other; gives the page's outputs after each.

        Args:
            values: of all inputs, by component.
            progress: Gradio's.

        Raises:
            gr.Error: nothing was given, or nothing could be done.
        """
        files = list(values[self.files] or [])
        if not files:
            raise gr.Error("Drop a picture first.", print_exception=False)
        if len(files) > self.most:
            raise gr.Error(f"{len(files)} pictures at once; {self.most} are the limit here.", print_exception=False)
        try:
            choices = Wanted(**{name: values[control] for name, control in self.controls.items()}).choices()
        except UsageError as error:
            raise gr.Error(str(error).replace("`", ""), print_exception=False) from None
        mask = mask_from(values[self.painted], values[self.size]) if len(files) == 1 else None
        with self.results.visit() as done:
            yield from self._restored(done, files, choices, mask, progress)
        if not done.names:
            raise gr.Error("<br>".join(map(escape, done.failed)), print_exception=False, duration=None)

    def _restored(self, done: Done, files: Sequence[str], choices: Choices, mask: bytes | None, progress: gr.Progress) -> Iterator[tuple]:
        """Give the page's outputs after each picture; one that cannot be done is noted."""
        uploads = {} if mask is None else {"mask": mask}
        for number, (path, taken) in enumerate(zip(files, done.take(files), strict=True)):
            name = safe_name(os.path.basename(path))
            try:
                task = Task(name, taken_bytes(taken, name), choices, uploads, shown=True)
                done.keep(self._one(task, number, len(files), progress))
                done.keep_mask(mask)
            except FlashdiffError as error:
                done.failed.append(str(error))
            if done.last is not None:
                yield self._outputs(done, done.last, finished=number + 1 == len(files))

    def _one(self, task: Task, number: int, count: int, progress: gr.Progress) -> Answer:
        """Wait for one picture, and tell how far it is."""
        steps: list[tuple[int, int]] = []
        job = self.service.submit(task, lambda done, total: steps.append((done, total)))
        which = f"{task.name} ({number + 1} of {count})" if count > 1 else task.name
        try:
            while not wait_for([job.future], LOOK).done:
                if ahead := self.service.before(job):
                    progress(number / count, desc=f"{which}: {ahead} before it")
                elif steps and steps[-1][1]:
                    done, total = steps[-1]
                    progress((number + done / total) / count, desc=f"{which}: step {done} of {total}")
                else:
                    progress(number / count, desc=f"{which}: looking at it")
        except BaseException:  # the visitor has gone
            job.future.cancel()
            raise
        try:
            return job.future.result()
        except CancelledError:
            raise FlashdiffError(f"{task.name}: the server is ending") from None

    def _outputs(self, done: Done, last: Answer, finished: bool) -> tuple:
        number = len(done.names)
        pair = tuple(done.shown(f"{number}-{what}.jpg", data) for what, data in (("before", last.before), ("after", last.after)) if data)
        failed = "".join(f"<p>Not done: {escape(line)}</p>" for line in done.failed)
        gallery = [(str(done.folder / "shown" / f"{i}-after.jpg"), name) for i, name in enumerate(done.names, 1)] if number > 1 else []
        mapped = None if last.severity_map is None else done.shown(f"{number}-map.png", last.severity_map)
        files = [str(path) for path in done.files] + ([done.zipped()] if finished and len(done.files) > 1 else [])
        sure = sureness(last)
        return (
            gr.update(value=pair),
            gr.update(value=describe(last) + failed, visible=True),
            gr.update(value=sure, visible=sure is not None),
            gr.update(value=mapped, visible=mapped is not None),
            gr.update(value=files, visible=True),
            gr.update(value=gallery, visible=bool(gallery)),
            gr.update(value=last.command, visible=True),
        )


def _refuse_addresses(block: gr.components.Component) -> None:
    """Have a component take files of this machine alone: Gradio would download what a visitor names by an address."""
    move = block.async_move_resource_to_block_cache

    async def moved(path: Any) -> str | None:
        if is_http_url_like(str(path)):
            raise gr.Error("This server fetches no other addresses; upload the picture.", print_exception=False)
        return await move(path)

    block.async_move_resource_to_block_cache = moved


def _ask_parameter(wrong: str) -> Any:
    """Return the field for the parameter of what a visitor says is wrong; hidden where there is none."""
    _, parameter, words = WRONG.get(str(wrong), (None, None, ""))
    return gr.update(visible=parameter is not None, label=words or "How much", value=USUAL.get(parameter or "", 1.0))


def ground(files: Sequence[str] | None) -> tuple[Any, Any]:
    """Return the picture to paint a mask on, and its size (W, H).

    Raises:
        gr.Error: there is not one picture, or it cannot be shown.
    """
    if not files or len(files) != 1:
        raise gr.Error("Drop one picture first: a mask is for one.", print_exception=False)
    path = files[0]

    def decoded() -> Image.Image:
        with open_image_file(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")

    try:
        upright = in_time(decoded)
    except Exception:  # whatever a format's reader makes of it
        raise gr.Error("This picture cannot be shown here; a mask for it goes through the command line.", print_exception=False) from None
    size = upright.size
    upright.thumbnail((MASK_SIDE, MASK_SIDE))
    return gr.update(value={"background": upright, "layers": [], "composite": None}, visible=True), size


__all__ = ["Page", "Wanted", "ground", "mask_from"]
