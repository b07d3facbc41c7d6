"""An image, and what its file said besides, as the bytes of a file."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any, BinaryIO, cast

from PIL import Image

from flashdiff_cli.pictures import keeping, png, tiff
from flashdiff_cli.pictures.formats import LOSSY
from flashdiff_cli.pictures.picture import FULL, Picture
from flashdiff_cli.pictures.scale import Scale

QUALITY = 95
"""Of JPEG and its like, unless something else is asked for."""
OPAQUE = ("JPEG", "BMP")
"""Formats without transparency."""
SCALED = {"white": 341, "black": 340}
"""The TIFF tags that say what is white and black: SMaxSampleValue, SMinSampleValue."""


def encode(picture: Picture, file: BinaryIO, kind: str, quality: int | None = None) -> list[str]:
    """Write a picture.

    Args:
        picture: what to write.
        file: open for writing.
        kind: Pillow's name of the format.
        quality: of JPEG, WebP, AVIF and HEIC, 1 to 100; None: 95, or for a JPEG file its own where that is finer; WebP
            without loss stays so.

    Returns:
        notes on what the format cannot hold.

    Raises:
        whatever Pillow's writers raise.
    """
    notes = keeping.lost(picture.metadata, kind)
    if picture.alpha is not None and kind in OPAQUE:
        notes.append(f"{kind} has no transparency: laid on white")
    if kind == "PNG":
        _write_png(picture, file, notes)
    elif kind == "TIFF":
        _write_tiff(picture, file)
    else:
        if picture.deep:
            notes.append(f"more than 8 bits a channel became 8 in {kind}")
        _write_bytes(picture, file, kind, quality, notes)
    return notes


def _write_png(picture: Picture, file: BinaryIO, notes: list[str]) -> None:
    chunks = keeping.for_png(picture.metadata)
    if picture.deep:
        scale = picture.scale if picture.scale is not None and picture.scale.dtype == "uint16" else FULL
        if scale is FULL and picture.scale is not None:
            notes.append(f"{picture.scale.dtype} became 16 bits in PNG")
            if picture.excess is not None:
                notes.append("what lay beyond black and white was cut off")
        png.write_png(file, picture.to_samples(scale), chunks)
        return
    buffer = io.BytesIO()
    picture.to_pil().save(buffer, "PNG")
    file.write(png.with_chunks(buffer.getvalue(), chunks))


def _write_tiff(picture: Picture, file: BinaryIO) -> None:
    said = picture.metadata
    scale = (picture.scale or FULL) if picture.deep else Scale("uint8", 255.0)
    tags: dict[int, Any] = keeping.for_tiff(said)
    values = picture.to_samples(scale)
    usual = 1.0 if values.dtype.kind == "f" else float(2 ** (8 * values.dtype.itemsize) - 1)
    if scale.white != usual or scale.black:
        number = float if values.dtype.kind == "f" else int
        tags |= {SCALED["white"]: number(scale.white), SCALED["black"]: number(scale.black)}
    tiff.write_tiff(file, values, tags, said.compression or tiff.PLAIN, said.predictor)


def _write_bytes(picture: Picture, file: BinaryIO, kind: str, quality: int | None, notes: list[str]) -> None:
    """Write JPEG, WebP, AVIF, HEIC and BMP."""
    said = picture.metadata
    pil = replace(picture, deep=False).to_pil()
    if kind in OPAQUE and pil.mode in ("LA", "RGBA"):
        flat = Image.new("RGB", pil.size, "white")
        flat.paste(pil, mask=pil.getchannel("A"))
        pil = flat.convert("L") if picture.grey else flat
    options = keeping.for_jpeg(said, notes) if kind == "JPEG" else keeping.for_others(said, kind)
    if kind in LOSSY:
        options |= {"quality": QUALITY if quality is None else quality} | ({} if picture.grey else LOSSY[kind])
    if kind == "WEBP" and said.lossless and quality is None:
        # `exact` keeps the colours under transparency.
        options |= {"lossless": True, "exact": True, "quality": 80}
    if kind == "JPEG" and quality is None and _finer(picture, pil):
        del options["quality"]
        options["qtables"] = picture.jpeg_tables
    pil.save(file, kind, **options)


def _finer(picture: Picture, pil: Image.Image) -> bool:
    """Return whether a JPEG file was less compressed than the usual quality would."""
    tables = picture.jpeg_tables
    if not tables or len(tables) != (1 if pil.mode == "L" else 2):
        return False
    buffer = io.BytesIO()
    Image.new(pil.mode, (8, 8)).save(buffer, "JPEG", quality=QUALITY)
    with Image.open(buffer, formats=["JPEG"]) as usual:
        known = [list(cast(Any, usual).quantization[i]) for i in range(len(tables))]
    return all(own <= other for a, b in zip(tables, known, strict=True) for own, other in zip(a, b, strict=True)) and tables != known
