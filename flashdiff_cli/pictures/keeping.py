"""Metadata into files: what each format can hold, and what is said to be lost where one cannot."""

from __future__ import annotations

import struct
import zlib
from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from flashdiff_cli.pictures import jpeg, metadata
from flashdiff_cli.pictures.metadata import Metadata

HELD = {
    "JPEG": ("exif", "profile", "xmp", "xmp_more", "resources", "comments", "dpi"),
    "PNG": ("exif", "profile", "xmp", "comments", "dpi", "text", "colour"),
    "TIFF": ("exif", "profile", "xmp", "resources", "dpi"),
    "WEBP": ("exif", "profile", "xmp", "dpi"),
    "AVIF": ("exif", "profile", "xmp", "dpi"),
    "HEIF": ("exif", "profile", "xmp", "dpi"),
    "BMP": ("dpi",),
}
"""What is written into each format; where it has no place for a resolution, EXIF has."""
NAMES = {
    "exif": "EXIF",
    "profile": "the colour profile",
    "xmp": "XMP",
    "xmp_more": "a part of XMP",
    "resources": "IPTC",
    "comments": "comments",
    "dpi": "resolution",
    "text": "text",
    "colour": "gamma and primaries",
}


def lost(said: Metadata, kind: str) -> list[str]:
    """Return notes on what a format of Pillow's name `kind` cannot hold."""
    missing = [name for name in NAMES if getattr(said, name) and name not in HELD.get(kind, ())]
    if "colour" in missing and (said.profile or not _unusual(said.colour)):
        missing.remove("colour")
    return [f"{kind} has no place for {', '.join(NAMES[name] for name in missing)}: left out"] if missing else []


def _unusual(colour: list[tuple[bytes, bytes]]) -> bool:
    """Return whether colours mean something else than in sRGB, for which files are taken that say nothing."""
    known = dict(colour)
    if b"cICP" in known:
        return known[b"cICP"][:2] not in (b"\x01\x0d", b"\x02\x0d", b"\x01\x02")
    if b"sRGB" in known:
        return False
    gamma = known.get(b"gAMA", b"")
    places = known.get(b"cHRM", b"")
    off = len(gamma) == 4 and abs(struct.unpack(">I", gamma)[0] - metadata.SRGB_GAMMA) > 500
    return off or (len(places) == 32 and any(abs(a - b) > 500 for a, b in zip(struct.unpack(">8I", places), metadata.SRGB_PLACES, strict=True)))


def with_resolution(exif: bytes | None, dpi: tuple[float, float] | None) -> bytes | None:
    """Return EXIF that says the resolution, unless it does already."""
    if dpi is None:
        return exif
    known = Image.Exif()
    if exif:
        known.load(exif)
    if metadata.X_RESOLUTION in known and metadata.Y_RESOLUTION in known:
        return exif
    tags = tags_of(exif)
    tags |= {metadata.X_RESOLUTION: _rational(dpi[0]), metadata.Y_RESOLUTION: _rational(dpi[1]), metadata.UNIT: 2}
    made = Image.Exif()
    made.endian = known.endian
    for tag, value in tags.items():
        made[tag] = value
    return made.tobytes()


def _rational(value: float) -> IFDRational:
    return IFDRational(round(value * 1000), 1000)


def tags_of(exif: bytes | None) -> dict[int, Any]:
    """Return EXIF as the tags of a TIFF file, directories as mappings."""
    if not exif:
        return {}
    known = Image.Exif()
    known.load(exif)
    tags: dict[int, Any] = {}
    for tag in known:
        directory = tag in (metadata.EXIF, metadata.GPS)
        value = dict(known.get_ifd(tag)) if directory else known[tag]
        if directory and metadata.INTEROP in value:
            value[metadata.INTEROP] = dict(known.get_ifd(metadata.INTEROP))
        tags[tag] = metadata.stored(value)
    return tags


def for_jpeg(said: Metadata, notes: list[str]) -> dict[str, Any]:
    """Return the arguments of Pillow's JPEG writer; what does not fit into its segments is left out, and noted."""
    extra, large = b"", []
    exif = said.exif
    if exif is not None and len(exif) > jpeg.LIMIT:
        exif = _without_maker(exif)
        large.append("the camera maker's notes" if exif and len(exif) <= jpeg.LIMIT else "EXIF")
        exif = exif if exif and len(exif) <= jpeg.LIMIT else None
    whole = [(0xE1, metadata.XMP_HEAD + said.xmp, "XMP")] if said.xmp else []
    whole += [(0xE1, part, "XMP") for part in said.xmp_more]
    step = jpeg.LIMIT - len(metadata.RESOURCES_HEAD)
    resources = said.resources or b""
    whole += [(0xED, metadata.RESOURCES_HEAD + resources[i : i + step], "IPTC") for i in range(0, len(resources), step)]
    whole += [(0xFE, comment, "a comment") for comment in said.comments]
    for marker, contents, name in whole:
        if len(contents) > jpeg.LIMIT:
            large.append(name)
        else:
            extra += jpeg.segment(marker, contents)
    if large:
        notes.append(f"too large for JPEG and left out: {', '.join(large)}")
    found: dict[str, Any] = {"exif": exif, "icc_profile": said.profile, "dpi": said.dpi, "extra": extra}
    return {name: value for name, value in found.items() if value} | {"progressive": said.progressive}


def _without_maker(exif: bytes) -> bytes | None:
    tags = tags_of(exif)
    tags.get(metadata.EXIF, {}).pop(metadata.MAKER, None)
    made = Image.Exif()
    for tag, value in tags.items():
        made[tag] = value
    return made.tobytes() if len(made) else None


def for_png(said: Metadata) -> list[tuple[bytes, bytes]]:
    """Return the chunks that go before the pixels."""
    chunks = [(kind, contents) for kind, contents in said.colour if not (kind == b"sRGB" and said.profile)]
    if said.profile:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(said.profile)))
    if said.dpi:
        chunks.append((b"pHYs", struct.pack(">IIB", *(round(n / metadata.METRE) for n in said.dpi), 1)))
    if said.exif:
        chunks.append((b"eXIf", said.exif.removeprefix(b"Exif\0\0")))
    if said.xmp:
        chunks.append((b"iTXt", metadata.XMP_TEXT + said.xmp))
    chunks += said.text
    # tEXt is Latin-1 by its standard, and the bytes of a comment are of no known code.
    return chunks + [(b"tEXt", b"Comment\0" + comment.replace(b"\0", b"")) for comment in said.comments]


def for_tiff(said: Metadata) -> dict[int, Any]:
    """Return the tags besides those of the pixels."""
    tags = tags_of(with_resolution(said.exif, said.dpi))
    if said.profile:
        tags[metadata.PROFILE] = said.profile
    if said.xmp:
        tags[metadata.XMP] = said.xmp
    if said.resources:
        tags[metadata.RESOURCES] = said.resources
        iptc = metadata.iptc_of(said.resources)
        if iptc:
            tags[metadata.IPTC] = iptc
    return tags


def for_others(said: Metadata, kind: str) -> dict[str, Any]:
    """Return the arguments of Pillow's writers of WebP, AVIF, HEIF and BMP."""
    if kind == "BMP":
        return {"dpi": said.dpi} if said.dpi else {}
    found = {"exif": with_resolution(said.exif, said.dpi), "icc_profile": said.profile, "xmp": said.xmp}
    return {name: value for name, value in found.items() if value}
