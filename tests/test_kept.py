"""What a file says besides its pixels: how it was compressed, its scale on paper, its captions."""

import io

import numpy as np
import pytest
import torch
from picture_files import read, saved, scene
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from flashdiff_cli.pictures.files import read_picture, write_picture
from flashdiff_cli.pictures.png import chunks as png_chunks
from flashdiff_cli.pictures.png import with_chunks, write_png
from flashdiff_cli.pictures.tiff import LZW, write_tiff


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


XMP = (
    b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf='
    b'"http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
    b'tiff:Orientation="6" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="box 7"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
IPTC = b"\x1c\x02\x78\x00\x0bat the fair"
RESOURCES = b"8BIM\x04\x04\0\0" + len(IPTC).to_bytes(4, "big") + IPTC + bytes(len(IPTC) & 1)


def written(folder, picture, name, **options):
    """(the file, opened and loaded; notes)."""
    notes = []
    write_picture(picture, folder / name, notes=notes, **options)
    file = Image.open(folder / name)
    file.load()
    return file, notes


def exif(orientation=1):
    made = Image.Exif()
    made[0x0112], made[0x010E] = orientation, "Frühling".encode()
    made[0x9C9B] = "Titel".encode("utf-16-le")
    made.get_ifd(0x8769)[0x9003] = "1999:05:01 10:00:00"
    made.get_ifd(0x8769)[0xA002], made.get_ifd(0x8769)[0xA003] = 48, 40
    made.get_ifd(0x8825)[1] = "N"
    return made


def with_resources(jpeg):
    block = b"Photoshop 3.0\0" + RESOURCES
    return jpeg[:2] + b"\xff\xed" + (len(block) + 2).to_bytes(2, "big") + block + jpeg[2:]


ALL = {
    ".jpg": lambda: with_resources(saved(scene(), "JPEG", dpi=(300, 150), xmp=XMP, exif=exif(6), comment=b"from a box", icc_profile=PROFILE)),
    ".png": lambda: saved(scene(), "PNG", dpi=(300, 150), exif=exif(6), icc_profile=PROFILE, pnginfo=pnginfo()),
    ".tif": lambda: saved(scene(), "TIFF", tiffinfo=tiffinfo(), icc_profile=PROFILE),
    ".webp": lambda: saved(scene(), "WEBP", lossless=True, xmp=XMP, exif=exif(6), icc_profile=PROFILE),
    ".avif": lambda: saved(scene(), "AVIF", xmp=XMP, exif=exif(6), icc_profile=PROFILE),
}
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def pnginfo():
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    info.add_text("Description", "a fair")
    info.add_text("Author", "someone", zip=True)
    return info


def tiffinfo():
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0112], tags[0x010E], tags[0x0132] = 6, "Frühling".encode(), "1999:05:01 10:00:00"
    tags[0x011A], tags[0x011B], tags[0x0128] = 118.0, 59.0, 3
    tags[700], tags[34377] = XMP, RESOURCES
    return tags


@pytest.mark.parametrize("ending", ALL)
def test_all_that_a_file_says_comes_back(tmp_path, ending):
    picture = read(tmp_path, ALL[ending](), f"a{ending}")
    file, notes = written(tmp_path, picture, f"b{ending}")
    found = file.getexif()
    assert picture.size == (48, 40) and file.size == (40, 48) and notes == [] and picture.notes == []
    assert file.info["icc_profile"] == PROFILE and found.get(0x0112, 1) == 1
    if ending != ".avif":  # Pillow's reader of AVIF makes ASCII of it where the picture is turned
        assert found[0x010E].encode("latin-1") == "Frühling".encode()
    xmp = file.info["xmp"]
    assert b'dc:source="box 7"' in xmp and b'Orientation="6"' not in xmp
    if ending != ".tif":
        assert found.get_ifd(0x8769)[0x9003] == "1999:05:01 10:00:00" and found.get_ifd(0x8825)[1] == "N"
        assert (found.get_ifd(0x8769)[0xA002], found.get_ifd(0x8769)[0xA003]) == (40, 48)
    if ending in (".jpg", ".png"):
        # Across and down change places with the picture.
        assert tuple(map(round, file.info["dpi"])) == (150, 300)
    if ending == ".jpg":
        assert file.info["comment"] == b"from a box" and file.info["photoshop"][0x0404] == IPTC
    if ending == ".png":
        assert file.text["Description"] == "a fair" and file.text["Author"] == "someone"
    if ending == ".tif":
        assert (found[0x011A], found[0x011B], found[0x0128]) == (118, 59, 3) and found[0x0132] == "1999:05:01 10:00:00"
        assert file.tag_v2[34377] == RESOURCES and file.tag_v2[33723] == IPTC


