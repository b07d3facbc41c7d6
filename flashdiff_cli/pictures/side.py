"""Pictures side by side, with a line under each."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

GAP, LINE = 8, 22


def side_by_side(pictures: Sequence[Image.Image], captions: Sequence[str]) -> Image.Image:
    """Return one row on white; all pictures get the height of the tallest.

    Args:
        pictures: RGB.
        captions: as many.
    """
    height = max(picture.height for picture in pictures)
    scaled = [p if p.height == height else p.resize((round(p.width * height / p.height), height), Image.Resampling.LANCZOS) for p in pictures]
    sheet = Image.new("RGB", (sum(p.width for p in scaled) + GAP * (len(scaled) - 1), height + LINE), "white")
    draw, font, left = ImageDraw.Draw(sheet), ImageFont.load_default(14), 0
    for picture, caption in zip(scaled, captions, strict=True):
        sheet.paste(picture, (left, 0))
        while caption and draw.textlength(caption, font) > picture.width:
            caption = caption[:-2].rstrip() + "…" if len(caption) > 2 else ""
        draw.text((left, height + 3), caption, fill="black", font=font)
        left += picture.width + GAP
    return sheet
