"""The door for picture files: formats, kinds of file, and claims that no honest writer makes."""

import ast
import io
import os
import socket
import struct
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from flashdiff_cli.bounded import parse_json, read_bounded, read_text, short
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.operators.files import read_grey, read_kernel
from flashdiff_cli.pictures import high_bit_depth, limits, structure, time_limit
from flashdiff_cli.pictures.files import read_picture
from flashdiff_cli.runs.inputs import find
from flashdiff_cli.training.data import Entry, entries

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"


def encoded(kind: str = "PNG", size=(16, 12), **settings) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 60).convert("RGB").save(buffer, kind, **settings)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(entries: list[tuple[int, int, int, int]], following: int = 0, data: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory: (tag, type, count, value or offset) each, then `data`."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", following) + data


@pytest.fixture
def no_programs(monkeypatch):
    """Starting any other program fails the test."""
    import subprocess

    def refuse(*arguments, **settings):
        pytest.fail(f"a program was started: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(os, "system", refuse)


@pytest.mark.parametrize("ending", ["png", "jpg", "eps", "tif"])
def test_postscript_starts_nothing_whatever_it_is_called(tmp_path, no_programs, ending):
    path = tmp_path / f"x.{ending}"
    path.write_bytes(POSTSCRIPT)
    with pytest.raises(FlashdiffError, match="not a picture in a format that can be read"):
        read_picture(path)
    for read in (read_grey, read_kernel):
        with pytest.raises(UsageError, match="`mask_file` .*x"):
            read(path, "`mask_file`")
    with pytest.raises(Image.UnidentifiedImageError):
        Entry(str(path)).read()


@pytest.mark.parametrize("kind", ["PCX", "TGA", "SGI", "DDS", "IM", "XBM", "PDF", "ICNS", "MSP", "QOI"])
def test_formats_that_no_document_names_are_not_opened(tmp_path, kind):
    buffer = io.BytesIO()
    mode = {"XBM": "1", "MSP": "1"}.get(kind, "RGB")
    Image.new(mode, (16, 16)).save(buffer, kind)
    path = tmp_path / "x.png"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(FlashdiffError, match="not a picture in a format that can be read"):
        read_picture(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "ICO", "AVIF", "JPEG2000"])
def test_formats_that_the_documents_name_are(tmp_path, kind):
    path = tmp_path / "x"
    path.write_bytes(encoded(kind, (16, 16)))
    assert read_picture(path).size == (16, 16)


def test_pillow_is_told_which_formats_to_open_everywhere():
    package = Path(limits.__file__).parents[1]
    calls = []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open"):
                calls.append((path.name, node.lineno, [k.arg for k in node.keywords]))
    assert len(calls) > 1 and all("formats" in keywords for *_, keywords in calls), calls


def special(folder, kind):
    path = folder / f"{kind}.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    else:
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = special(tmp_path, kind)
    for read in (read_picture, lambda p: read_kernel(p, "--kernel-file"), lambda p: read_text(p), lambda p: limits.read_file(p)):
        with pytest.raises(FlashdiffError, match=f"a {'named pipe' if kind == 'pipe' else kind}, not a file"):
            read(path)
    opened = []
    monkeypatch.setattr(os, "open", lambda *a, **k: opened.append(a))
    with pytest.raises(FlashdiffError):
        read_picture(path)
    assert not opened


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.timeout(60)
def test_pipes_in_a_folder_are_no_pictures(tmp_path):
    for kind in ("pipe", "socket", "device"):
        special(tmp_path, kind)
    (tmp_path / "a.png").write_bytes(encoded())
    assert [job.source.name for job in find([tmp_path])] == ["a.png"]
    assert [entry.path for entry in entries(tmp_path)] == [str(tmp_path / "a.png")]


def test_a_file_is_read_up_to_its_limit_and_no_further(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"a" * 100)
    assert read_bounded(path, 100) == b"a" * 100
    with pytest.raises(FlashdiffError, match="100 bytes, more than the 99"):
        read_bounded(path, 99)
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FlashdiffError, match="more than"):
        read_picture(path)
    with pytest.raises(FlashdiffError, match="no file can have this name"):
        read_bounded("a\0b", 10)


