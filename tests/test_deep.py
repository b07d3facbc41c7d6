"""More than 8 bits a channel: all of them are read, kept and written, and files that lie about them end as one line."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from tiny import save_tiny_model

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.pictures.files import read_picture, write_picture
from flashdiff_cli.pictures.high_bit_depth import read_tiff, upright
from flashdiff_cli.pictures.picture import Picture
from flashdiff_cli.pictures.png import write_png

SIZE = (13, 19)


def noise(channels, dtype=np.uint16, seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.random((*SIZE, channels)).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, (*SIZE, channels), dtype, endpoint=True)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def filtered(values, kind):
    """A PNG's rows under one of its five filters, by the formulas of the standard."""
    rows = values.astype(">u2").view(np.uint8).reshape(len(values), -1).astype(int)
    step = 2 * values.shape[-1]
    out = []
    for y, row in enumerate(rows):
        above = rows[y - 1] if y else np.zeros_like(row)
        left, corner = (np.concatenate([np.zeros(step, int), r[:-step]]) for r in (row, above))
        base = left + above - corner
        near = np.stack([abs(base - left), abs(base - above), abs(base - corner)]).argmin(0)
        guess = [0 * row, left, above, (left + above) // 2, np.choose(near, [left, above, corner])][kind]
        out.append(bytes([kind]) + ((row - guess) % 256).astype(np.uint8).tobytes())
    return b"".join(out)


def png(values, filter=0, interlaced=False, more=b""):
    """A 16-bit PNG, written by its standard and not by the program."""
    height, width, channels = values.shape
    parts = [values]
    if interlaced:
        passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
        parts = [values[top::down, left::across] for top, left, down, across in passes]
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, int(interlaced))
    data = zlib.compress(b"".join(filtered(part, filter) for part in parts if part.size))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(values, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, **({"photometric": "rgb" if values.shape[-1] > 2 else "minisblack"} | options))
    return file.getvalue()


def read(tmp_path, data, name="a.png"):
    path = tmp_path / name
    path.write_bytes(data)
    return read_picture(path)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("filter", range(5))
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_every_bit_of_a_16_bit_png_is_read(tmp_path, channels, filter, interlaced):
    values = noise(channels)
    picture = read(tmp_path, png(values, filter, interlaced))
    assert picture.deep and picture.grey == (channels == 2) and np.array_equal(picture.to_samples(), values)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"rowsperstrip": 4},
        {"tile": (16, 16)},
        {"compression": "zlib", "predictor": True},
        {"planarconfig": "separate"},
        {"bigtiff": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_every_bit_of_a_16_bit_tiff_is_read(tmp_path, channels, options):
    values = noise(channels)
    extra = {"extrasamples": ["unassalpha"]} if channels in (2, 4) else {}
    stored = values
    if "planarconfig" in options:
        stored = np.moveaxis(values, -1, 0)
        extra["photometric"] = "rgb" if channels > 2 else "minisblack"
    picture = read(tmp_path, tiff(stored, **options, **extra), "a.tif")
    assert picture.deep and np.array_equal(picture.to_samples(), values)


def with_strip(data, strip, compression):
    """A little-endian TIFF of one strip, with other contents of that."""
    data = bytearray(data)
    values = {"StripOffsets": len(data), "StripByteCounts": len(strip), "Compression": compression}
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        for name, value in values.items():
            tag = file.pages.first.tags[name]
            data[tag.valueoffset : tag.valueoffset + tag.valuebytecount] = value.to_bytes(tag.valuebytecount, "little")
    return bytes(data) + strip


def lzw(data):
    """Literal codes of 9 bits, with the table cleared before it needs a tenth."""
    codes = [code for i in range(0, len(data), 200) for code in (256, *data[i : i + 200])] + [257]
    bits = "".join(f"{code:09b}" for code in codes)
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


@pytest.mark.parametrize("channels", [3, 4])
def test_every_bit_of_an_lzw_tiff_is_read(tmp_path, channels):
    values = noise(channels)
    data = with_strip(tiff(values, **({"extrasamples": ["unassalpha"]} if channels == 4 else {})), lzw(values.tobytes()), 5)
    assert np.array_equal(read(tmp_path, data, "a.tif").to_samples(), values)


def test_premultiplied_colours_are_divided(tmp_path):
    values = noise(4)
    values[..., 3] = values[..., 3].clip(20000)
    stored = (values.astype(np.uint32) * values[..., 3:] // 65535).astype(np.uint16)
    stored[..., 3] = values[..., 3]
    picture = read(tmp_path, tiff(stored, extrasamples=["assocalpha"]), "a.tif")
    assert np.abs(picture.to_samples().astype(int) - values).max() <= 4


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint32])
@pytest.mark.parametrize("channels", [3, 4])
def test_float_and_32_bit_colour_tiff(tmp_path, channels, dtype):
    values = noise(channels, dtype)
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    picture = read(tmp_path, tiff(values, **extra), "a.tif")
    top = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    assert picture.deep and np.abs(picture.to_samples() - 65535.0 * values.astype(float) / top).max() <= 0.51


