"""Picture files <-> images."""

from __future__ import annotations

import hashlib
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.pictures import deep, limits
from flashdiff_cli.pictures.formats import FORMATS, LOSSY, needed
from flashdiff_cli.pictures.picture import Picture, from_pil, from_samples
from flashdiff_cli.pictures.whole import whole

ORIENTATION = 0x0112
DEEP = {"PNG": deep.write_png, "TIFF": deep.write_tiff}
"""How 16 bits a channel are written; other formats get 8."""


def _decode(data: bytes) -> Picture:
    """The picture of a file's bytes; what Pillow, tifffile and EXIF make of a damaged one is raised."""
    try:
        file = limits.open_image(data)
    except Image.UnidentifiedImageError:
        if not deep.is_tiff(data):
            raise
        return _decode_tiff(data)
    with file:
        if deep.is_planar(file):
            return _decode_tiff(data)
        values = deep.samples(file, data)
        if values is None:
            return from_pil(file)
        exif, frames = file.getexif(), getattr(file, "n_frames", 1)
        notes = [f"first of {frames} frames"] if frames > 1 else []
        values = deep.upright(values, exif.get(ORIENTATION, 1))
        return from_samples(values, file.info.get("transparency"), exif, file.info.get("icc_profile"), notes)


def _decode_tiff(data: bytes) -> Picture:
    values, orientation, profile, notes = deep.read_tiff(data, limits.max_pixels())
    exif = Image.Exif()
    with suppress(Exception):  # of damaged tags, Pillow raises whatever comes; the colours are there
        exif.load(data)
    return from_samples(deep.upright(values, orientation), None, exif, profile, notes)


def read_picture(path: str | Path) -> Picture:
    """Read a picture file.

    Raises:
        FlashdiffError: it is missing, empty, truncated, no picture, or too large to be one.
    """
    path = Path(path)
    try:
        data = limits.read_file(path)
    except FileNotFoundError:
        raise FlashdiffError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise FlashdiffError(f"{path}: a folder, not a picture") from None
    except OSError as error:
        raise FlashdiffError(f"{path}: cannot be read ({error.strerror})") from error
    if not data:
        raise FlashdiffError(f"{path}: the file is empty (0 bytes); copy it again from its source")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = _decode(data)
    except (deep.UnknownKind, limits.Refused) as error:
        raise FlashdiffError(f"{path}: {error}") from None
    except Image.DecompressionBombError:
        raise FlashdiffError(f"{path}: its header claims more pixels than a photograph has; if it is one, set {limits.VARIABLE}") from None
    except Image.UnidentifiedImageError:
        reason = needed(data) or "not a picture in a format that can be read; give PNG, JPEG, TIFF, WebP, AVIF or BMP"
        raise FlashdiffError(f"{path}: {reason}") from None
    except Exception as error:  # Pillow's decoders raise whatever their formats make them raise
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise FlashdiffError(f"{path}: damaged or truncated picture ({reason}); copy it again from its source") from error
    picture.digest = hashlib.sha256(data).digest()
    return picture


def check_output(path: Path) -> None:
    """Raise a UsageError if a picture cannot be written under this name's ending."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: cannot write {path.suffix or 'a name without an ending'}; end it in {', '.join(FORMATS)}")


def _encode(picture: Picture, file: BinaryIO, kind: str, quality: int) -> None:
    if picture.deep and kind in DEEP:
        DEEP[kind](file, picture.to_samples(), picture.exif, picture.profile)
        return
    pil = replace(picture, deep=False).to_pil()
    if kind in ("JPEG", "BMP") and pil.mode in ("LA", "RGBA"):
        flat = Image.new("RGB", pil.size, "white")
        flat.paste(pil, mask=pil.getchannel("A"))
        pil = flat.convert("L") if picture.grey else flat
    extras = {"exif": picture.exif, "icc_profile": picture.profile}
    extras = {k: v for k, v in extras.items() if v and kind != "BMP"}
    if kind in LOSSY:
        extras |= {"quality": quality} | ({} if picture.grey else LOSSY[kind])
    pil.save(file, kind, **extras)


def write_picture(picture: Picture, path: str | Path, quality: int = 95) -> None:
    """Write a picture file in the format of its ending: first under a temporary name, then moved.

    Args:
        picture: what to write.
        path: its ending chooses the format; folders are made.
        quality: of JPEG, WebP, AVIF and HEIC, 1 to 100.

    Raises:
        UsageError: unknown ending.
        FlashdiffError: the disk or the folder refuses.
    """
    path = Path(path)
    check_output(path)
    with whole(path) as file:
        _encode(picture, file, FORMATS[path.suffix.lower()], quality)
