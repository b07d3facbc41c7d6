"""The bytes of a picture file as an image; what is damaged but whole where its pixels are is mended first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.pictures import high_bit_depth, jpeg, limits, metadata, png, tiff, unsaid
from flashdiff_cli.pictures.fill import fill_smoothly
from flashdiff_cli.pictures.limits import open_image
from flashdiff_cli.pictures.picture import Picture, frames_note, from_pil, from_samples

MOST_LOST = 0.25
"""Share of a picture's pixels that its file may lack at its end; of more, little would be true."""
Mended = tuple[bytes, Callable[[], np.ndarray | None] | None, str]
"""A file made whole; the pixels that it lacks, (H, W) bool, upright; a note."""
WITHOUT = "what it says besides its pixels is damaged and was left out"


def decode(data: bytes) -> Picture:
    """Return the picture of a file's bytes.

    Raises:
        what Pillow, tifffile and EXIF make of one that is damaged, and cannot be mended.
    """
    try:
        picture = _decode(data)
    except (high_bit_depth.UnknownKind, limits.Refused, FlashdiffError, MemoryError, Image.DecompressionBombError):
        raise
    except Exception as error:
        for repaired, lost, note in _mended(data):
            with suppress(Exception):
                picture = _decode(repaired)
                return _without_lost(picture, _unsaid(repaired, picture) if lost is None else lost(), note)
        raise error
    return _without_lost(picture, _unsaid(data, picture), None)


def _unsaid(data: bytes, picture: Picture) -> np.ndarray | None:
    return unsaid.missing(data, picture.image[0].numpy())


def _decode(data: bytes) -> Picture:
    try:
        file = open_image(data)
    except Image.UnidentifiedImageError:
        if not high_bit_depth.is_tiff(data):
            raise
        return _decode_tiff(data)
    with file:
        if high_bit_depth.is_planar(file):
            return _decode_tiff(data)
        values = high_bit_depth.samples(file, data)
        if values is None:
            return from_pil(file, data)
        # TIFF is turned by Pillow when it is loaded, as it was for `values`.
        file.load()
        orientation = 1 if file.format == "TIFF" else metadata.find_orientation(file)
        notes = frames_note(file)
        said = metadata.read_metadata(file, data, notes, orientation in (5, 6, 7, 8)).turned(orientation)
        tags = dict(getattr(file, "tag_v2", {}))
        return replace(from_samples(high_bit_depth.upright(values, orientation), file.info.get("transparency"), notes, tags), metadata=said)


def _decode_tiff(data: bytes) -> Picture:
    values, tags, notes = high_bit_depth.read_tiff(data, limits.max_pixels())
    orientation = tags.get(metadata.ORIENTATION, 1)
    orientation = int(orientation) if orientation in range(1, 9) else 1
    values = high_bit_depth.upright(values, orientation)
    said = metadata.of_tags(data, tags, values.shape[1::-1], notes).turned(orientation)
    if values.dtype == np.uint8:
        kept = from_pil(Image.fromarray(np.ascontiguousarray(values[..., 0] if values.shape[-1] == 1 else values)))
        return replace(kept, metadata=said, notes=notes)
    bits = tags.get(258)
    bits = bits[0] if isinstance(bits, tuple) and bits else bits
    bits = bits if isinstance(bits, int) else None
    return replace(from_samples(values, None, notes, tags, bits), metadata=said)


def _mended(data: bytes) -> Iterator[Mended]:
    """Yield ways to make a damaged file whole, the most careful first."""
    if data.startswith(jpeg.HEAD):
        ended = jpeg.with_end(data)
        if ended is not None:
            yield ended, lambda: _lost_blocks(ended), "its end is missing"
        yield jpeg.without_metadata(data), None, WITHOUT
        if ended is not None:
            bare = jpeg.without_metadata(ended)
            yield bare, lambda: _lost_blocks(bare), f"its end is missing, and {WITHOUT}"
    elif data.startswith(png.HEAD):
        mended = png.mended(data)
        if mended is not None:
            yield mended, lambda: unsaid.of_png(data), f"its end is missing, or {WITHOUT}"
    elif high_bit_depth.is_tiff(data):
        with suppress(Exception):
            lacking = tiff.lacking(data)
            if lacking is not None:
                yield lacking[0], lambda: high_bit_depth.upright(lacking[1][..., None], lacking[2])[..., 0], "its end is missing"
        bare = tiff.without_metadata(data)
        if bare is not None:
            yield bare, None, WITHOUT
    elif data.startswith(b"BM"):
        longer = data + bytes(min(4 * len(data), 1 << 26))
        yield longer, lambda: _lost_of_bmp(data), "its end is missing"


def _lost_blocks(data: bytes) -> np.ndarray:
    with open_image(data) as file:
        orientation = metadata.find_orientation(file)
        if jpeg.is_progressive(data):
            return np.zeros((1, 1), bool)
        pixels = np.asarray(file)
    lost = jpeg.lost(pixels[..., None] if pixels.ndim == 2 else pixels)
    return high_bit_depth.upright(lost[..., None], orientation)[..., 0]


def _lost_of_bmp(data: bytes) -> np.ndarray:
    """Return rows of a file that begins with the lowest; of one that is compressed, all."""
    with open_image(data) as file:
        width, height = file.size
        name, _, begin, args = cast(Any, file.tile[0])  # of BMP: (raw mode, bytes of a row, direction)
    lost = np.ones((height, width), bool)
    if name == "raw":
        there = max(0, len(data) - begin) // max(int(args[1]), 1)
        rows = slice(0, there) if args[2] > 0 else slice(height - there, height)
        lost[rows] = False
    return lost


def _without_lost(picture: Picture, missing: np.ndarray | None, note: str | None) -> Picture:
    """Return the picture with what its file lacks filled from the rest, and notes on it.

    Raises:
        ValueError: it lacks too much.
    """
    notes = [*picture.notes, *([note] if note else [])]
    if missing is None or not missing.any():
        return replace(picture, notes=notes)
    share = float(missing.mean())
    if share > MOST_LOST:
        raise ValueError(f"{share:.0%} of its pixels are not there")
    notes.append(f"{share:.1%} of its pixels are lost and were filled from those around them")
    holes = torch.from_numpy(np.ascontiguousarray(missing))
    shown = picture.image
    if picture.hidden is not None:
        shown = shown.clone()
        shown[0][:, torch.from_numpy(picture.hides())] = picture.hidden
    filled = replace(picture, image=fill_smoothly(shown, holes), hidden=None, notes=notes)
    if picture.alpha is not None:
        opacity = fill_smoothly(torch.from_numpy(picture.alpha.astype(np.float32))[None, None], holes)[0, 0]
        filled = replace(filled, alpha=opacity.round().numpy().astype(picture.alpha.dtype))
    return filled.without_hidden()
