"""How a JPEG file was compressed."""

from __future__ import annotations

from PIL import Image
from PIL.JpegImagePlugin import get_sampling

SAMPLINGS = {0: "444", 1: "422", 2: "420"}
"""Pillow's numbers of the ratios of brightness to colours."""
ORIENTATION = 0x0112


def _turned(table: list[int]) -> list[int]:
    """A table of 8 x 8 with rows for columns."""
    return [table[8 * column + row] for row in range(8) for column in range(8)]


def compression(file: Image.Image) -> tuple[list[list[int]] | None, str | None]:
    """Tell how a picture was compressed, as it is when it is upright.

    Args:
        file: as Pillow has opened it.

    Returns:
        the quantisation tables of brightness and, where there is colour, of the colours, each of 64 divisors row by row;
        the subsampling of colours, "444", "422" or "420". None for what does not apply: no JPEG, CMYK, another ratio.
    """
    tables, layers = getattr(file, "quantization", None), getattr(file, "layer", None)
    if file.format not in ("JPEG", "MPO") or not tables or not layers or len(layers) not in (1, 3):
        return None, None
    found = [list(tables[layer[3]]) for layer in layers[:2] if layer[3] in tables]
    if len(found) != min(len(layers), 2) or any(len(table) != 64 for table in found):
        return None, None
    sampling = SAMPLINGS.get(get_sampling(file)) if len(layers) == 3 else None
    if file.getexif().get(ORIENTATION) in (5, 6, 7, 8):
        found, sampling = [_turned(table) for table in found], None if sampling == "422" else sampling
    return found, sampling