def test_json_is_strict_and_bounded():
    assert parse_json('{"a": [1, null]}') == {"a": [1, None]}
    for text in ("[" * 100_000, "[" * 40 + "]" * 40, '{"a": NaN}', "[Infinity]", "9" * 10_000, "{"):
        with pytest.raises(ValueError, match=r"\S"):
            parse_json(text)


def test_messages_are_one_line_whatever_is_in_them():
    text = str(FlashdiffError("a\nb\x1b[31m\u2028\u202ec é 写\u3000真"))
    assert text == "a\\nb\\x1b[31m\\u2028\\u202ec é 写\u3000真"
    assert len(str(UsageError("x" * 10**6))) <= 2000
    value = []
    for _ in range(60):
        value = [value] * 10
    assert len(short(value)) < 2000 and len(short({"k" * 10**6: "v" * 10**6})) < 500


CLAIMS = {
    "png of many chunks": lambda: encoded()[:33] + chunk(b"tEXt", b"a\0b") * 60_000 + encoded()[33:],
    "png of many frames": lambda: encoded()[:33] + chunk(b"acTL", struct.pack(">II", 1 << 30, 0)) + encoded()[33:],
    "jpeg of many segments": lambda: b"\xff\xd8" + b"\xff\xfe\0\x03a" * 60_000 + encoded("JPEG")[2:],
    "jpeg of many scans": lambda: encoded("JPEG", progressive=True)[:-2] + b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" * 600,
    "gif of many frames": lambda: (
        encoded("GIF")[:-1] + b"," + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x02\0" + (b"," + bytes(9) + b"\x02\0") * 30_000
    ),
    "webp of many frames": lambda: b"RIFF" + struct.pack("<I", 4 + 30_000 * 8) + b"WEBP" + b"ANMF\0\0\0\0" * 30_000,
    "tiff of many directories": lambda: b"II*\0\x08\0\0\0" + b"".join(b"\0\0" + struct.pack("<I", 14 + 6 * i) for i in range(30_000)),
    "tiff whose tags overlap": lambda: tiff([(1000 + i, 7, 1 << 20, 30_000) for i in range(2000)], 0, bytes(2 << 20)),
    "tiff of many numbers": lambda: tiff([(1000, 3, 5_000_000, 26)], 0, bytes(10_000_030)),
    "ppm of a long comment": lambda: b"P6 #" + b"x" * (2 << 20) + b"\n16 16 255\n" + bytes(768),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", CLAIMS.values(), ids=CLAIMS)
def test_claims_that_no_writer_makes_are_refused_in_one_line(tmp_path, make):
    path = tmp_path / "x.png"
    path.write_bytes(make())
    began = time.process_time()
    with pytest.raises(FlashdiffError, match=r"x\.png: (more than|tags that|a header)") as found:
        read_picture(path)
    assert "\n" not in str(found.value) and time.process_time() - began < 15
    with pytest.raises(structure.Refused):
        limits.open_image(path.read_bytes())


def test_scans_are_weighed_by_their_pixels():
    data = encoded("JPEG", progressive=True)
    structure.check_work(data, 16 * 12)
    with pytest.raises(structure.Refused, match="scans over 2000 megapixels"):
        structure.check_work(data, 2_000_000_000)
    structure.check_work(encoded("JPEG"), 2_000_000_000)


SIZES = {
    "tiff": lambda: tiff([(256, 4, 1, 60_000), (257, 4, 1, 60_000), (262, 3, 1, 2), (277, 3, 1, 3)]),
    "tiff tile": lambda: tiff([(256, 4, 1, 16), (257, 4, 1, 16), (322, 4, 1, 60_000), (323, 4, 1, 60_000)]),
    "png": lambda: (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)) + chunk(b"IDAT", b"x") + chunk(b"IEND")
    ),
    "bmp": lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "gif": lambda: b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + encoded("GIF")[10:],
}


@pytest.mark.parametrize("make", SIZES.values(), ids=SIZES)
def test_sizes_beyond_the_limit_are_not_decoded(tmp_path, make):
    path = tmp_path / "x.tif"
    path.write_bytes(make())
    with pytest.raises(FlashdiffError, match="more pixels than a photograph has.*FLASHDIFF_MAX_MEGAPIXELS"):
        read_picture(path)


