"""Locks of one byte each in an open file, which end with the process: who writes a line, and who restores which picture.

They are those of Linux that belong to an open file (OFD), not to a process. On other systems of the Unix kind files are locked as a whole: the
one of lines for the moment of writing, and a small one for each picture that is being restored. On Windows pictures are not claimed: runs
side by side do some twice.
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from flashdiff_cli.errors import FlashdiffError

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

LINES = 2**62
"""The byte that is locked while a line is added."""
PATIENCE, PAUSE = 20.0, 0.002
"""Seconds that a line waits for another run's at most, and between two attempts."""
_BYTES = hasattr(fcntl, "F_OFD_SETLK")


def byte_of(name: str) -> int:
    """Return the byte that stands for a file's name."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:7], "big")


def claim(handle: int, folder: Path, name: str) -> Callable[[], None] | None:
    """Claim a picture's output for this process.

    Args:
        handle: of the folder's journal, open; closing it ends the claim as well.
        folder: of the output.
        name: of the output.

    Returns:
        what gives it back; None if another has it.
    """
    if _BYTES:
        return _nothing if _try(handle, byte_of(name), fcntl.F_WRLCK) else None
    if fcntl is None:
        return _nothing
    # Of the kind of name that `pictures.atomic.sweep` removes when no process holds the file.
    return _claim_file(folder / f".flashdiff-{byte_of(name):016x}.part")


def _nothing() -> None:
    return


def _claim_file(path: Path) -> Callable[[], None] | None:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        try:
            handle = os.open(path, flags, 0o600)
        except OSError:  # something else has that name: then there are no claims
            return _nothing
        if not _try_whole(handle):
            os.close(handle)
            return None
        if os.fstat(handle).st_nlink:
            break
        os.close(handle)  # another run has given it back, or swept it away, since it was opened

    def free() -> None:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        os.close(handle)

    return free


def _try(handle: int, byte: int, kind: int) -> bool:
    try:
        # struct flock: type, whence, start, length, process
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0))
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _try_whole(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


class Line:
    """While this is entered, no other run adds a line to the open file.

    Raises:
        FlashdiffError: another process keeps it locked.
    """

    def __init__(self, handle: int, name: str):
        self.handle, self.name = handle, name

    def __enter__(self) -> None:
        if fcntl is None:
            return
        end = time.monotonic() + PATIENCE
        while not (_try(self.handle, LINES, fcntl.F_WRLCK) if _BYTES else _try_whole(self.handle)):
            if time.monotonic() > end:
                raise FlashdiffError(f"{self.name}: another process keeps this file locked; end it and run again")
            time.sleep(PAUSE)

    def __exit__(self, *_: object) -> None:
        if fcntl is None:
            return
        if _BYTES:
            _try(self.handle, LINES, fcntl.F_UNLCK)
        else:
            fcntl.flock(self.handle, fcntl.LOCK_UN)
