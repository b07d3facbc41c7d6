"""TIFF files: written in any kind of number and compression, unpacked, and without tags that are not needed."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image, TiffImagePlugin

PLAIN, LZW, DEFLATE, PACKBITS, LZMA, ZSTD = 1, 5, 8, 32773, 34925, 50000
LIBTIFF = {LZW: "tiff_lzw", PACKBITS: "packbits", LZMA: "lzma", ZSTD: "zstd"}
"""Compressions without loss that are left to libtiff, as Pillow names them."""
NAMES = {
    "raw": PLAIN,
    "tiff_lzw": LZW,
    "tiff_deflate": DEFLATE,
    "tiff_adobe_deflate": DEFLATE,
    "packbits": PACKBITS,
    "lzma": LZMA,
    "zstd": ZSTD,
}
"""Pillow's names of those that are kept."""
DIFFERENCES = 2
"""The predictor that stores what each sample differs from its left neighbour's."""
FLOATS = 3
"""The predictor that stores the bytes of floating-point numbers apart."""
STRIP = 1 << 18
"""Bytes of a strip, about, before compression."""
FORMATS = {"u": 1, "i": 2, "f": 3}
"""TIFF's SampleFormat by numpy's kind."""
NEEDED = (
    *range(254, 260),
    *(
        262,
        263,
        266,
        273,
        274,
        277,
        278,
        279,
        284,
        292,
        293,
        317,
        320,
        322,
        323,
        324,
        325,
        338,
        339,
        340,
        341,
        347,
        529,
        530,
        531,
        532,
    ),
)
"""Tags that say how pixels are laid out."""


