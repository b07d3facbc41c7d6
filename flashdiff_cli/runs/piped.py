"""Standard input: a picture, or the names of pictures."""

from __future__ import annotations

import os
from typing import IO

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.pictures.formats import FORMATS, READ, needed

MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"GIF8")
"""Beginnings of files that are pictures even if they are damaged."""
LONGEST = 32_768
"""Bytes of a name; no file system allows as many."""


def is_picture(data: bytes) -> bool:
    """Return whether bytes are a picture file, and not a list of names."""
    if data.startswith(MAGIC) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP") or needed(data):
        return True
    from flashdiff_cli.pictures.limits import open_image

    try:
        with open_image(data):
            return True
    except Exception:  # whatever a format's reader makes of a list of names
        return False


def read_standard_input(stream: IO) -> bytes | list[bytes]:
    """Return all of standard input: a picture's bytes, or names, one a line or ended by zeros (`find -print0`).

    Args:
        stream: standard input, or anything that is read as text.

    Raises:
        FlashdiffError: it is neither, or empty.
    """
    from flashdiff_cli.pictures import limits

    source = getattr(stream, "buffer", stream)
    limit = limits.most_bytes()
    found = source.read(limit + 1) if hasattr(source, "read") else "".join(source)
    if len(found) > limit:
        raise FlashdiffError(
            f"-: standard input gives more than {limit:,} bytes, more than a picture or a list of names has; for larger ones set {limits.VARIABLE}"
        )
    data = found.encode("utf-8", "surrogateescape") if isinstance(found, str) else found
    if not data.strip():
        raise FlashdiffError("-: standard input is empty; it takes one picture, or names of pictures, one a line")
    if is_picture(data):
        return data
    names = [name for name in data.split(b"\0" if b"\0" in data else b"\n") if name.strip()]
    if not names or (b"\0" in data and not all(os.path.lexists(name) for name in names[:3])) or max(map(len, names), default=0) > LONGEST:
        raise FlashdiffError("-: standard input is neither a picture that can be read nor a list of names, one a line")
    return names


def ending_of(data: bytes) -> str:
    """Return the ending for a picture's own format, of those that can be written; else that of PNG."""
    from flashdiff_cli.pictures.limits import open_image

    try:
        with open_image(data) as file:
            kind = {"MPO": "JPEG"}.get(file.format or "", file.format)
    except Exception:  # TIFF that Pillow does not know, or a damaged file
        kind = "TIFF" if data[:2] in (b"II", b"MM") else "JPEG" if data[:2] == b"\xff\xd8" else "PNG"
    return next((ending for ending, name in READ.items() if name == kind and ending in FORMATS), ".png")
