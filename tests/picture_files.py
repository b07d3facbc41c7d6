"""Small picture files for tests."""

import io

import numpy as np
from PIL import Image

from flashdiff_cli.pictures.files import read_picture


def scene(width=48, height=40, seed=3):
    """A smooth picture with some texture, RGB."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(width, height)
    values = np.stack([x, y, 1 - x], -1) * 200 + rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def saved(picture, kind, **options):
    """The bytes of a file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png(size=(24, 16), seed=0, kind="PNG"):
    """The bytes of a file of noise in colour, of (width, height)."""
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return saved(Image.fromarray(values), kind)


def read(folder, data, name):
    """What flashdiff makes of a file of these bytes and this name."""
    (folder / name).write_bytes(data)
    return read_picture(folder / name)