def _strips(rows: np.ndarray, compression: int) -> tuple[list[bytes], int]:
    """Return pixels, compressed.

    Args:
        rows: (H, bytes of a row) uint8.
        compression: TIFF's number of it.

    Returns:
        the strips; rows in each but the last.
    """
    height, width = rows.shape
    if compression in LIBTIFF:
        # libtiff compresses bytes, and what they mean is for the tags to say: so it may take them for 8-bit grey.
        buffer = io.BytesIO()
        Image.fromarray(rows).save(buffer, "TIFF", compression=LIBTIFF[compression])
        data = buffer.getvalue()
        with Image.open(io.BytesIO(data), formats=["TIFF"]) as file:
            tags = cast(Any, file).tag_v2
            places = zip(_many(tags[TiffImagePlugin.STRIPOFFSETS]), _many(tags[TiffImagePlugin.STRIPBYTECOUNTS]), strict=True)
            return [data[begin : begin + length] for begin, length in places], int(tags.get(TiffImagePlugin.ROWSPERSTRIP, height))
    if compression == PLAIN:
        return [rows.tobytes()], height
    count = max(1, min(height, STRIP // max(width, 1)))
    return [zlib.compress(np.ascontiguousarray(rows[top : top + count]).data, 6) for top in range(0, height, count)], count


def _many(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def write_tiff(
    file: BinaryIO,
    values: np.ndarray,
    tags: Mapping[int, Any] | None = None,
    compression: int = PLAIN,
    predictor: int = 1,
) -> None:
    """Write a TIFF of one page.

    Args:
        file: open for writing.
        values: (H, W, C) of any real number type, C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
        tags: what else it says, by number; directories as mappings.
        compression: of `PLAIN`, `LZW`, `DEFLATE`, `PACKBITS`, `LZMA`, `ZSTD`.
        predictor: 2 stores differences, if samples are whole numbers and the compression has use for them.
    """
    height, width, channels = values.shape
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    predictor = DIFFERENCES if predictor == DIFFERENCES and values.dtype.kind in "ui" and compression not in (PLAIN, PACKBITS) else 1
    if predictor == DIFFERENCES:
        little = np.concatenate([little[:, :1], little[:, 1:] - little[:, :-1]], 1)
    strips, rows = _strips(little.view(np.uint8).reshape(height, -1), compression)
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    for tag, value in (tags or {}).items():
        directory[tag] = value
    own = {
        TiffImagePlugin.IMAGEWIDTH: width,
        TiffImagePlugin.IMAGELENGTH: height,
        TiffImagePlugin.BITSPERSAMPLE: (8 * values.dtype.itemsize,) * channels,
        TiffImagePlugin.SAMPLESPERPIXEL: channels,
        TiffImagePlugin.COMPRESSION: compression,
        TiffImagePlugin.PLANAR_CONFIGURATION: 1,
        TiffImagePlugin.PHOTOMETRIC_INTERPRETATION: 1 if channels < 3 else 2,
        TiffImagePlugin.ROWSPERSTRIP: rows,
    }
    if channels in (2, 4):
        own[TiffImagePlugin.EXTRASAMPLES] = 2
    if values.dtype.kind != "u":
        own[TiffImagePlugin.SAMPLEFORMAT] = (FORMATS[values.dtype.kind],) * channels
    if predictor != 1:
        own[TiffImagePlugin.PREDICTOR] = predictor
    for tag, value in own.items():
        directory[tag] = value
    directory.tagtype[TiffImagePlugin.STRIPBYTECOUNTS] = 4
    directory[TiffImagePlugin.STRIPBYTECOUNTS] = tuple(map(len, strips))
    # Places behind the directory, which its writer adds to them.
    begins = np.cumsum([0, *map(len, strips[:-1])])
    directory[TiffImagePlugin.STRIPOFFSETS] = tuple(map(int, begins))
    directory.save(file)
    for strip in strips:
        file.write(strip)


def is_unpacked(compression: int) -> bool:
    """Return whether `unpacked` knows a compression, and this build of libtiff has it."""
    return compression in (PLAIN, DEFLATE, 32946, *LIBTIFF)


def unpacked(strip: bytes, compression: int, height: int, width: int) -> np.ndarray:
    """Return the bytes of a strip or tile.

    Args:
        strip: as the file has it.
        compression: TIFF's number of it.
        height: rows.
        width: bytes in each.

    Returns:
        (height, width) uint8.

    Raises:
        ValueError, OSError: it is damaged.
    """
    if compression == PLAIN:
        if len(strip) < height * width:
            raise ValueError("a part of its pixels is cut")
        return np.frombuffer(strip, np.uint8, height * width).reshape(height, width)
    # As a file of its own of 8-bit grey, whose bytes libtiff unpacks.
    buffer = io.BytesIO()
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    own = {256: width, 257: height, 258: 8, 259: compression, 262: 1, 277: 1, 278: height, 279: len(strip), 273: 0}
    for tag, value in own.items():
        directory[tag] = value
    directory.save(buffer)
    buffer.write(strip)
    buffer.seek(0)
    with Image.open(buffer, formats=["TIFF"]) as file:
        return np.asarray(file)


def samples(rows: np.ndarray, dtype: np.dtype, channels: int, bits: int, predictor: int) -> np.ndarray:
    """Return the samples from the bytes of a strip or tile.

    Args:
        rows: (H, bytes) uint8.
        dtype: of a sample, with its byte order; for packed bits the type to hold them.
        channels: samples of a pixel.
        bits: of a sample.
        predictor: TIFF's number.

    Returns:
        (H, W, channels) in native byte order.
    """
    height = len(rows)
    if bits != 8 * dtype.itemsize:
        each = np.unpackbits(rows, axis=1)
        count = each.shape[1] // bits // channels * channels
        weights = (1 << np.arange(bits)[::-1]).astype(np.uint32)
        return (each[:, : count * bits].reshape(height, count, bits) @ weights).astype(dtype.newbyteorder("=")).reshape(height, -1, channels)
    if predictor == FLOATS:
        # The bytes of a row lie in planes, the highest first, each byte as what it differs from the one a pixel before.
        apart = np.cumsum(rows.reshape(height, -1, channels), 1, dtype=np.uint8).reshape(height, dtype.itemsize, -1)
        return apart.transpose(0, 2, 1).copy().view(dtype.newbyteorder(">")).astype(dtype.newbyteorder("=")).reshape(height, -1, channels)
    values = np.ascontiguousarray(rows).view(dtype).astype(dtype.newbyteorder("=")).reshape(height, -1, channels)
    if predictor != DIFFERENCES:
        return values
    # Differences are those of whole numbers, whatever the bits mean.
    whole = values.view(f"u{dtype.itemsize}")
    return np.cumsum(whole, 1, dtype=whole.dtype).view(values.dtype)


def _layout(data: bytes) -> tuple[str, str, str, int, int] | None:
    """Return how directories are written: byte order, formats of a count and of an entry, size and value of the first place."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return None
    big = data[2:4] in (b"+\0", b"\0+")
    count, entry, size = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
    (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    return order, order + count, order + entry, size, place


def without_metadata(data: bytes) -> bytes | None:
    """Return the same file with only those tags of its first page that its pixels need; None if there is no such page."""
    layout = _layout(data)
    if layout is None:
        return None
    order, head, entry, size, place = layout
    if place + struct.calcsize(head) > len(data):
        return None
    (count,) = struct.unpack_from(head, data, place)
    begin, wide = place + struct.calcsize(head), struct.calcsize(entry)
    if begin + count * wide > len(data):
        return None
    entries = [data[begin + i * wide : begin + (i + 1) * wide] for i in range(count)]
    kept = [e for e in entries if struct.unpack_from(order + "H", e)[0] in NEEDED]
    directory = struct.pack(head, len(kept)) + b"".join(kept) + bytes(size)
    return data[:place] + directory + data[place + len(directory) :]


def lacking(data: bytes) -> tuple[bytes, np.ndarray, int] | None:
    """Return a file without compression whose last strip is cut, with zeros for what it lacks.

    Returns:
        the file; (H, W) bool, what it did not hold, not turned; its orientation as EXIF counts. None if it lacks
        nothing, or it cannot be told what.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        height, begins, lengths = page.imagelength, page.dataoffsets, page.databytecounts
        if page.compression != PLAIN or page.planarconfig != 1 or page.is_tiled or not begins or len(begins) != len(lengths):
            return None
        rows = max(1, min(int(page.rowsperstrip or height), height))
        lost, orientation = np.zeros((height, page.imagewidth), bool), page.tags.valueof(274, 1)
    end = begins[-1] + lengths[-1]
    missing = end - len(data)
    # What claims to lack more than all that is there is not made up.
    if not 0 < missing <= len(data) or begins[-1] != max(begins) or len(begins) != -(-height // rows):
        return None
    # The last strip may be one of fewer rows.
    last = height - rows * (len(begins) - 1)
    if missing > lengths[-1]:
        return None
    lost[height + (-missing * last // lengths[-1]) :] = True
    return data + bytes(missing), lost, orientation if orientation in range(1, 9) else 1
