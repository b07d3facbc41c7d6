"""What decoders say nothing about: pixels that a file does not hold, colours from white, numbers that mean nothing; and what they say too much of."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from picture_files import read, saved, scene
from PIL import Image

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.operators.files import read_mask
from flashdiff_cli.pictures import png
from flashdiff_cli.pictures.files import write_picture

WIDTH, HEIGHT = 96, 80
COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}


def picture(channels=3):
    values = np.asarray(scene(WIDTH, HEIGHT))
    return np.dstack([values[..., : (1 if channels < 3 else 3)], np.full((HEIGHT, WIDTH, 1), 255, np.uint8)][: 1 if channels % 2 else 2])


def short_png(channels, deep, rows, interlaced=False):
    """A PNG whose stream of pixels ends, properly, after some of its rows."""
    values = picture(channels)
    deeper = np.ascontiguousarray(values.astype(">u2") * 257).view(np.uint8).reshape(HEIGHT, -1) if deep else values.reshape(HEIGHT, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in deeper[:rows])
    if interlaced:
        wide = np.ascontiguousarray(values)
        raw = b"".join(b"\0" + wide[y, x::across].tobytes() for x, first, across, down in png.PASSES for y in range(first, HEIGHT, down))
        raw = raw[: len(raw) * rows // HEIGHT]
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16 if deep else 8, COLOURS[channels], 0, 0, int(interlaced))
    return png.HEAD + png.chunk(b"IHDR", head) + png.chunk(b"IDAT", zlib.compress(raw)) + png.chunk(b"IEND", b"")


def short_jpeg(rows, **options):
    """A JPEG whose coded pixels end early, with an end marker: as after a repair, or from a card."""
    data = saved(scene(WIDTH, HEIGHT), "JPEG", quality=92, **options)
    begin = data.index(b"\xff\xda") + 14
    return data[: begin + (len(data) - begin) * rows // HEIGHT].rstrip(b"\xff") + b"\xff\xd9"


def short_tiff(values, rows):
    """A TIFF of strips of which the last ones are named nowhere."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values[:rows], rowsperstrip=8, metadata=None, photometric="rgb" if values.ndim == 3 else None)
    data = bytearray(buffer.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        tag = file.pages.first.tags[257]
        data[tag.valueoffset : tag.valueoffset + 2] = struct.pack("<H", HEIGHT)
    return bytes(data)


GREY, COLOUR = picture(1)[..., 0], picture(3)
MAKERS = {
    "png grey": lambda rows: ("a.png", short_png(1, False, rows)),
    "png grey 16": lambda rows: ("a.png", short_png(1, True, rows)),
    "png": lambda rows: ("a.png", short_png(3, False, rows)),
    "png 16": lambda rows: ("a.png", short_png(3, True, rows)),
    "png opacity": lambda rows: ("a.png", short_png(4, False, rows)),
    "png interlaced": lambda rows: ("a.png", short_png(3, False, rows, interlaced=True)),
    "jpeg": lambda rows: ("a.jpg", short_jpeg(rows)),
    "jpeg 444": lambda rows: ("a.jpg", short_jpeg(rows, subsampling=0)),
    "tiff": lambda rows: ("a.tif", short_tiff(COLOUR, rows)),
    "tiff 16": lambda rows: ("a.tif", short_tiff(COLOUR.astype(np.uint16) * 257, rows)),
    "tiff grey 16": lambda rows: ("a.tif", short_tiff(GREY.astype(np.uint16) * 257, rows)),
    "tiff float grey": lambda rows: ("a.tif", short_tiff(GREY.astype(np.float32) / 255, rows)),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_pixels_that_are_not_there_are_filled_and_said(tmp_path, kind):
    name, data = MAKERS[kind](72)
    found = read(tmp_path, data, name)
    assert any("of its pixels are lost" in note for note in found.notes), found.notes
    shown = np.asarray(found.to_rgb()).astype(int)
    wanted = np.repeat(GREY[..., None], 3, -1) if "grey" in kind else COLOUR
    off = np.abs(shown - wanted)
    assert off[:64].mean() < (12 if "interlaced" in kind else 6) and off[64:].mean() < 40
    assert found.alpha is None or found.alpha.min() > 250
    write_picture(found, tmp_path / f"out{tmp_path.joinpath(name).suffix}")


@pytest.mark.parametrize("kind", MAKERS)
def test_what_lacks_much_is_refused(tmp_path, kind):
    name, data = MAKERS[kind](32)
    with pytest.raises(FlashdiffError, match=r"damaged or truncated"):
        read(tmp_path, data, name)


@pytest.mark.parametrize("kind", ["png grey", "png 16", "jpeg", "tiff grey 16"])
def test_of_a_mask_nothing_may_be_missing(tmp_path, kind):
    """What its decoder makes black would be a hole."""
    name, data = MAKERS[kind](72)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match="of its pixels are not there"):
        read_mask(tmp_path / name, "--mask")
    name, data = MAKERS[kind](80)
    (tmp_path / name).write_bytes(data)
    read_mask(tmp_path / name, "--mask")


@pytest.mark.parametrize("name", ["a.jpg", "b.jpg", "a.png"])
def test_a_picture_that_ends_in_one_grey_lacks_nothing(tmp_path, name):
    values = np.asarray(scene(WIDTH, HEIGHT)).copy()
    values[50:] = 128
    data = saved(Image.fromarray(values), "PNG" if name == "a.png" else "JPEG", **({"optimize": True} if name == "b.jpg" else {}))
    found = read(tmp_path, data, name)
    assert not found.notes and np.abs(np.asarray(found.to_rgb()).astype(int)[66:] - 128).max() <= 2


def test_a_progressive_jpeg_of_one_scan_is_refused(tmp_path):
    data = saved(scene(WIDTH, HEIGHT), "JPEG", progressive=True)
    first = data.index(b"\xff\xda")
    second = data.index(b"\xff\xda", first + 2)
    with pytest.raises(FlashdiffError, match="hardly any of its pixels"):
        read(tmp_path, data[: (first + second) // 2].rstrip(b"\xff") + b"\xff\xd9", "a.jpg")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_that_is_stored_from_white_is_no_negative(tmp_path, dtype):
    values = GREY.astype(dtype) * (257 if dtype == np.uint16 else 1)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.iinfo(dtype).max - values, photometric="miniswhite", metadata=None)
    found = read(tmp_path, buffer.getvalue(), "a.tif")
    assert np.abs(np.asarray(found.to_rgb())[..., 0].astype(int) - GREY).max() <= 1
    write_picture(found, tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.pages.first.photometric == 1 and np.array_equal(file.asarray(), values)


def test_signed_numbers_around_zero_have_black_as_far_below_it_as_white_is_above(tmp_path):
    values = (GREY.astype(np.int32) * 150 - 30_000).astype(np.int16)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, metadata=None)
    found = read(tmp_path, buffer.getvalue(), "a.tif")
    assert found.scale.black == -found.scale.white == -32767 and found.excess is None
    write_picture(found, tmp_path / "out.tif")
    assert np.abs(tifffile.imread(tmp_path / "out.tif").astype(int) - values).max() <= 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((8, 8), np.nan, np.float32), "finite"),
        (np.dstack([np.full((8, 8), np.inf, np.float16), np.zeros((8, 8, 2), np.float16)]), "finite"),
        (np.zeros((8, 8), np.complex64), "numbers of this kind"),
    ],
    ids=["nan", "one channel", "complex"],
)
def test_numbers_that_make_no_picture_are_refused_for_what_they_are(tmp_path, values, said):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, metadata=None, photometric="rgb" if values.ndim == 3 else None)
    with pytest.raises(FlashdiffError, match=said) as refused:
        read(tmp_path, buffer.getvalue(), "a.tif")
    assert "copy it again" not in str(refused.value)


