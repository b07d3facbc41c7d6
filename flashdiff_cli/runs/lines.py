"""A file of JSON lines in a folder of the user's: what is read there may be anybody's, and what is written goes nowhere else."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.runs.locks import Line

LONGEST = 4 * 2**20
"""Bytes of a line that is read; a run's are of some thousand."""
LARGEST = 2**30
"""Bytes of a file that is read."""
FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_KEY = re.compile(rb'\{"output": "((?:[^"\\]|\\.)*)"')
_BEGIN = b'{"output": "'
_OTHER = 1 << 16
"""Bytes of a line that is looked at although this program does not write it so."""


def safe_open(path: Path, writing: bool = False) -> int:
    """Open a file of lines, for reading or for adding to it; no link is followed, and a pipe does not stop the program.

    Args:
        path: of the file.
        writing: make it if it is not there, readable by its owner alone.

    Raises:
        FileNotFoundError: it is not there.
        FlashdiffError: it is a link, something that is no ordinary file, too large, has a second name, belongs to somebody
            else, or the system refuses.
    """
    flags = (os.O_RDWR | os.O_APPEND | os.O_CREAT if writing else os.O_RDONLY) | FLAGS
    try:
        with suppress(FileNotFoundError):
            _check(path, os.lstat(path))
        handle = os.open(path, flags, 0o600)
    except FileNotFoundError:
        raise
    except OSError as error:
        what = "written" if writing else "read"
        raise FlashdiffError(f"{path}: cannot be {what} ({error.strerror}); choose another `output`") from error
    try:
        _check(path, os.fstat(handle))
    except FlashdiffError:
        os.close(handle)
        raise
    return handle


def _check(path: Path, found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        reason = "a link"
    elif not stat.S_ISREG(found.st_mode):
        reason = "no ordinary file"
    elif found.st_nlink > 1:
        reason = "a file with a second name (a hard link)"
    elif found.st_size > LARGEST:
        reason = f"larger than {LARGEST // 2**20} MiB"
    elif os.name != "nt" and found.st_uid not in (os.geteuid(), path.parent.stat().st_uid):
        reason = "somebody else's"
    else:
        return
    raise FlashdiffError(f"{path}: {reason}, where flashdiff keeps what it has made; remove it or choose another `output`")


def key(line: bytes) -> str | None:
    """Return the name that a line is about, the value of its first key `output`; None: it is not such a line."""
    if not line.startswith(_BEGIN):
        # Not as this program writes it, but perhaps the same.
        if len(line) <= _OTHER:
            with suppress(ValueError, TypeError, KeyError, RecursionError):
                name = json.loads(line)["output"]
                return name if isinstance(name, str) else None
        return None
    found = _KEY.match(line)
    if found is None or not line.rstrip().endswith(b"}"):
        return None
    name = found[1]
    with suppress(ValueError):
        return json.loads(b'"' + name + b'"') if b"\\" in name else name.decode()
    return None


def whole_lines(file: BinaryIO) -> Iterator[tuple[int, int, bytes | None]]:
    """Yield the finished lines of a file from where it stands: where each begins and ends, and itself, or None if it is too long."""
    begin = file.tell()
    while line := file.readline(LONGEST):
        whole = line.endswith(b"\n")
        length, long = len(line), not whole and len(line) == LONGEST
        while long and not whole:
            more = file.readline(LONGEST)
            if not more:
                return
            length, whole = length + len(more), more.endswith(b"\n")
        if not whole:
            return
        yield begin, begin + length, None if long else line
        begin += length


@contextmanager
def appending(path: Path) -> Iterator[int]:
    """Open a file for adding to it, while no other run does.

    Raises:
        FlashdiffError: as for `safe_open`.
    """
    while True:
        handle = safe_open(path, writing=True)
        try:
            with Line(handle, str(path)):
                if os.fstat(handle).st_nlink:
                    yield handle
                    return
                # Another run has removed it, empty, since it was opened.
        finally:
            os.close(handle)


def append(handle: int, path: Path, text: str, sync: bool) -> None:
    """Add a line, all of it or nothing.

    Args:
        handle: from `appending`.
        path: for messages.
        text: the line, without its end.
        sync: wait until it is on the disk.

    Raises:
        FlashdiffError: the disk refuses; the file is as it was.
    """
    line = (text + "\n").encode()
    size = os.fstat(handle).st_size
    try:
        if size and _last(handle, size) != b"\n":
            line = b"\n" + line  # after what a killed run left unfinished
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(handle, rest) :]
        if sync:
            os.fsync(handle)
    except OSError as error:
        with suppress(OSError):
            os.ftruncate(handle, size)
        raise FlashdiffError(f"{path}: cannot be written ({error.strerror}); choose another `output`") from error


def _last(handle: int, size: int) -> bytes:
    os.lseek(handle, size - 1, os.SEEK_SET)
    return os.read(handle, 1)
