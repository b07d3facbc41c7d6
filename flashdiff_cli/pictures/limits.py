"""What a picture file may be before any of it is decoded: a regular file, of a format that the documents name, within bounds.

Bounds are far above what cameras, scanners and editors write, and far below what makes a machine swap or wait. The one that a user
may meet, the number of pixels, is raised by the environment variable FLASHDIFF_MAX_MEGAPIXELS.
"""

from __future__ import annotations

import ctypes
import io
import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from PIL import Image, ImageFile, TiffImagePlugin

from flashdiff_cli.bounded import open_regular, read_bounded
from flashdiff_cli.errors import UsageError
from flashdiff_cli.pictures import structure, time_limit
from flashdiff_cli.pictures.formats import OPENED
from flashdiff_cli.pictures.structure import Refused

if TYPE_CHECKING:
    from flashdiff_cli.storage.url import Url

VARIABLE = "FLASHDIFF_MAX_MEGAPIXELS"
MEGAPIXELS = 178
"""Pixels of a picture, in millions, unless FLASHDIFF_MAX_MEGAPIXELS says otherwise."""
MOST_MEGAPIXELS = 4000
"""What the variable can be raised to: beyond, sizes no longer fit the numbers that decoders count with."""
HEAD_BYTES = 4 << 20
"""Of a file, in which its size is looked for."""
YCBCR = 6
"""What a TIFF file says of the colours of its samples, if they are luma and chroma."""
BYTES_PER_PIXEL, MORE_BYTES = 16, 256 << 20
"""Of a file: four channels of 32 bits, and room for metadata."""


def max_pixels() -> int:
    """Return the number of pixels that one picture may have.

    Raises:
        UsageError: FLASHDIFF_MAX_MEGAPIXELS is no number above 0, or too large.
    """
    text = os.environ.get(VARIABLE, "").strip() or str(MEGAPIXELS)
    try:
        megapixels = float(text)
    except ValueError:
        megapixels = -1.0
    if not 0 < megapixels <= MOST_MEGAPIXELS:
        raise UsageError(f"{VARIABLE}={text[:40]}: give millions of pixels, above 0 and at most {MOST_MEGAPIXELS}")
    return int(megapixels * 1e6)


def most_bytes() -> int:
    """Return the number of bytes that the file of one picture may have.

    Raises:
        UsageError: as `max_pixels`.
    """
    return BYTES_PER_PIXEL * max_pixels() + MORE_BYTES


def read_file(path: str | Path | Url) -> bytes:
    """Return the bytes of a picture file, or of what stands at an address.

    Raises:
        OSError: it is missing, a folder, or cannot be read.
        FlashdiffError: it is a pipe, a device or a socket, or larger than any picture within the limit of pixels.
    """
    limit, remedy = most_bytes(), f"for larger pictures set {VARIABLE}"
    return read_bounded(path, limit, remedy) if isinstance(path, (str, Path)) else path.read(limit, remedy)


@lru_cache(maxsize=1)
def silence_libtiff() -> None:
    """Keep libtiff from writing to the standard error output of the process what Pillow raises besides."""
    try:
        # Of a wheel of Pillow, its module leads to the library; where it does not, there is nothing to be done.
        handler = ctypes.CDLL(cast(Any, Image.core).__file__).TIFFSetErrorHandler
        handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        handler(None)
    except (AttributeError, OSError, TypeError):
        return


def open_image(data: bytes) -> ImageFile.ImageFile:
    """Open a picture file's bytes with Pillow, once they are known to lie within the bounds. Nothing is decoded yet: see `time_limit.in_time`.

    Args:
        data: of the file.

    Returns:
        as `PIL.Image.open` does.

    Raises:
        Refused: its structure claims more than a decoder should be asked for; the message says what.
        DecompressionBombError: it has too many pixels.
        UnidentifiedImageError: it is of no format that is read.
        and whatever Pillow raises for a damaged file.
    """
    limit = max_pixels()
    structure.check(data, limit)
    if limit > 2 * (Image.MAX_IMAGE_PIXELS or limit):
        # Pillow refuses twice its own number, also of what it finds inside a file.
        Image.MAX_IMAGE_PIXELS = limit // 2
    Image.init()
    silence_libtiff()
    known = [name for name in OPENED if name in Image.OPEN]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = Image.open(io.BytesIO(data), formats=known)
    if opened.width * opened.height > limit:
        raise Image.DecompressionBombError(f"{opened.width} x {opened.height} pixels")
    time_limit.expect(opened.width * opened.height)
    if opened.format in time_limit.ALONE:
        time_limit.decode_alone(opened, data)
    structure.check_work(data, opened.width * opened.height)
    exif = opened.info.get("exif")
    if isinstance(exif, bytes):
        structure.check_exif(exif)
    if opened.format == "TIFF":
        _as_ycbcr(opened)
    return opened


def _as_ycbcr(file: Any) -> None:
    """Have a TIFF file's plain YCbCr read as that: Pillow before 13 takes its three bytes a pixel for four of RGB."""
    if file.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) != YCBCR or not file.tile:
        return
    if all(tile.codec_name == "raw" and tile.args[0] == "RGBX" for tile in file.tile):
        file._mode = "YCbCr"
        file.tile = [tile._replace(args=("YCbCr", *tile.args[1:])) for tile in file.tile]


def size_of(path: str | Path) -> tuple[int, int]:
    """Return width and height of a picture file by what it says at its beginning, not turned upright; nothing is decoded.

    Raises:
        as `open_image_file`; also where the size is not said within the first bytes.
    """
    with open_regular(path) as file:
        data = file.read(HEAD_BYTES)
    with open_image(data) as opened:
        return opened.size


def open_image_file(path: str | Path) -> ImageFile.ImageFile:
    """Open a picture file: `read_file`, then `open_image`."""
    return open_image(read_file(path))


__all__ = ["OPENED", "VARIABLE", "Refused", "max_pixels", "most_bytes", "open_image", "open_image_file", "read_file", "size_of"]
