"""Pixels that a file does not hold, and that its decoder makes up without a word: black rows of PNG and TIFF, grey blocks of JPEG."""

from __future__ import annotations

import zlib
from typing import Any, cast

import numpy as np
from PIL import Image

from flashdiff_cli.pictures import high_bit_depth, jpeg, metadata, png
from flashdiff_cli.pictures.limits import open_image

FLAT = 2 / 127.5
"""Range of a block, in [-1, 1], that may be one that was not decoded: such a block is of one colour."""
PROBE = bytes(range(1, 200))
"""Coded pixels that mean something, whatever the tables of a JPEG file are."""


def missing(data: bytes, image: np.ndarray) -> np.ndarray | None:
    """Find what a file lacks although it was decoded.

    Args:
        data: of the file.
        image: (C, H, W) in [-1, 1], what was decoded, upright.

    Returns:
        (H, W) bool, upright; None if all is there.

    Raises:
        ValueError: of a progressive JPEG file hardly anything is there, or of a PNG its palette is not.
    """
    if data.startswith(png.HEAD):
        stored = of_png(data)
    elif data.startswith(jpeg.HEAD):
        stored = _of_jpeg(data) if _ends_flat(image) else None
    elif high_bit_depth.is_tiff(data):
        stored = _of_tiff(data)
    else:
        stored = None
    if stored is None or not stored.any():
        return None
    with open_image(data) as file:
        orientation = metadata.find_orientation(file)
    upright = high_bit_depth.upright(stored[..., None], orientation)[..., 0]
    return upright if upright.shape == image.shape[1:] else None


def of_png(data: bytes) -> np.ndarray | None:
    """Return (H, W) bool: the pixels that a PNG file lacks, as they are stored; None if it has all of them, or makes no sense.

    Raises:
        ValueError: its palette is not there.
    """
    found = list(png.chunks(data))
    stored, size = png.rows_of(found), png.layout(found)
    if stored is None or size is None:
        return None
    if found[0][1][9] == 3 and not any(kind == b"PLTE" for kind, _, _ in found):
        raise ValueError("its palette is not there")
    whole = sum(rows * each for _, rows, each in stored)
    there = _inflated_length([contents for kind, contents, _ in found if kind == b"IDAT"], whole)
    if there >= whole:
        return None
    lost = np.zeros((size[1], size[0]), bool)
    for (x, y, across, down), rows, each in stored:
        held = min(rows, there // each)
        there -= held * each
        lost[y + held * down :: down, x::across] = True
    return lost


def _inflated_length(parts: list[bytes], most: int) -> int:
    """Return bytes that a stream holds, counted up to `most` without keeping them; of a damaged one, those before the damage."""
    stream, count = zlib.decompressobj(), 0
    try:
        for part in parts:
            for begin in range(0, len(part), png.PIECE):
                count += len(stream.decompress(part[begin : begin + png.PIECE], most - count + 1))
                if count >= most or stream.eof:
                    return count
    except zlib.error:
        pass
    return count


def _ends_flat(image: np.ndarray) -> bool:
    """Return whether the picture has a corner of one colour: where it ends in its file, whichever way it was turned."""
    edge = slice(None, 6), slice(-6, None)
    corners = (image[:, rows, columns] for rows in edge for columns in edge)
    return any((corner.max((1, 2)) - corner.min((1, 2)) <= FLAT).all() for corner in corners)


def _of_jpeg(data: bytes) -> np.ndarray | None:
    """Return blocks for which the coded pixels do not suffice: with more of them, they would look otherwise."""
    scans = [end for marker, _, end in jpeg.segments(data) if marker == jpeg.SCAN]
    if jpeg.is_progressive(data):
        if len(scans) < 2:
            raise ValueError("hardly any of its pixels are there")
        return None
    if len(scans) != 1:
        return None
    pixels = _decoded(data)
    try:
        more = _decoded(data[: scans[0]] + PROBE + data[scans[0] :])
    except Exception:  # decoders raise whatever they like of what was put into the file
        return None
    return None if np.array_equal(pixels, more) else jpeg.lost(pixels)


def _decoded(data: bytes) -> np.ndarray:
    with open_image(data) as file:
        pixels = np.asarray(file)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _of_tiff(data: bytes) -> np.ndarray | None:
    """Return strips and tiles that are named nowhere; libtiff, which reads compressed ones, says so itself."""
    try:
        file = open_image(data)
    except Image.UnidentifiedImageError:
        return None  # tifffile has read it, and its parts were counted
    with file:
        tiles = cast(Any, file.tile)
        if file.format != "TIFF" or not tiles or any(tile[0] != "raw" for tile in tiles):
            return None
        planes = np.zeros((file.height, file.width), np.uint8)
        for _, (left, top, right, bottom), *_ in tiles:
            planes[top:bottom, left:right] += 1
        needed = cast(Any, file).tag_v2.get(277, 1) if getattr(file, "_planar_configuration", 1) == 2 else 1
    return planes < needed