def test_the_limit_of_pixels_is_raised_and_lowered_by_the_environment(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    path.write_bytes(encoded(size=(40, 40)))
    monkeypatch.setenv(limits.VARIABLE, "0.0015")
    with pytest.raises(FlashdiffError, match="more pixels"):
        read_picture(path)
    monkeypatch.setenv(limits.VARIABLE, "0.0016")
    assert read_picture(path).size == (40, 40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    assert read_picture(path).size == (40, 40)
    for wrong in ("many", "-1", "nan", "1e9", "inf"):
        monkeypatch.setenv(limits.VARIABLE, wrong)
        with pytest.raises(UsageError, match="FLASHDIFF_MAX_MEGAPIXELS"):
            limits.max_pixels()


@pytest.mark.parametrize("compression", [None, "zlib", "packbits"])
def test_a_tiff_that_claims_more_than_it_holds_allocates_nothing(compression, monkeypatch):
    buffer = io.BytesIO()
    values = np.zeros((16, 16, 3), np.float32 if compression != "packbits" else np.uint8)
    if compression == "packbits":
        pytest.importorskip("imagecodecs")
    tifffile.imwrite(buffer, values, photometric="rgb", metadata=None, compression=compression)
    data = bytearray(buffer.getvalue())
    assert high_bit_depth.read_tiff(bytes(data), 10**9)[0].shape == (16, 16, 3)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tag = file.pages.first.tags[name]
            struct.pack_into("<H" if tag.dtype == 3 else "<I", data, tag.valueoffset, 30_000)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda *a, **k: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match="claims .* bytes of pixels"):
        high_bit_depth.read_tiff(bytes(data), 10**9)


def test_directories_that_run_in_a_circle_end(tmp_path):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((16, 16, 3), np.uint8), photometric="rgb", metadata=None)
    data = bytearray(buffer.getvalue())
    (first,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    path = tmp_path / "x.tif"
    path.write_bytes(data)
    assert read_picture(path).size == (16, 16)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_whose_tags_overlap_is_refused(tmp_path, kind):
    exif = tiff([(1000 + i, 7, 30_000, 20_000) for i in range(60)] + [(2000, 7, 4, 0)], 0, bytes(60_000))
    path = tmp_path / "x"
    path.write_bytes(encoded(kind, exif=b"Exif\0\0" + exif[:65_000]))
    with pytest.raises(FlashdiffError, match="tags that claim more"):
        read_picture(path)


def numpy_file(header: bytes, rest: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + rest


ARRAYS = {
    "huge": numpy_file(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }\n"),
    "negative": numpy_file(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1), }\n"),
    "objects": numpy_file(b"{'descr': '|O', 'fortran_order': False, 'shape': (1, 1), }\n", b"cos\nsystem\n(S'x'\ntR."),
    "long header": b"\x93NUMPY\x02\0" + struct.pack("<I", 1 << 30) + b" " * 100,
    "nested header": numpy_file(b"(" * 3000),
    "text": numpy_file(b"{'descr': '<U9', 'fortran_order': False, 'shape': (1, 1), }\n", bytes(36)),
    "record": numpy_file(b"{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1, 1), }\n", bytes(8)),
    "three": numpy_file(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1, 1), }\n", bytes(8)),
    "not a number": numpy_file(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1), }\n", struct.pack("<d", float("nan"))),
    "archive": b"PK\x03\x04" + bytes(50),
    "pickle": b"cos\nsystem\n(S'x'\ntR.",
    "empty": b"",
}


@pytest.mark.parametrize("data", ARRAYS.values(), ids=ARRAYS)
def test_hostile_arrays_are_no_kernels(tmp_path, data):
    path = tmp_path / "k.npy"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"`kernel_file` .*k\.npy") as found:
        read_kernel(path)
    assert "\n" not in str(found.value)


def test_honest_arrays_are_kernels(tmp_path):
    for values in (np.ones((3, 5)), np.asfortranarray(np.arange(15.0).reshape(5, 3)), np.eye(3, dtype=np.uint8)):
        np.save(tmp_path / "k.npy", values)
        found = read_kernel(tmp_path / "k.npy").numpy()
        assert found.sum() == pytest.approx(1) and np.isclose(found.max(), values.max() / values.sum())


