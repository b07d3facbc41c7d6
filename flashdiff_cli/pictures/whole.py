"""Files that are there whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from flashdiff_cli.errors import FlashdiffError


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing: first under a temporary name, and moved when all of it is on the disk; folders are made.

    Raises:
        FlashdiffError: the disk or the folder refuses, or what is written cannot be put into this kind of file.
    """
    # One name for each target, so that what a killed run leaves is replaced when its file is made again.
    name = hashlib.sha256(path.name.encode(errors="surrogateescape")).hexdigest()[:12]
    temporary = path.with_name(f".flashdiff-{name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FlashdiffError(f"{path}: cannot be written ({reason}); choose another place for it") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
