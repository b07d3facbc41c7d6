"""The formats of picture files: which are looked for, which can be written here, and what the others would need."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, features

from flashdiff_cli.errors import UsageError

if TYPE_CHECKING:
    from flashdiff_cli.storage.url import Url

READ = {
    ".png": "PNG",
    ".apng": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".mpo": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".dib": "BMP",
    ".gif": "GIF",
    ".ppm": "PPM",
    ".pgm": "PPM",
    ".pbm": "PPM",
    ".pnm": "PPM",
    ".ico": "ICO",
    ".jp2": "JPEG2000",
    ".j2k": "JPEG2000",
    ".avif": "AVIF",
    ".heic": "HEIF",
    ".heif": "HEIF",
    ".hif": "HEIF",
}
"""Pillow's names of the formats that are read, by ending; the one list of what is found in folders and of what is opened by name."""

OPENED = tuple(sorted(set(READ.values())))
"""All that Pillow is asked to open (MPO is JPEG to it). PostScript and its like, for which it starts other programs, are not among them."""

SUFFIXES = tuple(READ)
"""Of the files that a folder is searched for."""

FORMATS = {ending: kind for ending, kind in READ.items() if kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP") and ending != ".apng"}
"""Pillow's names of the formats that can be written, by ending."""

if features.check("avif"):
    FORMATS[".avif"] = "AVIF"
if find_spec("pillow_heif") is not None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    if "HEIF" in Image.SAVE:
        FORMATS |= {".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF"}

LOSSY = {"JPEG": {"subsampling": 0}, "WEBP": {}, "AVIF": {"subsampling": "4:4:4"}, "HEIF": {"chroma": 444}}
"""Formats with a quality, and how each is told to keep colours as sharp as brightness."""


def check_output(path: Path | Url) -> None:
    """Raise a UsageError if a picture cannot be written under this name's ending."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: cannot write {path.suffix or 'a name without an ending'}; end it in {', '.join(FORMATS)}")


def needed(data: bytes) -> str | None:
    """Return what would have to be installed to read a file that begins with these bytes; None: nothing would help."""
    if data[4:8] != b"ftyp":
        return None
    if data[8:12] in (b"avif", b"avis") and ".avif" not in FORMATS:
        return "an AVIF picture, and this Pillow is built without AVIF; install its own wheel: pip install --force-reinstall pillow"
    if data[8:12] in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1") and ".heic" not in FORMATS:
        return 'a HEIC picture, which needs one more package: pip install "flashdiff[heic]"'
    return None
