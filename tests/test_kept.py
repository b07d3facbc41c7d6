"""What a file says besides its pixels: how it was compressed, its scale on paper, its captions."""

import io

import numpy as np
import pytest
from PIL import Image

from flashdiff_cli.pictures.files import read_picture


def scene(width=48, height=40, seed=3):
    """A smooth picture with some texture, RGB."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(width, height)
    values = np.stack([x, y, 1 - x], -1) * 200 + rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def saved(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def read(folder, data, name):
    (folder / name).write_bytes(data)
    return read_picture(folder / name)


@pytest.mark.parametrize(("sampling", "name"), [(0, "444"), (1, "422"), (2, "420")])
def test_the_tables_and_subsampling_of_a_jpeg_are_read(tmp_path, sampling, name):
    luma, chroma = [list(range(1 + k, 65 + k)) for k in (0, 20)]
    picture = read(tmp_path, saved(scene(), "JPEG", qtables=[luma, chroma], subsampling=sampling), "a.jpg")
    assert picture.jpeg_tables == [luma, chroma] and picture.subsampling == name
    grey = read(tmp_path, saved(scene().convert("L"), "JPEG", qtables=[luma]), "b.jpg")
    assert grey.jpeg_tables == [luma] and grey.subsampling is None
    assert read(tmp_path, saved(scene(), "PNG"), "c.png").jpeg_tables is None


def test_the_tables_of_a_turned_jpeg_are_turned_with_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    table = list(range(1, 65))
    picture = read(tmp_path, saved(scene(), "JPEG", qtables=[table, table], subsampling=1, exif=exif), "a.jpg")
    assert np.array_equal(np.reshape(picture.jpeg_tables[0], (8, 8)), np.reshape(table, (8, 8)).T)
    assert picture.subsampling is None and picture.size == (48, 40)