@pytest.mark.parametrize("source", ALL)
@pytest.mark.parametrize("target", [*ALL, ".bmp"])
def test_what_another_format_cannot_hold_is_said(tmp_path, source, target):
    picture = read(tmp_path, ALL[source](), f"a{source}")
    file, notes = written(tmp_path, picture, f"b{target}")
    said = " ".join(notes)
    for name, here in (
        ("EXIF", 0x010E in file.getexif()),
        ("XMP", "xmp" in file.info),
        ("the colour profile", "icc_profile" in file.info),
        ("IPTC", "photoshop" in file.info or 34377 in getattr(file, "tag_v2", {})),
        ("comments", "comment" in file.info or "Comment" in getattr(file, "text", {})),
        ("text", "Description" in getattr(file, "text", {})),
    ):
        had = {"IPTC": source in (".jpg", ".tif"), "comments": source == ".jpg", "text": source == ".png"}.get(name, True)
        assert (name in said) == (had and not here), (name, notes)
    if source in (".jpg", ".png"):
        resolution = file.info.get("dpi") or file.getexif().get(0x011A)
        assert resolution, (source, target)


def test_several_pages_keep_what_the_first_says(tmp_path):
    pages = [scene(seed=i) for i in range(3)]
    data = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:], tiffinfo=tiffinfo())
    picture = read(tmp_path, data, "a.tif")
    file, _ = written(tmp_path, picture, "b.tif")
    assert picture.notes == ["first of 3 frames; the others were left out"]
    assert file.getexif()[0x0132] == "1999:05:01 10:00:00" and file.getexif()[0x011A] == 118 and "xmp" in file.info


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "lzma", "zstd"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
def test_tiff_compression_stays(tmp_path, compression, mode):
    before = Image.fromarray(np.asarray(scene().convert("L")).astype(np.uint16) * 256) if mode == "I;16" else scene().convert(mode)
    picture = read(tmp_path, saved(before, "TIFF", compression=compression), "a.tif")
    file, notes = written(tmp_path, picture, "b.tif")
    assert file.info["compression"] == compression and file.mode == before.mode and notes == picture.notes == []
    assert np.array_equal(np.asarray(file), np.asarray(before))


@pytest.mark.parametrize("predictor", [1, 2])
def test_16_bit_colour_keeps_lzw_and_its_predictor(tmp_path, predictor):
    values = np.random.default_rng(0).integers(0, 65536, (13, 19, 3), dtype=np.uint16)
    buffer = io.BytesIO()
    write_tiff(buffer, values, {}, LZW, predictor)
    picture = read(tmp_path, buffer.getvalue(), "a.tif")
    file, _ = written(tmp_path, picture, "b.tif")
    assert np.array_equal(picture.to_samples(), values) and np.array_equal(read_picture(tmp_path / "b.tif").to_samples(), values)
    assert file.tag_v2[259] == LZW and file.tag_v2.get(317, 1) == predictor


def test_lossy_tiff_compression_becomes_one_without_loss_and_is_said(tmp_path):
    picture = read(tmp_path, saved(scene(), "TIFF", compression="jpeg"), "a.tif")
    file, _ = written(tmp_path, picture, "b.tif")
    assert file.info["compression"] == "tiff_adobe_deflate" and any("became Deflate" in note for note in picture.notes)


def test_webp_without_loss_stays_so_unless_a_quality_is_asked_for(tmp_path):
    picture = read(tmp_path, saved(scene(), "WEBP", lossless=True), "a.webp")
    file, _ = written(tmp_path, picture, "b.webp")
    assert np.array_equal(np.asarray(file), np.asarray(scene())) and b"VP8L" in (tmp_path / "b.webp").read_bytes()
    written(tmp_path, picture, "c.webp", quality=80)
    assert b"VP8L" not in (tmp_path / "c.webp").read_bytes()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_is_never_compressed_more_than_it_was(tmp_path, progressive, mode):
    for quality, own in ((99, True), (60, False)):
        data = saved(scene().convert(mode), "JPEG", quality=quality, progressive=progressive)
        picture = read(tmp_path, data, "a.jpg")
        file, _ = written(tmp_path, picture, "b.jpg")
        assert bool(file.info.get("progressive")) == progressive and file.mode == mode
        tables = [file.quantization[i] for i in sorted(file.quantization)]
        assert (tables == picture.jpeg_tables) == own and tables[0][0] <= 2
        asked, _ = written(tmp_path, picture, "c.jpg", quality=40)
        assert asked.quantization[0][0] > 5


