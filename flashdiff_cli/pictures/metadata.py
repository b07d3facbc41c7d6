"""What a file says besides its pixels: read from any format, and written into each as far as that can hold it."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from flashdiff_cli.pictures import jpeg, png, tiff

EXIF, GPS, INTEROP = 0x8769, 0x8825, 0xA005
ORIENTATION, X_RESOLUTION, Y_RESOLUTION, UNIT = 0x0112, 0x011A, 0x011B, 0x0128
WIDTH, HEIGHT, MAKER = 0xA002, 0xA003, 0x927C
XMP, IPTC, RESOURCES, PROFILE = 700, 33723, 34377, 34675
SEPARATE = (
    *tiff.NEEDED,
    280,
    281,
    290,
    291,
    297,
    330,
    333,
    336,
    345,
    346,
    *range(512, 522),
    XMP,
    IPTC,
    RESOURCES,
    PROFILE,
    37724,
)
"""Tags that say how the old file was laid out, which no longer holds, or that are kept in another place."""
XMP_HEAD, XMP_MORE, RESOURCES_HEAD = (
    b"http://ns.adobe.com/xap/1.0/\0",
    b"http://ns.adobe.com/xmp/extension/\0",
    b"Photoshop 3.0\0",
)
XMP_TEXT = b"XML:com.adobe.xmp\0\0\0\0\0"
TURNED_IN_XMP = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>)\s*)[2-8](?=\s*[\"'<])")
KNOWN_SEGMENTS = {
    0xE0: (b"JFIF\0", b"JFXX\0"),
    0xE1: (b"Exif\0\0", XMP_HEAD, XMP_MORE),
    0xE2: (b"ICC_PROFILE\0", b"MPF\0", b"FPXR\0"),
    0xEC: (b"Ducky",),
    0xED: (RESOURCES_HEAD,),
    0xEE: (b"Adobe",),
}
"""JPEG's segments that are read elsewhere, or that describe the old file only, by their beginnings."""
KNOWN_CHUNKS = (
    *png.PIXELS,
    *png.COLOUR,
    *png.TEXT,
    b"pHYs",
    b"eXIf",
    b"iCCP",
    b"sBIT",
    b"hIST",
    b"acTL",
    b"fcTL",
    b"fdAT",
)
TEXT_ELSEWHERE = (
    b"XML:com.adobe.xmp\0",
    b"Raw profile type exif\0",
    b"Raw profile type APP1\0",
    b"Raw profile type xmp\0",
)
METRE = 0.0254
SRGB_GAMMA, SRGB_PLACES = 45455, (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


@dataclass
class Metadata:
    """What a file says besides its pixels."""

    exif: bytes | None = None
    """Camera, dates, caption, GPS: without what describes the layout of the old file."""
    profile: bytes | None = None
    """ICC."""
    xmp: bytes | None = None
    xmp_more: list[bytes] = field(default_factory=list)
    """The parts of XMP that did not fit into one segment of a JPEG file, each as its segment has it."""
    resources: bytes | None = None
    """Photoshop's image resources; IPTC is one of them."""
    comments: list[bytes] = field(default_factory=list)
    dpi: tuple[float, float] | None = None
    """Pixels an inch across and down, where the format has a place of its own for them."""
    text: list[tuple[bytes, bytes]] = field(default_factory=list)
    """PNG's chunks of text, as they are."""
    colour: list[tuple[bytes, bytes]] = field(default_factory=list)
    """PNG's chunks that say what its colours mean, as they are."""
    progressive: bool = False
    """Of JPEG."""
    lossless: bool = False
    """Of WebP."""
    compression: int | None = None
    """TIFF's number, of one without loss."""
    predictor: int = 1
    """Of TIFF."""

    def turned(self, orientation: int) -> Metadata:
        """Return the same of a picture that was turned upright: across and down change places."""
        dpi = self.dpi[::-1] if self.dpi is not None and orientation in (5, 6, 7, 8) else self.dpi
        return replace(self, dpi=dpi, xmp=None if self.xmp is None else TURNED_IN_XMP.sub(rb"\g<1>1", self.xmp))

    def layout(self) -> Metadata:
        """Return only how the file was compressed."""
        return Metadata(progressive=self.progressive, lossless=self.lossless, compression=self.compression, predictor=self.predictor)


def _tried(what: str, notes: list[str], read: Callable[[], Any], otherwise: Any = None) -> Any:
    """Return what `read` returns; of damaged metadata, Pillow raises whatever comes, and the pixels are there."""
    try:
        return read()
    except Exception:
        notes.append(f"{what} could not be read and was left out")
        return otherwise


def find_orientation(file: Image.Image) -> int:
    """Return how a picture is stored, as EXIF counts; 1 where that cannot be told."""
    try:
        value = int(file.getexif().get(ORIENTATION, 1))
    except Exception:
        return 1
    return value if 1 <= value <= 8 else 1


def read_metadata(file: Image.Image, data: bytes | None, notes: list[str], turned: bool = False) -> Metadata:
    """Read all that a file says besides its pixels.

    Args:
        file: as Pillow has opened it, loaded.
        data: the same file's bytes; None if there are none.
        notes: what could not be read is added.
        turned: whether width and height change places when it is upright.
    """
    size = (file.height, file.width) if turned else file.size
    found = Metadata(exif=_tried("EXIF", notes, lambda: clean_exif(file.getexif(), size, notes)))
    profile = file.info.get("icc_profile")
    found.profile = profile if isinstance(profile, bytes) and profile else None
    found.xmp = _tried("XMP", notes, lambda: _bytes(file.info.get("xmp")))
    found.dpi = _tried("the resolution", notes, lambda: _dpi(file))
    if file.format in ("GIF",) and (comment := _bytes(file.info.get("comment"))):
        found.comments = [comment]
    if found.profile is not None and found.profile[16:20] in (b"CMYK", b"Lab ", b"LAB "):
        found.profile = None
        notes.append("the colour profile is of other colours than those that are written, and was left out")
    own = {
        "JPEG": _of_jpeg,
        "MPO": _of_jpeg,
        "PNG": _of_png,
        "WEBP": _of_webp,
        "TIFF": _of_tiff,
        "AVIF": _of_avif,
        "HEIF": _of_heif,
    }.get(file.format or "")
    if own is not None and data is not None:
        _tried("a part of its metadata", notes, lambda: own(file, data, found, notes))
    return found


def _bytes(value: Any) -> bytes | None:
    """Return XMP or a comment as bytes, whatever Pillow made of it."""
    if isinstance(value, (tuple, list)):
        value = bytes(value) if value and isinstance(value[0], int) else value[0] if value else None
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value or None


def _dpi(file: Image.Image) -> tuple[float, float] | None:
    dpi = file.info.get("dpi")
    if file.format in ("JPEG", "MPO") and file.info.get("jfif_unit") not in (1, 2):
        # Pillow takes it from EXIF then, or makes it up.
        return None
    if dpi is None:
        return None
    across, down = float(dpi[0]), float(dpi[1])
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None


def stored(value: Any) -> Any:
    """Return a tag's value so that it is written as it was read: Pillow reads text as Latin-1 and writes it as ASCII."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("latin-1", "replace")
    if isinstance(value, Mapping):
        return {tag: stored(inside) for tag, inside in value.items()}
    if isinstance(value, tuple) and value and all(isinstance(part, str) for part in value):
        return b"\0".join(part.encode("latin-1", "replace") for part in value)
    return value


def _writes(tag: int, value: Any, inside: int | None = None) -> bool:
    """Return whether Pillow can write a tag, and read again what it wrote."""
    one = Image.Exif()
    one[inside or tag] = value if inside is None else {tag: value}
    try:
        data = one.tobytes()
        again = Image.Exif()
        again.load(data)
        return (again[tag] if inside is None else again.get_ifd(inside)[tag]) is not None
    except Exception:
        return False


def clean_exif(found: Image.Exif, size: tuple[int, int], notes: list[str]) -> bytes | None:
    """Return EXIF without what describes the layout of the old file, and without tags that cannot be written.

    Args:
        found: as Pillow has it.
        size: (W, H) of the picture, upright.
        notes: a line is added if tags were odd.
    """
    kept, odd = Image.Exif(), []
    kept.endian = found.endian
    for tag in sorted(tag for tag in found if tag not in SEPARATE):
        try:
            if tag in (EXIF, GPS):
                directory = dict(found.get_ifd(tag))
                if INTEROP in directory:
                    directory[INTEROP] = dict(found.get_ifd(INTEROP))
                value = {}
                for own, inside in sorted(directory.items()):
                    if own in (WIDTH, HEIGHT) and tag == EXIF:
                        inside = size[own == HEIGHT]
                    if _writes(own, inside := stored(inside), tag):
                        value[own] = inside
                    else:
                        odd.append(own)
            else:
                value = stored(found[tag])
        except Exception:
            odd.append(tag)
            continue
        if _writes(tag, value):
            kept[tag] = value
        else:
            odd.append(tag)
    if odd:
        names = ", ".join(f"0x{tag:04X}" for tag in odd[:5]) + (", ..." if len(odd) > 5 else "")
        notes.append(f"odd EXIF tags were left out ({names})")
    return kept.tobytes() if len(kept) else None


def _of_jpeg(file: Image.Image, data: bytes, found: Metadata, notes: list[str]) -> None:
    parts, others, profile = [], [], False
    for marker, begin, end in jpeg.segments(data):
        contents = data[begin : min(end, begin + jpeg.LIMIT)]
        if marker == 0xFE:
            found.comments.append(contents)
        elif marker == 0xED and contents.startswith(RESOURCES_HEAD):
            parts.append(contents.removeprefix(RESOURCES_HEAD))
        elif marker == 0xE1 and contents.startswith(XMP_MORE):
            found.xmp_more.append(contents)
        elif 0xE0 <= marker <= 0xEF and not contents.startswith(KNOWN_SEGMENTS.get(marker, ())):
            others.append(f"APP{marker - 0xE0}")
        profile = profile or (marker == 0xE2 and contents.startswith(b"ICC_PROFILE\0"))
        found.progressive = found.progressive or marker in jpeg.PROGRESSIVE
    found.resources = b"".join(parts) or None
    if profile and found.profile is None:
        notes.append("its colour profile is incomplete and was left out")
    if others:
        notes.append(f"data of other programs were left out ({', '.join(sorted(set(others)))})")
    after = jpeg.behind(data)
    if after and file.format == "JPEG":
        notes.append(f"{after:,} bytes behind the picture were left out")


def _of_png(file: Image.Image, data: bytes, found: Metadata, notes: list[str]) -> None:
    others = []
    for kind, contents, good in png.chunks(data):
        if not good:
            continue
        if png.COLOUR.get(kind) == len(contents):
            found.colour.append((kind, contents))
        elif kind in png.TEXT and not contents.startswith(TEXT_ELSEWHERE):
            found.text.append((kind, contents))
        elif kind not in KNOWN_CHUNKS:
            others.append(kind.decode("latin-1"))
        elif kind == b"iCCP" and found.profile is None:
            notes.append("its colour profile could not be read and was left out")
    if file.info.get("interlace"):
        notes.append("interlacing was left out")
    if others:
        notes.append(f"data of other programs were left out ({', '.join(sorted(set(others))[:8])})")


def _of_webp(file: Image.Image, data: bytes, found: Metadata, notes: list[str]) -> None:
    place = 12
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        found.lossless = found.lossless or kind == b"VP8L"
        place += 8 + length + (length & 1)


def _of_avif(file: Image.Image, data: bytes, found: Metadata, notes: list[str]) -> None:
    place = data.find(b"av1C")
    flags = data[place + 6] if place >= 0 else 0
    _of_heif(file, data, found, notes, (12 if flags & 0x20 else 10) if flags & 0x40 else 8)


def _of_heif(file: Image.Image, data: bytes, found: Metadata, notes: list[str], bits: int | None = None) -> None:
    bits = int(file.info.get("bit_depth", 8)) if bits is None else bits
    if bits > 8:
        notes.append(f"{bits} bits a channel became 8")
    place = data.find(b"colrnclx")
    if place >= 0 and found.profile is None:
        primaries, transfer = struct.unpack_from(">HH", data, place + 8)
        if primaries not in (1, 2) or transfer in (16, 18):
            notes.append(f"its colours (primaries {primaries}, transfer {transfer} of H.273) were read as those of sRGB")


def _of_tiff(file: Image.Image, data: bytes, found: Metadata, notes: list[str]) -> None:
    tags = getattr(file, "tag_v2", {})
    name = str(file.info.get("compression", "raw"))
    _layout(found, tiff.NAMES.get(name), name.removeprefix("tiff_"), tags.get(317), notes)
    found.resources = _resources(tags)


def _layout(found: Metadata, compression: int | None, name: str, predictor: Any, notes: list[str]) -> None:
    found.compression = tiff.DEFLATE if compression is None else compression
    found.predictor = tiff.DIFFERENCES if predictor in (tiff.DIFFERENCES, tiff.FLOATS) else 1
    if compression is None:
        notes.append(f"TIFF compression {name} became Deflate, which loses nothing")


def _resources(tags: Mapping[int, Any]) -> bytes | None:
    """Return Photoshop's image resources among a TIFF file's tags, or the IPTC record as one of them."""
    whole, iptc = _bytes(tags.get(RESOURCES)), _bytes(tags.get(IPTC))
    if whole is None and iptc:
        return b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + bytes(len(iptc) & 1)
    return whole


def of_tags(data: bytes, tags: Mapping[int, Any], size: tuple[int, int], notes: list[str]) -> Metadata:
    """Return what a TIFF file says that Pillow does not open.

    Args:
        data: of the file.
        tags: of its first page, by number.
        size: (W, H), upright.
        notes: what could not be read is added.
    """
    known = Image.Exif()
    _tried("EXIF", notes, lambda: known.load(data))
    found = Metadata(exif=_tried("EXIF", notes, lambda: clean_exif(known, size, notes)))
    found.profile = _tried("its colour profile", notes, lambda: _bytes(tags.get(PROFILE)))
    found.xmp = _tried("XMP", notes, lambda: _bytes(tags.get(XMP)))
    found.resources = _tried("IPTC", notes, lambda: _resources(tags))
    number = int(tags.get(259, 1))
    kept = {32946: tiff.DEFLATE}.get(number, number)
    _layout(found, kept if kept in tiff.NAMES.values() else None, str(number), tags.get(317), notes)
    return found


def iptc_of(resources: bytes) -> bytes | None:
    """Return the IPTC record among Photoshop's image resources."""
    place = 0
    while resources[place : place + 4] == b"8BIM" and place + 12 <= len(resources):
        name = 1 + resources[place + 6]
        begin = place + 6 + name + (name & 1)
        length = int.from_bytes(resources[begin : begin + 4], "big")
        if resources[place + 4 : place + 6] == b"\x04\x04":
            return resources[begin + 4 : begin + 4 + length]
        place = begin + 4 + length + (length & 1)
    return None
