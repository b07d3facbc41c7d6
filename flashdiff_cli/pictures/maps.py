"""Numbers over a picture's pixels as colours, with a scale under them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

ANCHORS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], dtype=np.float64)
"""Five colours of viridis, which rises evenly in lightness and reads without red and green."""
STRIP = 34


def _table() -> np.ndarray:
    """Return (256, 3) uint8: the colours between the anchors."""
    place = np.linspace(0, len(ANCHORS) - 1, 256)
    low = np.minimum(place.astype(int), len(ANCHORS) - 2)
    share = (place - low)[:, None]
    return ((1 - share) * ANCHORS[low] + share * ANCHORS[low + 1]).round().astype(np.uint8)


TABLE = _table()


def colours(values: np.ndarray) -> np.ndarray:
    """Return shares from 0 to 1, any shape, as RGB uint8 with one more axis."""
    return TABLE[(np.clip(np.nan_to_num(values), 0, 1) * 255).round().astype(np.uint8)]


def draw_map(values: torch.Tensor, low: float, high: float, label: str) -> Image.Image:
    """Return a map with its scale.

    Args:
        values: (H, W).
        low, high: ends of the scale; what lies outside gets the end's colour.
        label: what the numbers are.

    Returns:
        RGB, W wide (at least 200) and H + 34 high.
    """
    span = max(high - low, 1e-9)
    picture = Image.fromarray(colours((values.numpy() - low) / span))
    width = max(picture.width, 200)
    sheet = Image.new("RGB", (width, picture.height + STRIP), "white")
    sheet.paste(picture, (0, 0))
    bar = Image.fromarray(colours(np.linspace(0, 1, width)[None].repeat(8, 0)))
    sheet.paste(bar, (0, picture.height + 4))
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(13), picture.height + 14
    draw.text((2, top), f"{low:.3f}", fill="black", font=font)
    draw.text((width / 2 - draw.textlength(label, font) / 2, top), label, fill="black", font=font)
    end = f"{high:.3f}"
    draw.text((width - 2 - draw.textlength(end, font), top), end, fill="black", font=font)
    return sheet