@pytest.mark.parametrize("chunks", [{b"gAMA": 100000}, {b"gAMA": 45455, b"sRGB": None}, {b"cICP": b"\x09\x10\x00\x01"}], ids=str)
def test_what_a_png_says_of_its_colours_stays_and_is_missed_elsewhere(tmp_path, chunks):
    more = [
        (kind, bytes([0]) if value is None else value if isinstance(value, bytes) else value.to_bytes(4, "big")) for kind, value in chunks.items()
    ]
    picture = read(tmp_path, with_chunks(saved(scene(), "PNG"), more), "a.png")
    written(tmp_path, picture, "b.png")
    kept = [(kind, contents) for kind, contents, _ in png_chunks((tmp_path / "b.png").read_bytes()) if kind in dict(more)]
    assert kept == more
    _, notes = written(tmp_path, picture, "b.jpg")
    assert ("gamma and primaries" in " ".join(notes)) == (b"sRGB" not in chunks)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_keeps_all_of_it_too(tmp_path, channels):
    values = np.random.default_rng(0).integers(0, 65536, (13, 19, channels), dtype=np.uint16)
    buffer = io.BytesIO()
    write_png(
        buffer,
        values,
        [
            (b"gAMA", (100000).to_bytes(4, "big")),
            (b"pHYs", (23622).to_bytes(4, "big") * 2 + b"\1"),
            (b"tEXt", b"Title\0fair"),
        ],
    )
    file, notes = written(tmp_path, read(tmp_path, buffer.getvalue(), "a.png"), "b.png")
    assert file.text["Title"] == "fair" and file.info["gamma"] == 1 and round(file.info["dpi"][0]) == 600 and notes == []
    assert np.array_equal(read_picture(tmp_path / "b.png").to_samples(), values)


def test_metadata_too_large_for_jpeg_is_left_out_and_said(tmp_path):
    made = exif()
    made.get_ifd(0x8769)[0x927C] = bytes(70_000)
    picture = read(tmp_path, saved(scene(), "PNG", exif=made), "a.png")
    file, notes = written(tmp_path, picture, "b.jpg")
    assert "the camera maker's notes" in notes[0] and file.getexif().get_ifd(0x8769)[0x9003] == "1999:05:01 10:00:00"


def test_transparency_and_depth_that_a_format_lacks_are_said(tmp_path):
    picture = read(tmp_path, saved(scene().convert("RGBA"), "PNG"), "a.png")
    assert any("laid on white" in note for note in written(tmp_path, picture, "b.jpg")[1])
    deep = read(tmp_path, saved(Image.fromarray(np.full((9, 9), 30000, np.uint16)), "PNG"), "c.png")
    assert any("became 8" in note for note in written(tmp_path, deep, "d.jpg")[1])


@pytest.mark.parametrize(("mode", "note"), [("P", "palette"), ("1", "1 bit"), ("CMYK", "CMYK")])
def test_colours_that_are_written_otherwise_are_said(tmp_path, mode, note):
    picture = read(tmp_path, saved(scene().convert(mode), "TIFF"), "a.tif")
    assert any(note in text for text in picture.notes)


def test_what_is_behind_a_jpeg_or_of_other_programs_is_missed_aloud(tmp_path):
    data = saved(scene(), "JPEG")
    other = data[:2] + b"\xff\xeb\x00\x0cJUMBF....." + data[2:]
    picture = read(tmp_path, other + bytes(5000), "a.jpg")
    assert any("5,000 bytes behind" in note for note in picture.notes) and any("APP11" in note for note in picture.notes)


@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 255, 255), (255, 0, 255)])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_colours_under_transparency_decide_nothing_and_are_written_back(tmp_path, hidden, mode):
    opaque = np.asarray(scene(96, 80))
    clear = np.zeros((80, 96), bool)
    clear[:, 60:] = clear[70:] = True
    values = np.where(clear[..., None], np.uint8(hidden), opaque)
    alpha = np.where(clear, 0, 255).astype(np.uint8)
    before = Image.fromarray(np.dstack([values, alpha])).convert(mode)
    picture = read(tmp_path, saved(before, "PNG"), "a.png")
    other = read(
        tmp_path,
        saved(Image.fromarray(np.dstack([np.where(clear[..., None], np.uint8(77), opaque), alpha])).convert(mode), "PNG"),
        "b.png",
    )
    assert torch.equal(picture.image, other.image)
    assert (picture.image[0, :, torch.from_numpy(clear)].std() < 0.6) and picture.image.max() < 1
    file, _ = written(tmp_path, picture, "c.png")
    assert np.array_equal(np.asarray(file), np.asarray(before))
    brighter = picture.with_image((picture.image + 0.1).clamp(-1, 1))
    file, _ = written(tmp_path, brighter, "d.png")
    assert np.array_equal(np.asarray(file)[clear], np.asarray(before)[clear]) and not np.array_equal(np.asarray(file), np.asarray(before))


def test_a_picture_that_is_transparent_all_over_is_left_as_it_is(tmp_path):
    before = scene().convert("RGBA")
    before.putalpha(0)
    file, _ = written(tmp_path, read(tmp_path, saved(before, "PNG"), "a.png"), "b.png")
    assert np.array_equal(np.asarray(file), np.asarray(before))


def test_a_profile_of_other_colours_is_left_out(tmp_path):
    cmyk = bytearray(PROFILE)
    cmyk[16:20] = b"CMYK"
    picture = read(tmp_path, saved(scene().convert("CMYK"), "JPEG", icc_profile=bytes(cmyk)), "a.jpg")
    file, _ = written(tmp_path, picture, "b.jpg")
    assert "icc_profile" not in file.info and file.mode == "RGB"
    assert any("CMYK became RGB" in note for note in picture.notes) and any("profile" in note for note in picture.notes)
