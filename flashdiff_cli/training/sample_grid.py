"""Sample grids: small pictures side by side, for the eye."""

import torch
from PIL import Image


def to_picture(image: torch.Tensor) -> Image.Image:
    """Turn (1, 3, H, W) or (3, H, W) in [-1, 1] into an RGB picture."""
    array = image.detach().float().cpu().reshape(-1, *image.shape[-2:]).clamp(-1, 1)
    return Image.fromarray(array.add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy())


def grid(rows: list[list[Image.Image]], gap: int = 4, cell: int = 192) -> Image.Image:
    """Draw rows of pictures on white; every picture is shown `cell` pixels high."""
    rows = [[p.resize((max(1, p.width * cell // p.height), cell), Image.Resampling.NEAREST) for p in row] for row in rows]
    width = max(sum(p.width + gap for p in row) for row in rows) - gap
    sheet = Image.new("RGB", (width, len(rows) * (cell + gap) - gap), "white")
    for y, row in enumerate(rows):
        x = 0
        for picture in row:
            sheet.paste(picture, (x, y * (cell + gap)))
            x += picture.width + gap
    return sheet
