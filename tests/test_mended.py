"""Damaged files whose pixels are whole are read, with a note; a little that is lost is filled, and much is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from picture_files import read, saved, scene
from PIL import Image, ImageFile

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.pictures import png
from flashdiff_cli.pictures.files import read_picture, write_picture


def rgb(picture):
    return np.asarray(picture.to_rgb()).astype(int)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 4}], ids=str)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_without_its_end_marker_is_whole(tmp_path, mode, options):
    data = saved(scene(120, 96).convert(mode), "JPEG", quality=90, **options)
    whole, cut = read(tmp_path, data, "a.jpg"), read(tmp_path, data[:-2], "b.jpg")
    assert np.abs(rgb(whole) - rgb(cut)).max() <= 1 and any("end is missing" in note for note in cut.notes) and not whole.notes
    assert not any("lost" in note for note in cut.notes)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("sampling", [0, 2])
def test_lost_rows_of_a_jpeg_are_filled_and_said(tmp_path, sampling, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(scene(120, 96), "JPEG", quality=92, subsampling=sampling, exif=exif)
    whole, cut = read(tmp_path, data, "a.jpg"), read(tmp_path, data[: int(0.9 * len(data))], "b.jpg")
    off = np.abs(rgb(whole) - rgb(cut)).max(-1)
    grey = (np.abs(rgb(cut) - 128).max(-1) <= 1).mean()
    assert cut.size == whole.size and 0.01 < (off > 12).mean() < 0.2 and off.mean() < 6 and grey < 0.02
    assert any("of its pixels are lost" in note for note in cut.notes)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_of_half_a_jpeg_nothing_is_made_up(tmp_path, share):
    data = saved(scene(120, 96), "JPEG", quality=92)
    with pytest.raises(FlashdiffError, match="truncated"):
        read(tmp_path, data[: int(share * len(data))], "a.jpg")


def bad_segment(data, marker, contents):
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(contents) + 2) + contents + data[2:]


@pytest.mark.parametrize("marker", [0xE1, 0xE2, 0xED, 0xEE])
@pytest.mark.parametrize(
    "contents",
    [
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"MPF\0MM\0*\0\0\0\x08\xff\xff",
        b"Photoshop 3.0\x008BIM\x04\x04",
        b"ICC_PROFILE\0\x01\x03junk",
        b"",
    ],
    ids=str,
)
def test_odd_segments_of_a_jpeg_never_matter(tmp_path, marker, contents):
    data = saved(scene(120, 96), "JPEG", quality=90)
    odd = read(tmp_path, bad_segment(data, marker, contents), "a.jpg")
    assert np.array_equal(rgb(odd), rgb(read(tmp_path, data, "b.jpg")))
    write_picture(odd, tmp_path / "c.jpg")
    assert Image.open(tmp_path / "c.jpg").size == (120, 96)


def exif_of(entries):
    """EXIF of raw entries (tag, type, count, value or place), little-endian."""
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHI4s", *entry) for entry in entries) + bytes(4)
    return b"II*\0\x08\0\0\0" + body


ODD = {
    "text for a resolution": [(0x011A, 2, 4, b"72\0\0"), (0x010E, 2, 4, b"abc\0")],
    "a fraction for a caption": [(0x010E, 5, 1, struct.pack("<I", 4))],
    "zero fractions": [(0x011A, 5, 1, struct.pack("<I", 9999))],
    "a type that is none": [(0x0132, 77, 3, b"\1\2\3\4")],
    "an orientation of 99": [(0x0112, 3, 1, struct.pack("<I", 99))],
    "an orientation in words": [(0x0112, 2, 4, b"top\0")],
    "a directory that is itself": [(0x8769, 4, 1, struct.pack("<I", 8))],
    "a directory in text": [(0x8769, 2, 4, b"abc\0"), (0x8825, 2, 4, b"N\0\0\0")],
    "signed bytes": [(0x013B, 6, 4, b"\xff\xfe\xfd\xfc"), (0x010F, 9, 1, b"\xff\xff\xff\xff")],
    "floats": [(0x0128, 11, 1, struct.pack("<f", float("nan"))), (0x011A, 12, 1, struct.pack("<I", 0))],
    "the same tag twice": [(0x010E, 2, 4, b"abc\0"), (0x010E, 3, 1, b"\7\0\0\0")],
    "an unknown tag": [(0xFEDC, 7, 4, b"\0\1\2\3"), (0x0000, 3, 0, b"\0\0\0\0")],
    "no end": [],
}


@pytest.mark.parametrize("ending", [".jpg", ".png", ".tif", ".webp", ".avif"])
@pytest.mark.parametrize("name", ODD)
def test_odd_exif_is_left_out_whatever_it_is(tmp_path, name, ending):
    block = exif_of(ODD[name])
    data = bad_segment(saved(scene(120, 96), "JPEG", quality=90), 0xE1, b"Exif\0\0" + block)
    picture = read(tmp_path, data, "a.jpg")
    write_picture(picture, tmp_path / f"b{ending}")
    again = read_picture(tmp_path / f"b{ending}")
    assert again.size == (96, 120) and np.abs(rgb(again) - rgb(picture)).mean() < 3
    whole = saved(scene(120, 96), "PNG")
    from_png = read(tmp_path, png.with_chunks(whole, [(b"eXIf", block)]), "c.png")
    assert np.array_equal(rgb(from_png), np.asarray(scene(120, 96)))
    write_picture(from_png, tmp_path / f"d{ending}")


def test_other_tags_survive_an_odd_one(tmp_path):
    block = exif_of(ODD["text for a resolution"])
    picture = read(tmp_path, bad_segment(saved(scene(120, 96), "JPEG"), 0xE1, b"Exif\0\0" + block), "a.jpg")
    notes = []
    write_picture(picture, tmp_path / "b.jpg", notes=notes)
    assert Image.open(tmp_path / "b.jpg").getexif()[0x010E] == "abc" and any("0x011A" in note for note in picture.notes)


CUTS = {"without its end": -12, "cut in its last checksum": -14, "cut in its pixels": None}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16"])
def test_a_png_without_its_end(tmp_path, mode, cut):
    picture = Image.fromarray(np.asarray(scene(120, 96).convert("L")).astype(np.uint16) * 200) if mode == "I;16" else scene(120, 96).convert(mode)
    data = saved(picture, "PNG", compress_level=1)
    # The pixels of the last tenth of the file are a bit more than the last tenth of the picture.
    end = CUTS[cut] if CUTS[cut] is not None else int(0.9 * len(data)) - len(data)
    whole, read_cut = read(tmp_path, data, "a.png"), read(tmp_path, data[:end], "b.png")
    kept = slice(0, 96 if CUTS[cut] is not None else 80)
    assert torch.equal(read_cut.image[:, :, kept], whole.image[:, :, kept]) and read_cut.deep == whole.deep
    if CUTS[cut] is None:
        assert any("of its pixels are lost" in note for note in read_cut.notes)
        assert (read_cut.image - whole.image).abs().max() < (2.1 if mode == "P" else 0.6)


@pytest.mark.parametrize("kind", [b"tEXt", b"iCCP", b"pHYs", b"zTXt", b"eXIf", b"gAMA", b"iTXt", b"tIME", b"caBX"])
@pytest.mark.parametrize("contents", [b"", b"\0\0\0", b"Raw profile type exif\0\0\x78\x9cjunk", bytes(99)], ids=str)
@pytest.mark.parametrize("good", [True, False])
def test_odd_chunks_of_a_png_never_matter(tmp_path, kind, contents, good):
    whole = saved(scene(120, 96), "PNG")
    part = png.chunk(kind, contents)
    data = whole[:33] + (part if good else part[:-1] + bytes([part[-1] ^ 1])) + whole[33:]
    picture = read(tmp_path, data, "a.png")
    assert np.array_equal(rgb(picture), np.asarray(scene(120, 96)))
    for ending in (".png", ".jpg", ".tif"):
        write_picture(picture, tmp_path / f"b{ending}")
        assert read_picture(tmp_path / f"b{ending}").size == (96, 120)


def test_damage_within_the_pixels_of_a_png_is_refused(tmp_path):
    data = bytearray(saved(scene(120, 96), "PNG"))
    data[len(data) // 2] ^= 64
    with pytest.raises(FlashdiffError, match=r"a\.png: damaged"):
        read(tmp_path, bytes(data), "a.png")


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}, {"rowsperstrip": 8}], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_tiff_without_its_last_rows(tmp_path, dtype, options):
    values = (np.asarray(scene(120, 96)) / 255 * (1 if dtype == np.float32 else np.iinfo(dtype).max)).astype(dtype)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric="rgb", metadata=None, **options)
    data = buffer.getvalue()
    whole, cut = read(tmp_path, data, "a.tif"), read(tmp_path, data[: -3 * values[0].nbytes - 5], "b.tif")
    assert torch.equal(cut.image[:, :, :92], whole.image[:, :, :92]) and (cut.image - whole.image).abs().max() < 0.6
    assert any("of its pixels are lost" in note for note in cut.notes)


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("tag", [34665, 34853, 700, 33723, 34377, 34675, 270, 282, 65000])
def test_odd_tags_of_a_tiff_never_matter(tmp_path, tag, compression):
    options = {} if compression is None else {"compression": compression}
    data = bytearray(saved(scene(120, 96), "TIFF", tiffinfo={65001: "abc"}, **options))
    begin = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, begin)[0]
    for i in range(count):
        place = begin + 2 + 12 * i
        if struct.unpack_from("<H", data, place)[0] == 65001:
            struct.pack_into("<HHI4s", data, place, tag, 2, 4, b"\xff\xfe!\0")
    picture = read(tmp_path, bytes(data), "a.tif")
    assert np.array_equal(rgb(picture), np.asarray(scene(120, 96)))
    write_picture(picture, tmp_path / "b.tif")
    assert np.array_equal(rgb(read_picture(tmp_path / "b.tif")), np.asarray(scene(120, 96)))


def test_big_tiffs_of_16_bits_are_written_as_tiff_again(tmp_path):
    values = np.asarray(scene(120, 96)).astype(np.uint16) * 257
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, photometric="rgb", bigtiff=True, description="a caption", metadata=None, resolution=(300, 300))
    picture = read(tmp_path, buffer.getvalue(), "a.tif")
    for ending in (".tif", ".png", ".jpg", ".webp"):
        write_picture(picture, tmp_path / f"b{ending}")
        assert Image.open(tmp_path / f"b{ending}").getexif()[270] == "a caption"
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif"), values)


def test_a_bmp_without_its_last_rows(tmp_path):
    data = saved(scene(120, 96), "BMP")
    whole, cut = read(tmp_path, data, "a.bmp"), read(tmp_path, data[: -5 * 360 - 7], "b.bmp")
    assert torch.equal(cut.image[:, :, 6:], whole.image[:, :, 6:]) and (cut.image - whole.image).abs().max() < 0.6
    with pytest.raises(FlashdiffError):
        read(tmp_path, data[: len(data) // 2], "c.bmp")


def test_a_writer_that_chokes_on_metadata_writes_the_pixels(tmp_path, monkeypatch):
    picture = read(tmp_path, saved(scene(120, 96), "JPEG", comment=b"hello", dpi=(300, 300)), "a.jpg")
    plain = Image.Image.save

    def choke(self, *args, **options):
        if options.get("extra"):
            raise RecursionError("too deep")
        return plain(self, *args, **options)

    monkeypatch.setattr(Image.Image, "save", choke)
    notes = []
    write_picture(picture, tmp_path / "b.jpg", notes=notes)
    assert Image.open(tmp_path / "b.jpg").size == (120, 96) and "could not be written (RecursionError)" in notes[-1]


@pytest.mark.parametrize(
    "error",
    [
        RecursionError("deep"),
        struct.error("unpack"),
        MemoryError(),
        SyntaxError("x"),
        KeyError(7),
        zlib.error("y"),
        AssertionError(),
    ],
)
def test_whatever_a_decoder_raises_is_one_line(tmp_path, monkeypatch, error):
    def fail(self):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(FlashdiffError, match=r"a\.jpg") as caught:
        read(tmp_path, saved(scene(120, 96), "JPEG"), "a.jpg")
    assert "\n" not in str(caught.value)
