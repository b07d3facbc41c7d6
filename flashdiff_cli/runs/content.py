"""Whether a file is still what it was: by size, times and place on the disk where they say so, else by its content."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.storage.url import Url

FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
MOST = 4 << 30
"""Bytes of an object that is read for its digest, at most."""


def stat_of(path: Path | Url, follow: bool = True) -> list[int] | None:
    """Return bytes, time of the last change of the content and of the file itself in nanoseconds, and inode; None: no ordinary file.

    Of an address: bytes, and a number that changes with the content.
    """
    if isinstance(path, Url):
        return path.stat()
    try:
        found = os.stat(path, follow_symlinks=follow)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def digest_of(path: Path | Url, follow: bool = True) -> str | None:
    """Return SHA-256 of an ordinary file, in hexadecimal; None if it cannot be read."""
    if isinstance(path, Url):
        with suppress(FlashdiffError, FileNotFoundError):
            return hashlib.sha256(path.read(MOST, "")).hexdigest()
        return None
    with suppress(OSError, ValueError):
        handle = os.open(path, FLAGS | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
        with os.fdopen(handle, "rb") as file:
            if stat.S_ISREG(os.fstat(handle).st_mode):
                return hashlib.file_digest(file, "sha256").hexdigest()
    return None


def unchanged(path: Path | Url, now: Sequence[int] | None, then: Sequence[int] | None, digest: str | None, follow: bool = True) -> bool:
    """Return whether a file has the content that it had.

    Args:
        path: of the file.
        now: its `stat_of`.
        then: its `stat_of` when it had that content, or the first numbers of it.
        digest: of that content; None where it is not known, and size and time must do.
        follow: whether a link stands for what it means.
    """
    if now is None or not then or now[0] != then[0]:
        return False
    if list(now) == list(then):
        return True
    if digest is None:
        return len(then) > 1 and list(now[:2]) == list(then[:2])
    return digest_of(path, follow) == digest


def absolute_name(path: Path | Url) -> str:
    """Return a name that stands for the same from everywhere."""
    return str(path) if isinstance(path, Url) else os.path.abspath(path)


def other_names(path: Path | Url) -> int:
    """Return how many more names (hard links) an ordinary file has."""
    if isinstance(path, Url):
        return 0
    with suppress(OSError):
        found = os.lstat(path)
        return found.st_nlink - 1 if stat.S_ISREG(found.st_mode) else 0
    return 0


def same_file(one: Path | Url, other: Path | Url) -> bool:
    """Return whether two names stand for one file that is there: through links, other spellings of a folder, or of letters."""
    if isinstance(one, Url) or isinstance(other, Url):
        return one == other
    with suppress(OSError, ValueError):
        return os.path.samefile(one, other)
    return False
