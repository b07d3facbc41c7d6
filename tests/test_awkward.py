"""Files as people have them: what becomes of each. Every file is made here."""

import io
import struct
import zlib
from importlib.util import find_spec

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from tiny import save_tiny_model

from flashdiff_cli.pictures import formats
from flashdiff_cli.pictures.files import read_picture

W, H = 23, 17


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model") / "tiny", defaults={"solver": "ldps", "steps": 10, "eta": 0.0})


@pytest.fixture
def restore(model, cli):
    return lambda path: cli("restore", "--model", model, "--start-step", "0", "--quiet", "--", path)


def rgb(width=W, height=H):
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


def saved(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(width, height, depth, colour, rows):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def oriented(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return saved(rgb(), "JPEG", exif=exif)


def frames(kind):
    others = [Image.new("RGB", (W, H), c) for c in ("red", "blue")]
    return saved(rgb(), kind, save_all=True, append_images=others)


def grey16():
    return Image.fromarray(np.linspace(0, 65535, W * H).reshape(H, W).astype(np.uint16))


def with_nan():
    values = np.linspace(0, 1, W * H).reshape(H, W).astype(np.float32)
    values[3, 4] = np.nan
    return Image.fromarray(values)


def tiff(channels, dtype, **options):
    """By tifffile, for what Pillow cannot write."""
    top = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    values = (np.linspace(0, 1, W * H * channels).reshape(H, W, channels) * top).astype(dtype)
    file = io.BytesIO()
    tifffile.imwrite(file, values, metadata=None, **({"photometric": "rgb", "planarconfig": "contig"} | options))
    return file.getvalue()


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WHOLE = saved(rgb(), "PNG")
SHADE = Image.new("L", (W, H), 90)
CLEAR = rgb().convert("RGBA")
CLEAR.putalpha(Image.fromarray(np.linspace(0, 255, W * H).reshape(H, W).astype(np.uint8)))
PALETTE = rgb().convert("P", palette=Image.Palette.ADAPTIVE)

# name: (content, ending of the result, its mode, its size)
GOOD = {
    "rgb.png": (WHOLE, ".png", "RGB"),
    "rgb.jpg": (saved(rgb(), "JPEG"), ".jpg", "RGB"),
    "RGB.JPEG": (saved(rgb(), "JPEG"), ".JPEG", "RGB"),
    "progressive.jpg": (saved(rgb(), "JPEG", progressive=True), ".jpg", "RGB"),
    "rubbish-after-the-end.jpg": (saved(rgb(), "JPEG") + b"\0" * 999, ".jpg", "RGB"),
    "grey.jpg": (saved(SHADE, "JPEG"), ".jpg", "L"),
    "cmyk.jpg": (saved(rgb().convert("CMYK"), "JPEG"), ".jpg", "RGB"),
    "cmyk.tif": (saved(rgb().convert("CMYK"), "TIFF"), ".tif", "RGB"),
    "ycbcr.tif": (saved(rgb().convert("YCbCr"), "TIFF"), ".tif", "RGB"),
    "lab.tif": (saved(Image.new("LAB", (W, H), (120, 128, 128)), "TIFF"), ".tif", "RGB"),
    "lzw.tif": (saved(rgb(), "TIFF", compression="tiff_lzw"), ".tif", "RGB"),
    "pages.tif": (frames("TIFF"), ".tif", "RGB"),
    "rgba.png": (saved(CLEAR, "PNG"), ".png", "RGBA"),
    "rgba.webp": (saved(CLEAR, "WEBP", lossless=True), ".webp", "RGBA"),
    "rgba.tif": (saved(CLEAR, "TIFF"), ".tif", "RGBA"),
    "grey-alpha.png": (saved(SHADE.convert("LA"), "PNG"), ".png", "LA"),
    "palette.png": (saved(PALETTE, "PNG"), ".png", "RGB"),
    "palette-one-clear.png": (saved(PALETTE, "PNG", transparency=3), ".png", "RGBA"),
    "palette-many-clear.png": (saved(PALETTE, "PNG", transparency=bytes(range(256))), ".png", "RGBA"),
    "clear-colour.png": (saved(rgb(), "PNG", transparency=(0, 0, 255)), ".png", "RGBA"),
    "one-bit.png": (saved(SHADE.convert("1"), "PNG"), ".png", "L"),
    "interlaced.png": (saved(rgb(), "PNG", interlace=1), ".png", "RGB"),
    "grey16.png": (saved(grey16(), "PNG"), ".png", "I;16"),
    "grey16.tif": (saved(grey16(), "TIFF"), ".tif", "I;16"),
    "int32.tif": (saved(Image.fromarray(np.full((H, W), 40000, np.int32)), "TIFF"), ".tif", "I"),
    "float.tif": (saved(Image.fromarray(np.linspace(0, 1, W * H, dtype=np.float32).reshape(H, W)), "TIFF"), ".tif", "F"),
    "nan.tif": (saved(with_nan(), "TIFF"), ".tif", "F"),
    "rgb16.tif": (tiff(3, np.uint16), ".tif", "RGB"),
    "rgba16.tif": (tiff(4, np.uint16, extrasamples=["unassalpha"]), ".tif", "RGBA"),
    "rgb16-deflate.tif": (tiff(3, np.uint16, compression="zlib", predictor=True), ".tif", "RGB"),
    "cmyk16.tif": (tiff(4, np.uint16, photometric="separated"), ".tif", "RGB"),
    "float-rgb.tif": (tiff(3, np.float32), ".tif", "float32"),
    "float-lzma.tif": (tiff(3, np.float32, compression="lzma"), ".tif", "float32"),
    "half-float-rgb.tif": (tiff(3, np.float16), ".tif", "float16"),
    "rgb32.tif": (tiff(3, np.uint32), ".tif", "uint32"),
    "rgba16.png": (raw_png(4, 4, 16, 6, b"".join(b"\0" + bytes(32) for _ in range(4))), ".png", "RGBA"),
    "grey-alpha16.png": (raw_png(4, 4, 16, 4, b"".join(b"\0" + bytes(range(16)) for _ in range(4))), ".png", "RGBA"),
    "rgb.webp": (saved(rgb(), "WEBP"), ".webp", "RGB"),
    "moving.webp": (frames("WEBP"), ".webp", "RGB"),
    "moving.gif": (frames("GIF"), ".png", "RGB"),
    "rgb.avif": (saved(rgb(), "AVIF"), ".avif", "RGB"),
    "rgba.avif": (saved(CLEAR, "AVIF"), ".avif", "RGBA"),
    "grey.avif": (saved(SHADE, "AVIF"), ".avif", "L"),
    "moving.avif": (frames("AVIF"), ".avif", "RGB"),
    "rgb.bmp": (saved(rgb(), "BMP"), ".bmp", "RGB"),
    "rgb.ppm": (saved(rgb(), "PPM"), ".png", "RGB"),
    "rgb.ico": (saved(rgb(16, 16), "ICO", sizes=[(16, 16)]), ".png", "RGB"),
    "png-by-another-name.jpg": (WHOLE, ".jpg", "RGB"),
    "no-ending": (WHOLE, ".png", "RGB"),
    "rgb16.png": (raw_png(4, 4, 16, 2, b"".join(b"\0" + bytes(24) for _ in range(4))), ".png", "RGB"),
    "naïve 写真 with spaces.png": (WHOLE, ".png", "RGB"),
    "-dash.png": (WHOLE, ".png", "RGB"),
    "[brackets]*.png": (WHOLE, ".png", "RGB"),
    "n" * 200 + ".png": (WHOLE, ".png", "RGB"),
}
HEIC = {}
if find_spec("pillow_heif") is not None:
    HEIC = {
        "rgb.heic": (saved(rgb(), "HEIF"), ".heic", "RGB"),
        "rgba.heif": (saved(CLEAR, "HEIF"), ".heif", "RGBA"),
        "grey.heic": (saved(SHADE, "HEIF"), ".heic", "L"),
    }
GOOD |= HEIC
BAD = {
    "empty.png": (b"", "empty"),
    "half.png": (WHOLE[: len(WHOLE) // 2], "truncated"),
    "half.jpg": (saved(rgb(200, 200), "JPEG")[:900], "truncated"),
    "text.png": (b"this is no picture", "not a picture"),
    "page.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    "bomb.png": (raw_png(60000, 60000, 8, 2, b""), "more pixels"),
    "wide.png": (raw_png(2**31 - 1, 1, 8, 0, b""), "more pixels"),
    "no-data.png": (raw_png(10, 10, 8, 2, b""), "no-data.png"),
    "half16.png": (raw_png(40, 40, 16, 2, bytes(300)), "truncated"),
    "half16.tif": (tiff(3, np.uint16)[:900], "half16.tif"),
    "half-float.tif": (tiff(3, np.float32)[:2000], "half-float.tif"),
    "bomb16.png": (raw_png(60000, 60000, 16, 2, b""), "more pixels"),
    "bomb-float.tif": (tiff(3, np.float32).replace(struct.pack("<HHII", 256, 4, 1, W), struct.pack("<HHII", 256, 4, 1, 2**28)), "more pixels"),
    "half.avif": (saved(rgb(200, 200), "AVIF")[:700], "half.avif"),
    "no-width.png": (raw_png(0, 10, 8, 2, b""), "no-width.png"),
}


def test_there_are_enough_of_them():
    assert len(GOOD) + len(BAD) >= 45


@pytest.mark.parametrize("name", GOOD, ids=lambda name: name[:30])
def test_a_file_that_can_be_restored_comes_back_as_it_was(restore, tmp_path, name):
    content, ending, mode = GOOD[name]
    source = tmp_path / name
    source.write_bytes(content)
    height, width = read_picture(source).size
    code, _, err = restore(source)
    assert code == 0, err
    result = source.with_name(f"{source.stem}-restored{ending}")
    if mode in ("float16", "float32", "uint32"):  # which Pillow does not know
        after = tifffile.imread(result)
        assert (after.shape, after.dtype) == ((height, width, 3), mode)
    else:
        with Image.open(result) as after:
            after.load()
            assert (after.size, after.mode) == ((width, height), mode)
    assert source.read_bytes() == content


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_is_one_line(restore, tmp_path, name):
    content, reason = BAD[name]
    (tmp_path / name).write_bytes(content)
    code, out, err = restore(tmp_path / name)
    assert code == 1 and not out.count("restored") and reason in err and name in err and err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".tif", ".avif", ".heic"])
def test_a_photograph_keeps_its_upright_size_caption_and_profile(restore, tmp_path, ending):
    if ending == ".heic" and not HEIC:
        pytest.skip("pillow-heif is not installed")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a caption"
    source = tmp_path / f"a{ending}"
    rgb(64, 40).save(source, exif=exif, icc_profile=PROFILE)
    height, width = read_picture(source).size
    # The plug-in of HEIC drops the orientation in writing; the others come back turned.
    assert (width, height) == ((64, 40) if ending == ".heic" else (40, 64))
    assert restore(source)[0] == 0
    with Image.open(tmp_path / f"a-restored{ending}") as after:
        found = after.getexif()
        assert after.size == (width, height) and found.get(0x0112, 1) == 1 and found[0x010E] == "a caption"
        assert after.info["icc_profile"] == PROFILE


def test_heic_without_its_package_says_what_to_install(restore, tmp_path, monkeypatch):
    monkeypatch.delitem(formats.FORMATS, ".heic", raising=False)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    code, _, err = restore(tmp_path / "a.heic")
    assert code == 1 and "flashdiff[heic]" in err and "a.heic" in err


def test_what_is_no_file_at_all(restore, tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    for name in ("folder.png", "link.png", "nothing.png"):
        code, _, err = restore(tmp_path / name)
        assert code == 1 and name in err and err.count("\n") == 1


@pytest.mark.parametrize("value", range(1, 9))
def test_every_orientation_is_applied_once(restore, tmp_path, value):
    source = tmp_path / "a.jpg"
    source.write_bytes(oriented(value))
    assert restore(source)[0] == 0
    with Image.open(tmp_path / "a-restored.jpg") as after:
        assert after.size == ((W, H) if value < 5 else (H, W)) and after.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (2, 2), (3, 5)])
def test_tiny_and_thin_pictures(restore, tmp_path, size):
    rgb(*size).save(tmp_path / "a.png")
    code, _, err = restore(tmp_path / "a.png")
    assert code == 0, err
    with Image.open(tmp_path / "a-restored.png") as after:
        assert after.size == size
