"""PNG files: their chunks, one that lacks its end, and 16 bits a channel, which Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
from PIL.PngImagePlugin import putchunk

HEAD = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples a pixel, by type of colour."""
PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
COLOUR = {b"cICP": 4, b"mDCV": 24, b"cLLI": 8, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
"""What says what colours mean, and its bytes."""
TEXT = (b"tEXt", b"zTXt", b"iTXt", b"tIME")
PIECE = 1 << 16
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of an interlaced picture: the first column and row of each pass, and the distances to the next."""


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Walk the chunks of a file, its end left out.

    Yields:
        (kind, contents as far as they are there, whether they are whole and as their checksum says).
    """
    place = len(HEAD)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        contents = data[place + 8 : place + 8 + length]
        tail = data[place + 8 + length : place + 12 + length]
        if kind == b"IEND":
            return
        yield kind, contents, tail == struct.pack(">I", zlib.crc32(contents, zlib.crc32(kind)))
        place += 12 + length


def chunk(kind: bytes, contents: bytes) -> bytes:
    """Return a chunk, ready to be written."""
    return struct.pack(">I", len(contents)) + kind + contents + struct.pack(">I", zlib.crc32(contents, zlib.crc32(kind)))


def _inflated(parts: Sequence[bytes], most: int) -> bytes | None:
    """Return what a stream of pixels holds, at most so many bytes; None if it is damaged and not just cut."""
    stream, out = zlib.decompressobj(), bytearray()
    try:
        for part in parts:
            for begin in range(0, len(part), PIECE):
                out += stream.decompress(part[begin : begin + PIECE], most - len(out) + 1)
                if len(out) > most:
                    return None
    except zlib.error:
        return None
    return bytes(out)


def layout(found: Sequence[tuple[bytes, bytes, bool]]) -> tuple[int, int, int, bool] | None:
    """Return, of a file's chunks, width, height, bits a pixel, whether it is interlaced; None if its header makes no sense."""
    if not found or found[0][0] != b"IHDR" or len(found[0][1]) != 13:
        return None
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", found[0][1])
    if not width or not height or colour not in CHANNELS or depth not in (1, 2, 4, 8, 16):
        return None
    return width, height, depth * CHANNELS[colour], bool(interlaced)


def rows_of(found: Sequence[tuple[bytes, bytes, bool]]) -> list[tuple[tuple[int, int, int, int], int, int]] | None:
    """Return how a file's pixels are stored, by its chunks; None if its header makes no sense.

    Returns:
        for each pass (of a picture that is not interlaced the one): its first column and row and the distances to the next, how many
        rows it has, bytes of each with its filter's.
    """
    size = layout(found)
    if size is None:
        return None
    width, height, bits, interlaced = size
    stored = []
    for place in PASSES if interlaced else ((0, 0, 1, 1),):
        x, y, across, down = place
        columns, rows = -(-(width - x) // across), -(-(height - y) // down)
        stored.append((place, rows if columns > 0 else 0, 1 + -(-columns * bits // 8)))
    return stored


def mended(data: bytes) -> bytes | None:
    """Return the same file with only those chunks that its pixels need, and with an end.

    Returns:
        the file, zeros for pixels that it did not hold; None if it is damaged and not just cut.
    """
    found = list(chunks(data))
    stored = rows_of(found)
    if stored is None:
        return None
    whole = sum(rows * each for _, rows, each in stored)
    pixels = _inflated([contents for kind, contents, _ in found if kind == b"IDAT"], whole)
    if not pixels:
        return None
    pixels += bytes(whole - len(pixels))
    # No more entries are transparent than the palette has.
    entries = next((len(contents) // 3 for kind, contents, _ in found if kind == b"PLTE"), 0) if found[0][1][9] == 3 else None
    kept = [
        chunk(kind, contents[:entries] if kind == b"tRNS" else contents)
        for kind, contents, good in found
        if kind in PIXELS[:3] and (good or kind == b"IHDR")
    ]
    kept += [chunk(kind, contents) for kind, contents, good in found if good and COLOUR.get(kind) == len(contents)]
    order = sorted(kept, key=lambda part: (part[4:8] != b"IHDR", part[4:8] not in COLOUR, part[4:8] != b"PLTE"))
    return HEAD + b"".join(order) + chunk(b"IDAT", zlib.compress(pixels, 1)) + chunk(b"IEND", b"")


def with_chunks(data: bytes, more: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a file with more chunks right behind its header."""
    head = len(HEAD) + 25
    return data[:head] + b"".join(chunk(kind, contents) for kind, contents in more) + data[head:]


def write_png(file: BinaryIO, values: np.ndarray, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """Write a 16-bit PNG.

    Args:
        file: open for writing.
        values: (H, W, C) uint16, C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
        more: chunks that go before the pixels, (kind, contents).
    """
    height, width, channels = values.shape
    file.write(HEAD)
    putchunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0))
    for kind, contents in more:
        putchunk(file, kind, contents)
    rows = np.ascontiguousarray(values, ">u2").view(np.uint8).reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    # Filter 2, "up": what the row above predicts is left out.
    filtered[:, 0], filtered[:1, 1:] = 2, rows[:1]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    putchunk(file, b"IDAT", zlib.compress(filtered.data, 6))
    putchunk(file, b"IEND", b"")
