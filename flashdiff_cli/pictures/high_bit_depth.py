"""More than 8 bits a channel where Pillow's modes hold only 8: 16-bit colour, and TIFF files that it does not know.

Pillow decodes 16-bit colour and keeps one byte of two. Which one follows from the byte order that its raw mode names,
so that decoding twice, with either order, gives all 16 bits at the speed and with the care of its decoders. What it
cannot open at all (float colour, 16-bit grey with transparency, planes one after the other) is read by tifffile.
"""

from __future__ import annotations

import io
import logging
import sys
import zlib
from contextlib import suppress
from typing import Any, cast

import numpy as np
from PIL import Image, ImageFile

from flashdiff_cli.pictures import limits, tiff, time_limit

OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PLAIN, DEFLATE, PACKBITS = (1,), (8, 32946), (32773,)
"""TIFF compressions that tifffile reads without compiled helpers."""
RATIOS = ((PLAIN, 1), (DEFLATE, 1032), (PACKBITS, 64))
"""How many times more bytes can come out of each than go in; of others, MOST_RATIO."""
MOST_RATIO = 5000
NUMBERS = (1, 2, 3)
"""TIFF sample formats: unsigned, signed, floating-point; there are complex ones besides."""
GREY, COLOUR = (0, 1), (2,)
"""TIFF photometric interpretations; 0 is grey with white at 0."""


# What tifffile has to say of damaged files is said by the caller.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class UnknownKind(Exception):
    """A TIFF file that is whole, perhaps, but of a kind that is not read; the message names it and a way out."""


def _raw_mode(tile: Any) -> str:
    """Return the raw mode of a Pillow tile, whose arguments are it or begin with it."""
    return tile.args if isinstance(tile.args, str) else tile.args[0]


def _decoded(data: bytes, raw_mode: str) -> np.ndarray:
    """Return (H, W, bands) uint8: the first frame of a file, decoded as if its pixels were laid out as `raw_mode` says."""
    with limits.open_image(data) as file:
        file.tile = [tile._replace(args=raw_mode if isinstance(tile.args, str) else (raw_mode, *(tile.args or ())[1:])) for tile in file.tile]
        return np.asarray(file)


def samples(file: ImageFile.ImageFile, data: bytes) -> np.ndarray | None:
    """Return the pixels of a 16-bit colour PNG or TIFF, or of a 16-bit grey PNG with transparency.

    Args:
        file: as Pillow has opened it, not loaded yet.
        data: the same file's bytes.

    Returns:
        (H, W, C) uint16, C = 2 grey and alpha, 3 RGB, 4 RGBA; None if the file is of another kind.

    Raises:
        whatever Pillow's decoders raise.
    """
    if file.format not in ("PNG", "TIFF") or not file.tile or getattr(file, "_planar_configuration", 1) != 1:
        return None
    raw = _raw_mode(file.tile[0])
    kind, _, depth = raw.partition(";")
    if kind == "LA" and depth == "16B":
        # Its four bytes a pixel are what 8-bit RGBA has.
        return _decoded(data, "RGBA").view(">u2").astype(np.uint16)
    if kind not in ("RGB", "RGBA", "RGBX", "RGBa") or depth not in ("16L", "16B", "16N"):
        return None
    plain = kind.replace("a", "A")
    high = _decoded(data, f"{plain};{depth}").astype(np.uint16)
    values = (high << 8) | _decoded(data, f"{plain};16{OTHER_ORDER[depth[-1]]}")
    if kind == "RGBa":
        alpha = np.maximum(values[..., 3:], 1)
        colours = np.minimum(np.round(values[..., :3] * (65535.0 / alpha)), 65535).astype(np.uint16)
        values = np.concatenate([colours, values[..., 3:]], -1)
    return values


def is_tiff(data: bytes) -> bool:
    """Return whether a file begins as TIFF or BigTIFF does."""
    return data[:4] in TIFF_HEADS


def is_planar(file: ImageFile.ImageFile) -> bool:
    """Return whether a TIFF file keeps 16-bit colours as planes one after the other, which Pillow reads wrongly."""
    return file.format == "TIFF" and getattr(file, "_planar_configuration", 1) == 2 and 16 in cast(Any, file).tag_v2.get(258, ())


