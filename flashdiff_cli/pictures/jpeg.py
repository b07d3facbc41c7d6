"""JPEG files: how one was compressed, its segments, and one that lacks its end."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

HEAD, END = b"\xff\xd8", b"\xff\xd9"
SAMPLINGS = {0: "444", 1: "422", 2: "420"}
"""Pillow's numbers of the ratios of brightness to colours."""
MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
"""What ends the coded pixels: a marker that is neither a stuffed byte nor a restart."""
SCAN, ADOBE, JFIF = 0xDA, 0xEE, 0xE0
PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
LIMIT = 65_533
"""Bytes that a segment can hold."""
GREY = (127, 128)
"""What decoders make of blocks that are not there."""


def _turned(table: list[int]) -> list[int]:
    """Return a table of 8 x 8 with rows for columns."""
    return [table[8 * column + row] for row in range(8) for column in range(8)]


def compression(file: Image.Image, orientation: int = 1) -> tuple[list[list[int]] | None, str | None]:
    """Tell how a picture was compressed, as it is when it is upright.

    Args:
        file: as Pillow has opened it.
        orientation: of what is stored, as EXIF counts.

    Returns:
        the quantisation tables of brightness and, where there is colour, of the colours, each of 64 divisors row by
        row; the subsampling of colours, "444", "422" or "420". None for what does not apply: no JPEG, CMYK, another
        ratio.
    """
    tables, layers = getattr(file, "quantization", None), getattr(file, "layer", None)
    if file.format not in ("JPEG", "MPO") or not tables or not layers or len(layers) not in (1, 3):
        return None, None
    found = [list(tables[layer[3]]) for layer in layers[:2] if layer[3] in tables]
    if len(found) != min(len(layers), 2) or any(len(table) != 64 for table in found):
        return None, None
    sampling = SAMPLINGS.get(get_sampling(file)) if len(layers) == 3 else None
    if orientation in (5, 6, 7, 8):
        found, sampling = [_turned(table) for table in found], None if sampling == "422" else sampling
    return found, sampling


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Walk the segments of a file's first picture.

    Yields:
        (marker, where its contents begin, where they end); of a scan its head and all of its coded pixels.
    """
    place = 2
    while found := MARKER.search(data, place):
        marker, place = found[1][0], found.end()
        if marker == 0xD9 or place + 2 > len(data):
            return
        if marker in (0x01, 0xD8):
            continue
        length = max(struct.unpack_from(">H", data, place)[0], 2)
        end = min(place + length, len(data))
        if marker == SCAN:
            after = MARKER.search(data, end)
            end = after.start() if after else len(data)
        yield marker, place + 2, end
        place = end


def segment(marker: int, contents: bytes) -> bytes:
    """Return a segment of at most `LIMIT` bytes, ready to be written."""
    return struct.pack(">BBH", 0xFF, marker, len(contents) + 2) + contents


def behind(data: bytes) -> int:
    """Return bytes that follow the end of the first picture."""
    end = max((end for _, _, end in segments(data)), default=2)
    return len(data) - end - 2 if data[end : end + 2] == END else 0


def without_metadata(data: bytes) -> bytes:
    """Return the same file with only those segments that its pixels need."""
    parts, place = [HEAD], 2
    for marker, begin, end in segments(data):
        needed = marker < 0xE0 or marker == ADOBE or (marker == JFIF and data.startswith(b"JFIF\0", begin))
        if needed:
            parts.append(data[begin - 4 : end] if data[begin - 4] == 0xFF else segment(marker, data[begin:end]))
        place = end
    return b"".join(parts) + data[place:]


def with_end(data: bytes) -> bytes | None:
    """Return the same file with the end marker that it lacks; None if it has one, or too little of the picture."""
    found = list(segments(data))
    scans = [end for marker, _, end in found if marker == SCAN]
    if not scans or data[scans[-1] : scans[-1] + 2] == END:
        return None
    # Of a progressive picture the first scan holds all pixels, coarsely; those after it refine them.
    if any(marker in PROGRESSIVE for marker, _, _ in found) and len(scans) < 2:
        return None
    whole = data[: scans[-1]]
    # A last byte of FF would be taken for the beginning of the marker.
    return whole.rstrip(b"\xff") + END


def is_progressive(data: bytes) -> bool:
    """Return whether its pixels are coded coarsely first, then finer."""
    return any(marker in PROGRESSIVE for marker, _, _ in segments(data))


def lost(pixels: np.ndarray) -> np.ndarray:
    """Find the blocks at the end of a picture that its file did not hold.

    Args:
        pixels: (H, W, C) uint8, as decoded and not turned.

    Returns:
        (H, W) bool.
    """
    height, width = pixels.shape[:2]
    known = ~np.isin(pixels, GREY).all(-1)
    rows, columns = -(-height // 8), -(-width // 8)
    padded = np.pad(known, ((0, 8 * rows - height), (0, 8 * columns - width)), mode="edge")
    # Along its border a lost block takes colour from its neighbours, where colours were stored more coarsely.
    blocks = np.asarray(padded.reshape(rows, 8, columns, 8)[:, 1:7, :, 1:7].any(axis=(1, 3)))
    found = np.zeros((rows, columns), bool)
    last = int(np.flatnonzero(blocks.any(1))[-1]) if blocks.any() else -1
    found[last + 1 :] = True
    # Blocks may be coded two rows at a time; and the last that were coded may have been cut.
    for row in (last - 1, last):
        if row >= 0 and not blocks[row, -1]:
            found[row, max(max(np.flatnonzero(blocks[row]), default=-1) - 1, 0) :] = True
    return found.repeat(8, 0).repeat(8, 1)[:height, :width]
