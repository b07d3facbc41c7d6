"""Picture files <-> images."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.pictures import high_bit_depth, limits
from flashdiff_cli.pictures.atomic import Opener, whole
from flashdiff_cli.pictures.decode import decode
from flashdiff_cli.pictures.encode import encode
from flashdiff_cli.pictures.formats import FORMATS, check_output, needed
from flashdiff_cli.pictures.picture import Picture, from_pil
from flashdiff_cli.pictures.time_limit import TooSlow, in_time
from flashdiff_cli.storage.url import Url, location

__all__ = ["Picture", "check_output", "encoded", "from_pil", "picture_of", "read_picture", "write_picture", "write_to"]


def read_picture(path: str | Path | Url) -> Picture:
    """Read a picture file, or what stands at an address.

    Raises:
        FlashdiffError: it is missing, empty, truncated, no picture, or too large to be one.
    """
    path = location(path)
    try:
        data = limits.read_file(path)
    except FileNotFoundError:
        raise FlashdiffError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise FlashdiffError(f"{path}: a folder, not a picture") from None
    except (OSError, ValueError) as error:
        raise FlashdiffError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    return picture_of(data, str(path))


def picture_of(data: bytes, name: str) -> Picture:
    """Return the picture of a file's bytes.

    Args:
        data: of the file.
        name: of the file, for messages.

    Raises:
        FlashdiffError: as `read_picture`.
    """
    if not data:
        raise FlashdiffError(f"{name}: the file is empty (0 bytes); copy it again from its source")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = in_time(lambda: decode(data))
    except UsageError:
        raise
    except (high_bit_depth.UnknownKind, limits.Refused, TooSlow) as error:
        raise FlashdiffError(f"{name}: {error}") from None
    except Image.DecompressionBombError:
        raise FlashdiffError(f"{name}: its header claims more pixels than a photograph has; if it is one, set {limits.VARIABLE}") from None
    except Image.UnidentifiedImageError:
        reason = needed(data) or "not a picture in a format that can be read; give PNG, JPEG, TIFF, WebP, AVIF or BMP"
        raise FlashdiffError(f"{name}: {reason}") from None
    except MemoryError as error:
        raise FlashdiffError(f"{name}: there is not enough memory to read it; close other programs, or make it smaller first") from error
    except Exception as error:  # Pillow's decoders raise whatever their formats make them raise
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise FlashdiffError(f"{name}: damaged or truncated picture ({reason}); copy it again from its source") from error
    picture.digest = hashlib.sha256(data).digest()
    return picture


def write_picture(
    picture: Picture,
    path: str | Path | Url,
    quality: int | None = None,
    into: Opener = whole,
    notes: list[str] | None = None,
) -> None:
    """Write a picture file in the format of its ending: first under a temporary name, then moved.

    Args:
        picture: what to write.
        path: its ending chooses the format; folders are made.
        quality: see `encode`.
        into: opens it; see `pictures.atomic`.
        notes: what the format cannot hold is added, before the file gets its name.

    Raises:
        UsageError: unknown ending.
        FlashdiffError: the disk or the folder refuses, or the picture does not fit the format.
    """
    path = location(path)
    check_output(path)
    with into(path) as file:
        found = write_to(picture, file, path.suffix, quality, str(path))
        if notes is not None:
            notes += found


def write_to(picture: Picture, file: BinaryIO, ending: str, quality: int | None = None, name: str = "the result") -> list[str]:
    """Write a picture into an open file; see `write_picture`.

    Args:
        picture: what to write.
        file: open for writing; it must be at its beginning and allow to go back there.
        ending: chooses the format.
        quality: see `encode`.
        name: of the file, for messages.

    Returns:
        notes on what the format cannot hold.
    """
    kind = FORMATS[ending.lower()]
    try:
        return encode(picture, file, kind, quality)
    except OSError as error:
        if error.errno is not None:
            raise
        failed: Exception = error
    except (FlashdiffError, MemoryError):
        raise
    except Exception as error:  # of odd metadata, Pillow's writers raise whatever comes
        failed = error
    # A picture is not lost for what its file says besides.
    file.seek(0)
    file.truncate()
    try:
        notes = encode(replace(picture, metadata=picture.metadata.layout()), file, kind, quality)
    except OSError as error:
        if error.errno is not None:
            raise
        raise FlashdiffError(f"{name}: cannot be written as {kind} ({failed}); choose another format") from failed
    except Exception:
        raise FlashdiffError(f"{name}: cannot be written as {kind} ({failed}); choose another format") from failed
    return [*notes, f"what its file said besides the pixels could not be written ({type(failed).__name__}) and was left out"]


def encoded(picture: Picture, ending: str, quality: int | None = None) -> tuple[bytes, list[str]]:
    """Return a picture as the bytes of a file, and the notes of `write_picture`."""
    buffer = io.BytesIO()
    notes = write_to(picture, buffer, ending, quality)
    return buffer.getvalue(), notes