def read_tiff(data: bytes, limit: int) -> tuple[np.ndarray, dict[int, Any], list[str]]:
    """Read the first page of a TIFF file that Pillow does not know.

    Args:
        data: the file.
        limit: pixels that it may have.

    Returns:
        (H, W, C) of any number type, C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA, not turned yet; its tags by number;
        notes for people.

    Raises:
        UnknownKind: of its colours or its compression.
        DecompressionBombError: too many pixels.
        ValueError: the file is damaged.
    """
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            pages = len(file.pages)
            grey, channels = page.photometric in GREY, page.samplesperpixel
            if not (grey and channels in (1, 2)) and not (page.photometric in COLOUR and channels in (3, 4)):
                raise UnknownKind(f"TIFF colours of this kind ({channels} channels) are not read; save it as RGB or grey")
            if not isinstance(page.bitspersample, int) or page.sampleformat not in NUMBERS or (page.sampleformat == 3 and page.bitspersample % 16):
                raise UnknownKind("TIFF numbers of this kind are not read; save it with samples of one size, whole or floating-point")
            if not page.imagewidth * page.imagelength:
                raise ValueError("it has no pixels")
            if page.imagewidth * page.imagelength > limit:
                raise Image.DecompressionBombError(f"{page.imagewidth} x {page.imagelength}")
            time_limit.expect(page.imagewidth * page.imagelength)
            _check_stored(data, page)
            values = _pixels(data, page)
            if page.photometric == 0:
                values[..., 0] = from_white(values[..., 0], page.bitspersample)
            return values, _tags(page), [f"first of {pages} frames; the others were left out"] if pages > 1 else []
    except (UnknownKind, ValueError, MemoryError, Image.DecompressionBombError):
        raise
    except Exception as error:  # of damaged files it raises whatever the damage leads to
        raise ValueError(str(error) or type(error).__name__) from error


def from_white(values: np.ndarray, bits: int) -> np.ndarray:
    """Return grey that was stored as its distance from white, of so many bits, as its distance from black."""
    if values.dtype.kind == "f":
        return 1 - values
    if values.dtype.kind == "i":
        return -1 - values
    return values.dtype.type(2**bits - 1) - values


def _tags(page: Any) -> dict[int, Any]:
    """Return a page's tags by number; of damaged ones what can be had."""
    found = {}
    for tag in page.tags:
        with suppress(Exception):  # an odd tag is no reason to refuse the pixels
            found[int(tag.code)] = tag.value
    return found


def _pixels(data: bytes, page: Any) -> np.ndarray:
    """Return (H, W, C): a page's samples."""
    channels, bits = page.samplesperpixel, page.bitspersample
    if bits in (8, 16, 32, 64) and page.compression in PLAIN + DEFLATE + PACKBITS and page.predictor in (1, tiff.DIFFERENCES):
        if len(page.dataoffsets) < int(np.prod(page.chunked)) or not all(page.databytecounts):
            raise ValueError("a part of its pixels is not there")
        if page.compression in DEFLATE:
            _check_deflated(data, page)
        values = page.asarray(maxworkers=1)
        values = np.moveaxis(values, 0, -1) if page.planarconfig == 2 and values.ndim == 3 else values
        return values.reshape(page.imagelength, page.imagewidth, channels)
    if page.planarconfig != 1 or not tiff.is_unpacked(page.compression):
        raise UnknownKind("TIFF compression of this kind is not read for such colours; save it without compression")
    rows, width = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, page.imagelength), page.imagewidth)
    down, across = -(-page.imagelength // rows), -(-page.imagewidth // width)
    if len(page.dataoffsets) != down * across or rows * width > 4 * page.imagewidth * page.imagelength + 65536:
        raise ValueError("its parts do not make up its size")
    dtype = np.dtype(page.dtype if bits in (8, 16, 32, 64) else np.uint16 if bits < 16 else np.uint32).newbyteorder(page.parent.byteorder)
    whole = np.zeros((down * rows, across * width, channels), dtype.newbyteorder("="))
    for i, (begin, length) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
        top, left = i // across * rows, i % across * width
        height = rows if page.is_tiled else min(rows, page.imagelength - top)
        lines = tiff.unpacked(data[begin : begin + length], page.compression, height, -(-width * channels * bits // 8))
        whole[top : top + height, left : left + width] = tiff.samples(lines, dtype, channels, bits, page.predictor)
    return whole[: page.imagelength, : page.imagewidth]


def _check_stored(data: bytes, page: Any) -> None:
    """Raise a ValueError if a page claims more than the bytes that it points to can hold: it would be allocated."""
    parts = zip(page.dataoffsets, page.databytecounts, strict=False)
    stored = sum(max(0, min(length, len(data) - begin)) for begin, length in parts)
    claimed = page.imagewidth * page.imagelength * page.samplesperpixel * page.bitspersample // 8
    if claimed > stored * next((ratio for kinds, ratio in RATIOS if page.compression in kinds), MOST_RATIO) + 64:
        raise ValueError(f"its header claims {claimed:,} bytes of pixels, of which {stored:,} are there")


def _check_deflated(data: bytes, page: Any) -> None:
    """Raise a ValueError if a part of a page inflates to more than its size: tifffile would hold all of it."""
    whole = int(np.prod(page.chunks)) * page.dtype.itemsize
    for begin, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        if len(zlib.decompressobj().decompress(data[begin : begin + length], whole + 1)) > whole:
            raise ValueError("it holds more than its size says")


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Return (H, W, C) as it is to be seen, by the EXIF orientation 1 to 8 of what was stored."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values