def of_jpeg_2000(side, seed=0):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, "JPEG2000")
    return buffer.getvalue()


def test_a_decoder_that_does_not_end_is_one_failed_picture(tmp_path, monkeypatch):
    """One that lets others work, and OpenJPEG, which does not; what is read in time is read."""
    from flashdiff_cli.pictures import files

    decode, hung = files.decode, threading.Event()

    def slow(data):
        if data.startswith(b"hang"):
            hung.wait(60)
        return decode(data)

    monkeypatch.setattr(files, "decode", slow)
    monkeypatch.setenv(time_limit.VARIABLE, "0.1")
    (tmp_path / "hang.png").write_bytes(b"hang")
    (tmp_path / "large.jp2").write_bytes(of_jpeg_2000(400))
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    for name in ("hang.png", "large.jp2"):
        with pytest.raises(FlashdiffError, match=rf"{name}: decoding it took longer than 0.1 seconds.*{time_limit.VARIABLE}"):
            read_picture(tmp_path / name)
    with pytest.raises(UsageError, match=r"`mask_file` .*large.jp2: decoding it took longer"):
        read_grey(tmp_path / "large.jp2", "`mask_file`")
    monkeypatch.setenv(time_limit.VARIABLE, "60")
    assert read_picture(tmp_path / "good.png").size == (8, 8)
    hung.set()


def test_the_time_that_a_decoder_has_grows_with_the_picture(monkeypatch):
    monkeypatch.setattr(time_limit, "SECONDS", 0.05)
    monkeypatch.setattr(time_limit, "SECONDS_PER_MEGAPIXEL", 100.0)

    def decode(pixels):
        time_limit.expect(pixels)
        time.sleep(0.3)
        return pixels

    assert time_limit.in_time(lambda: decode(1_000_000)) == 1_000_000
    with pytest.raises(time_limit.TooSlow):
        time_limit.in_time(lambda: decode(1))
    with pytest.raises(ZeroDivisionError):
        time_limit.in_time(lambda: 1 / 0)
    for text in ("0", "-1", "nan", "inf", "soon"):
        monkeypatch.setenv(time_limit.VARIABLE, text)
        with pytest.raises(UsageError, match=time_limit.VARIABLE):
            time_limit.in_time(lambda: 1)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_jpeg_2000_in_its_own_process_is_the_same(tmp_path, mode):
    rng = np.random.default_rng(3)
    if mode == "I;16":
        picture = Image.fromarray(rng.integers(0, 65536, (9, 14), dtype=np.uint16))
    else:
        picture = Image.fromarray(rng.integers(0, 256, (9, 14, 4), dtype=np.uint8)).convert(mode)
    picture.save(tmp_path / "a.jp2")
    with limits.open_image_file(tmp_path / "a.jp2") as found:
        assert found.mode == picture.mode and np.array_equal(np.asarray(found), np.asarray(picture))
    data = (tmp_path / "a.jp2").read_bytes()
    (tmp_path / "a.jp2").write_bytes(data[: len(data) // 2])
    with pytest.raises(FlashdiffError, match="damaged or truncated"):
        read_picture(tmp_path / "a.jp2")


def test_standard_input_is_bounded(monkeypatch):
    from flashdiff_cli.runs.piped import read_standard_input

    monkeypatch.setattr(limits, "MORE_BYTES", 1000)
    monkeypatch.setenv(limits.VARIABLE, "0.001")

    class Endless:
        def read(self, most=-1):
            assert most >= 0
            return bytes(most)

    with pytest.raises(FlashdiffError, match="standard input gives more than"):
        read_standard_input(Endless())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_sizes_are_read_ahead_by_the_same_door(tmp_path, no_programs):
    """What a run is expected to take is told from headers: of pictures only, and no pipe is waited for."""
    from flashdiff_cli.runs.expected import megapixels
    from flashdiff_cli.runs.inputs import Job

    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5000 5000\n")
    Image.new("RGB", (1000, 500)).save(tmp_path / "a.png")
    jobs = [Job(tmp_path / name, Path(name)) for name in ("pipe.png", "script.png", "a.png")]
    assert megapixels(jobs[:2]) is None and megapixels(jobs[2:]) == pytest.approx(0.5)
