"""How long the decoder of one file may take: as long as a slow machine needs for so many pixels, and no longer.

A decoder is C code and cannot be stopped from without. It works in a thread that is left to itself when its time is over, and that ends
with the process at the latest. OpenJPEG lets no other thread work meanwhile; it gets a process of its own, which can be ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from PIL import Image, ImageFile

from flashdiff_cli.errors import FlashdiffError, UsageError

VARIABLE = "FLASHDIFF_MAX_SECONDS"
SECONDS, SECONDS_PER_MEGAPIXEL = 20.0, 3.0
"""Of one file, unless FLASHDIFF_MAX_SECONDS says otherwise."""
ALONE = ("JPEG2000",)
"""Formats whose decoders keep Python's lock, as Pillow names them."""
Result = TypeVar("Result")
_here = threading.local()

_SCRIPT = """
import io, sys
sys.path[:] = sys.argv[1:]
from PIL import Image
Image.MAX_IMAGE_PIXELS = None
try:
    picture = Image.open(io.BytesIO(sys.stdin.buffer.read()), formats=["JPEG2000"])
    picture.load()
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
sys.stdout.buffer.write(f"{picture.mode} {picture.width} {picture.height}\\n".encode() + picture.tobytes())
"""


class TooSlow(FlashdiffError):
    """A file whose decoder has not come to an end in time."""


def _allowed(pixels: int) -> float:
    """Return the seconds for a file of so many pixels.

    Raises:
        UsageError: FLASHDIFF_MAX_SECONDS is no number above 0.
    """
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return SECONDS + SECONDS_PER_MEGAPIXEL * pixels / 1e6
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < threading.TIMEOUT_MAX:
        raise UsageError(f"{VARIABLE}={text[:40]}: give seconds, above 0")
    return seconds


def _too_slow(seconds: float) -> TooSlow:
    return TooSlow(f"decoding it took longer than {seconds:g} seconds, as no ordinary picture of its size should; if it is one, set {VARIABLE}")


class _Running:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], Any]):
        self.call, self.pixels, self.ended = call, 0, threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        _here.running = self
        try:
            self.result = self.call()
        except BaseException as error:
            self.error = error
        finally:
            self.ended.set()


def expect(pixels: int) -> None:
    """Say within `in_time` how many pixels the file has, and so how long it may take."""
    running = getattr(_here, "running", None)
    if running is not None:
        running.pixels = max(running.pixels, pixels)


def in_time(call: Callable[[], Result]) -> Result:
    """Return what a call returns that decodes one file.

    Raises:
        TooSlow: it takes too long.
        UsageError: FLASHDIFF_MAX_SECONDS is no number above 0.
        and whatever the call raises.
    """
    running, began = _Running(call), time.monotonic()
    allowed = _allowed(0)
    threading.Thread(target=running.run, name="decode", daemon=True).start()
    while not running.ended.wait(max(0.0, began + allowed - time.monotonic())):
        # By now the file has been opened, and what it claims is known.
        allowed = _allowed(running.pixels)
        if time.monotonic() >= began + allowed:
            raise _too_slow(allowed)
    if running.error is not None:
        raise running.error
    return running.result


def decode_alone(image: ImageFile.ImageFile, data: bytes) -> None:
    """Let a picture's pixels be decoded, when they are asked for, by a process of its own.

    Args:
        image: opened by Pillow and not loaded yet.
        data: of its file.
    """
    image.load = partial(_load_alone, image, data)  # type: ignore[method-assign]


def _load_alone(image: ImageFile.ImageFile, data: bytes) -> Any:
    del image.load
    allowed = _allowed(image.width * image.height)
    command = [sys.executable, "-I", "-c", _SCRIPT, *sys.path]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=allowed, check=False)
    except subprocess.TimeoutExpired:
        raise _too_slow(allowed) from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise OSError(said[-1].partition(": ")[2] or said[-1] if said else "its decoder has failed")
    head, _, pixels = done.stdout.partition(b"\n")
    mode, width, height = head.decode().split()
    loaded = Image.frombytes(mode, (int(width), int(height)), pixels)
    image.im, image._mode, image._size, image.tile = loaded.im, loaded.mode, loaded.size, []
    return image.load()