def test_a_palette_with_too_many_transparent_entries_is_read_and_none_at_all_is_refused(tmp_path):
    indices = (GREY // 64).reshape(HEIGHT, WIDTH)
    data = saved(Image.fromarray(indices, "P"), "PNG", bits=8)
    head, rest = data[:33], data[33:]
    palette = png.chunk(b"PLTE", bytes(range(12)))
    begin = rest.index(b"IDAT") - 4
    many = head + palette + png.chunk(b"tRNS", bytes([0, 255, 255, 255]) * 30) + rest[begin:]
    found = read(tmp_path, many, "a.png")
    assert np.array_equal(found.alpha == 0, indices == 0)
    with pytest.raises(FlashdiffError, match="palette is not there"):
        read(tmp_path, head + rest[begin:], "b.png")


def test_decoders_write_nothing_to_the_console_themselves(tmp_path, capfd):
    """libtiff writes to the standard error output of the process, and tifffile into logs that end up there."""
    data = bytearray(saved(scene(WIDTH, HEIGHT), "TIFF", compression="tiff_adobe_deflate"))
    data[8 + len(data) // 4 : -200] = np.random.default_rng(0).bytes(len(data) - 208 - len(data) // 4)
    for name, damaged in (("a.tif", bytes(data)), ("b.tif", short_tiff(COLOUR, 8)), ("c.tif", bytes(data[: len(data) // 2]))):
        with pytest.raises(FlashdiffError):
            read(tmp_path, damaged, name)
    assert capfd.readouterr() == ("", "")