def test_float_ranges_and_what_is_not_finite(tmp_path):
    values = noise(3, np.float32)
    expected = read(tmp_path, tiff(values), "a.tif").to_samples()
    for top in (255, 65535):
        values[0, 0] = 1
        scaled = read(tmp_path, tiff(values * top), "a.tif").to_samples()
        assert np.abs(scaled[1:].astype(int) - expected[1:]).max() <= 1
    values[3, 4] = np.nan, np.inf, 0.5
    picture = read(tmp_path, tiff(values), "a.tif")
    assert torch.isfinite(picture.image).all() and picture.to_samples()[3, 4, 2] == 32768
    assert "1 pixels that are not finite" in picture.notes[0] and picture.to_samples()[3, 4, :2].min() > 0


def test_a_transparent_colour_is_compared_in_16_bits(tmp_path):
    values = noise(3)
    values[2, 3], values[2, 4] = (1000, 2000, 3000), (1000, 2000, 3001)
    picture = read(tmp_path, png(values, more=chunk(b"tRNS", struct.pack(">HHH", 1000, 2000, 3000))))
    assert picture.alpha[2, 3] == 0 and picture.alpha[2, 4] == 65535 and (picture.alpha == 0).sum() == 1
    grey = noise(1)
    grey[5, 5] = 777
    picture = read(tmp_path, png(grey, more=chunk(b"tRNS", struct.pack(">H", 777))))
    assert picture.grey and picture.alpha[5, 5] == 0 and np.array_equal(picture.alpha == 0, grey[..., 0] == 777)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_as_pillow_has_it(tmp_path, orientation):
    values = noise(3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    deep = read(tmp_path, png(values, more=chunk(b"eXIf", block)))
    plain = io.BytesIO()
    Image.fromarray((values >> 8).astype(np.uint8)).save(plain, "PNG", exif=exif)
    shallow = read(tmp_path, plain.getvalue(), "b.png")
    assert np.array_equal(deep.to_samples() >> 8, shallow.to_samples() // 257)
    floats = read(tmp_path, tiff(values.astype(np.float32) / 65535, extratags=[(274, "H", 1, orientation, True)]), "a.tif")
    assert np.array_equal(floats.to_samples(), deep.to_samples()) and np.array_equal(deep.to_samples(), upright(values, orientation))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_what_is_written_is_read_again_bit_for_bit(tmp_path, ending, channels):
    values = noise(channels)
    before = read(tmp_path, png(values))
    write_picture(before, tmp_path / f"b{ending}")
    after = read_picture(tmp_path / f"b{ending}")
    assert after.deep and np.array_equal(after.to_samples(), values) and after.size == SIZE
    reader = np.asarray(tifffile.imread(tmp_path / "b.tif")) if ending == ".tif" else values
    assert np.array_equal(reader.reshape(values.shape), values)


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_exif_and_profile_stay(tmp_path, ending):
    exif = Image.Exif()
    exif[0x010E], exif[0x013B] = "a caption", "an odd"
    exif.get_ifd(0x8769)[0x9003] = "2020:02:02 02:02:02"
    exif.get_ifd(0x8825)[1] = "N"
    profile = bytes(range(256)) * 300
    more = chunk(b"iCCP", b"x\0\0" + zlib.compress(profile)) + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    values = noise(3)
    write_picture(read(tmp_path, png(values, more=more)), tmp_path / f"b{ending}")
    with Image.open(tmp_path / f"b{ending}") as file:
        found = file.getexif()
        assert file.info["icc_profile"] == profile and (found[0x010E], found[0x013B]) == ("a caption", "an odd")
        assert found.get_ifd(0x8769)[0x9003] == "2020:02:02 02:02:02" and found.get_ifd(0x8825)[1] == "N"
    again = read_picture(tmp_path / f"b{ending}")
    assert np.array_equal(again.to_samples(), values) and again.metadata.profile == profile


@pytest.mark.parametrize(("ending", "mode"), [(".jpg", "RGB"), (".webp", "RGBA"), (".bmp", "RGB")])
def test_formats_of_8_bits_get_8(tmp_path, ending, mode):
    values = noise(4)
    write_picture(read(tmp_path, png(values)), tmp_path / f"b{ending}")
    with Image.open(tmp_path / f"b{ending}") as file:
        assert (file.mode, file.size) == (mode, SIZE[::-1])


def test_transparency_grows_with_the_image(tmp_path):
    for picture in (read(tmp_path, png(noise(4))), Picture(torch.zeros(1, 3, *SIZE), alpha=np.full(SIZE, 200, np.uint8))):
        larger = picture.with_image(torch.zeros(1, 3, 26, 38))
        assert larger.alpha.shape == (26, 38) and larger.alpha.dtype == picture.alpha.dtype
        assert abs(larger.alpha.mean() - picture.alpha.mean()) < 0.03 * picture.alpha.mean()
        assert larger.to_pil().size == (38, 26)


def test_16_bits_in_16_bits_out(tmp_path, cli):
    model = save_tiny_model(tmp_path / "tiny", defaults={"solver": "ldps", "steps": 10, "eta": 0.0})
    sources = {"rgb.png": png(noise(3)), "rgba.png": png(noise(4)), "grey-alpha.png": png(noise(2)), "rgb.tif": tiff(noise(3))}
    sources["float.tif"] = tiff(noise(3, np.float32))
    for name, data in sources.items():
        (tmp_path / name).write_bytes(data)
    code, _, err = cli("restore", "--model", model, "--start-step", "0", "--quiet", *(tmp_path / name for name in sources))
    assert code == 0, err
    for name in sources:
        before, after = read_picture(tmp_path / name), read_picture(tmp_path / name.replace(".", "-restored."))
        assert after.deep and after.size == SIZE and after.grey == before.grey
        assert len(np.unique(after.to_samples()[..., 0] % 257)) > 1, "8 bits in a file of 16"
        if before.alpha is not None:
            assert np.array_equal(before.alpha, after.alpha)


def huge_png(channels):
    values = noise(channels)
    data = bytearray(png(values))
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def lying_tiff():
    """Float colour whose strip inflates to a hundred times its size."""
    whole = tiff(noise(3, np.float32), compression="zlib")
    return with_strip(whole, zlib.compress(bytes(100 * SIZE[0] * SIZE[1] * 12)), 8)


BAD = {
    "bomb.png": (huge_png(3), "more pixels"),
    "half.png": (png(noise(3))[:700], "truncated"),
    "half.tif": (tiff(noise(3))[:700], "half.tif"),
    "half-float.tif": (tiff(noise(3, np.float32))[:1500], "half-float.tif"),
    "inflates.tif": (lying_tiff(), "more than its size"),
    "float-webp.tif": (with_strip(tiff(noise(3, np.float32)), bytes(99), 50001), "without compression"),
    "five-channels.tif": (tiff(noise(5), photometric="minisblack", planarconfig="contig"), "save it as RGB"),
}


@pytest.mark.parametrize("name", BAD)
def test_deep_files_that_lie_end_as_one_line(tmp_path, name):
    data, reason = BAD[name]
    with pytest.raises(FlashdiffError, match=reason) as caught:
        read(tmp_path, data, name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_float_tiff_of_more_pixels_than_the_limit_is_not_decoded():
    with pytest.raises(Image.DecompressionBombError):
        read_tiff(tiff(noise(3, np.float32)), 100)


def test_damaged_deep_files_raise_nothing_else(tmp_path):
    rng = np.random.default_rng(5)
    whole = [png(noise(3)), png(noise(2), 4, True), tiff(noise(3)), tiff(noise(3, np.float32)), tiff(noise(4, np.float32), compression="zlib")]
    outcomes = []
    for i in range(300):
        data = bytearray(whole[i % len(whole)])
        for _ in range(int(rng.integers(1, 8))):
            data[rng.integers(min(len(data), 400 if i % 2 else 10**6))] ^= 1 << int(rng.integers(8))
        try:
            picture = read(tmp_path, bytes(data), "a.tif")
        except FlashdiffError as error:
            outcomes.append(str(error))
        else:
            assert torch.isfinite(picture.image).all() and picture.image.abs().max() <= 1
    assert 50 < len(outcomes) < 300 and all("a.tif" in text for text in outcomes)


def test_writers_write_what_the_standard_says():
    values, file = noise(3), io.BytesIO()
    write_png(file, values)
    data = file.getvalue()
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[8:33] == chunk(b"IHDR", struct.pack(">IIBBBBB", 19, 13, 16, 2, 0, 0, 0))
    body = data[data.index(b"IDAT") + 4 : data.index(b"IEND") - 8]
    assert zlib.decompress(body) == filtered(values, 2)
