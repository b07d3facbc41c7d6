"""The process that has the model: whatever a picture does to it, the server and its other visitors go on."""

from __future__ import annotations

import io
import json
import os
import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashdiff_cli import lean
from flashdiff_cli.errors import FlashdiffError, UsageError, one_line
from flashdiff_cli.serve.choices import Choices

if TYPE_CHECKING:
    from PIL import Image

    from flashdiff_cli.pictures.picture import Picture
    from flashdiff_cli.runs.restorer import Restorer

SIDE = 1600
"""Longer side, in pixels, of what a page shows of a picture."""


@dataclass(frozen=True)
class Model:
    """Which model a worker loads, and what it may read.

    Attributes:
        name, device, dtype, offline: see `runs.restorer.Restorer`.
        megapixels: of a picture at the most.
        tile: see `runs.settings.Settings`.
    """

    name: str = "photos"
    device: str = "auto"
    dtype: str = "auto"
    offline: bool = False
    megapixels: float = 50.0
    tile: int = 384


@dataclass(frozen=True)
class Task:
    """A picture and what is to be done with it.

    Attributes:
        name: of the file, see `choices.safe_name`.
        data: its bytes.
        choices: see `Choices`.
        uploads: bytes of files that came with it, by one of `choices.UPLOADS`.
        shown: whether small pictures for a page are wanted.
    """

    name: str
    data: bytes = field(repr=False)
    choices: Choices = field(default_factory=Choices)
    uploads: dict[str, bytes] = field(default_factory=dict, repr=False)
    shown: bool = False


@dataclass(frozen=True)
class Answer:
    """What has become of a picture.

    Attributes:
        name: of the result's file.
        data: its bytes.
        record: see `runs.record.Record`, as JSON has it.
        command: the command line that does the same.
        severity_map: PNG; None where it was not asked for.
        before, after: JPEGs of one size for a page; None where they were not asked for.
    """

    name: str
    data: bytes = field(repr=False)
    record: dict[str, Any]
    command: str
    severity_map: bytes | None = field(default=None, repr=False)
    before: bytes | None = field(default=None, repr=False)
    after: bytes | None = field(default=None, repr=False)


def work(task: Task, restorer: Restorer, tile: int, scratch: str, step: Callable[[int, int], None]) -> Answer:
    """Restore one picture as `flashdiff restore` would; masks and kernels lie in the folder `scratch` while it is done.

    Raises:
        UsageError: choices that make no sense.
        FlashdiffError: the picture, the mask or the kernel cannot be read, or the picture cannot be restored.
    """
    from flashdiff_cli.pictures.files import encoded, picture_of
    from flashdiff_cli.pictures.formats import FORMATS
    from flashdiff_cli.runs.extras import severity_map
    from flashdiff_cli.runs.settings import Settings

    choices = task.choices
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        paths = {}
        for name, data in task.uploads.items():
            paths[name] = os.path.join(folder, f"{name}.png")
            Path(paths[name]).write_bytes(data)
        try:
            settings = Settings(**choices.settings(paths), tile=tile)
            picture = picture_of(task.data, task.name)
            restored, record = restorer.restore(picture, settings, task.name, step)
            map_ = None
            if choices.severity_map:
                map_ = _drawn(severity_map(restorer, picture, settings, record.operator["name"] if record.operator else None, record.noise_std))
        except FlashdiffError as error:
            raise type(error)(str(error).replace(folder + os.sep, "")) from None
        own = Path(task.name).suffix.lower()
        ending = f".{choices.format}" if choices.format else own if own in FORMATS else ".png"
        data, notes = encoded(restored, ending, choices.quality)
        record.notes += notes
        record.output = f"{Path(task.name).stem}-restored{ending}"
        shown = _side_by_side(picture, restored) if task.shown else (None, None)
        said = json.loads(record.to_json().replace(folder + os.sep, ""))
        told = {"tile": None if tile == Settings().tile else tile, "dtype": None if restorer.dtype == "float32" else restorer.dtype}
        command = choices.command(task.name, tuple(task.uploads), restorer.model, **told)
    return Answer(record.output, data, said, command, map_, *shown)


def _side_by_side(picture: Picture, restored: Picture) -> tuple[bytes, bytes]:
    """Return JPEGs of both, of the size of the second."""
    before, after = _preview(picture), _preview(restored)
    return _jpeg(before if before.size == after.size else before.resize(after.size)), _jpeg(after)


def _preview(picture: Picture) -> Image.Image:
    shown = picture.to_rgb()
    shown.thumbnail((SIDE, SIDE))
    return shown


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def _drawn(values: Any) -> bytes:
    from flashdiff_cli.pictures.maps import draw_map

    buffer = io.BytesIO()
    draw_map(values, values.min().item(), values.max().item(), "severity").save(buffer, "PNG")
    return buffer.getvalue()


def main(pipe: Connection, model: Model, scratch: str) -> None:
    """Load the model, say "ready", and answer tasks until the other end is closed.

    Args:
        pipe: takes `Task`s; gives ("ready", None), ("step", (done, total)), ("done", Answer), and ("usage" | "failed" | "broken", message).
        model: see `Model`.
        scratch: a folder that is removed with the server.
    """
    # Ctrl-C in a terminal reaches every process; the server ends this one in its own time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["FLASHDIFF_MAX_MEGAPIXELS"] = str(model.megapixels)
    try:
        with lean.start():
            from flashdiff_cli.runs.restorer import Restorer

        restorer = Restorer(model.name, model.device, model.dtype, offline=model.offline)
    except Exception as error:
        pipe.send(("failed" if isinstance(error, FlashdiffError) else "broken", one_line(str(error))))
        return
    pipe.send(("ready", None))
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            task = pipe.recv()
            pipe.send(_answer(task, restorer, model.tile, scratch, lambda done, total: pipe.send(("step", (done, total)))))


def _answer(task: Task, restorer: Restorer, tile: int, scratch: str, step: Callable[[int, int], None]) -> tuple[str, Any]:
    """Return what is sent for a task; no picture ends the process by an exception."""
    try:
        return "done", work(task, restorer, tile, scratch, step)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except UsageError as error:
        return "usage", str(error)
    except FlashdiffError as error:
        text = str(error)
        return "failed", text if task.name in text else f"{task.name}: {text}"
    except Exception as error:
        if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
            return "failed", f"{task.name}: not enough memory; give a smaller picture"
        reason = " ".join(str(error).split())[:300]
        return "broken", f"{task.name}: could not be done ({type(error).__name__}{': ' if reason else ''}{reason}); please report it with the picture"
