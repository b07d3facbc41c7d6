"""Files of strangers: only regular ones are opened, only so many bytes are read, and what is wrong with one is a single line."""

from __future__ import annotations

import json
import os
import reprlib
import stat
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from flashdiff_cli.errors import FlashdiffError

KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}
JSON_BYTES, TOML_BYTES, JSON_DEPTH = 4 << 20, 1 << 20, 32
"""Of a configuration: size of the file, and how deeply lists and objects may be nested."""

_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxlong, _short.maxother = 3, 60, 30, 60


def short(value: Any) -> str:
    """Return `repr` of a value that may be huge, cut to something that fits into a message."""
    return _short.repr(value)


def _check_regular(mode: int, path: str | Path) -> None:
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(21, "a folder, not a file", str(path))
    if kind != stat.S_IFREG:
        raise FlashdiffError(f"{path}: {KINDS.get(kind, 'something else')}, not a file; give a regular file")


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; pipes, devices and sockets are refused before they are opened, and never waited for.

    Raises:
        OSError: it is missing, is a folder, or cannot be read.
        FlashdiffError: it is no regular file, or no file can have this name.
    """
    try:
        # Opening some devices has effects of its own, so the kind is looked up before and, against a swap, after.
        _check_regular(os.stat(path).st_mode, path)
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
    except ValueError as error:
        raise FlashdiffError(f"{path!r}: no file can have this name ({error})") from error
    try:
        _check_regular(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: str | Path, limit: int, remedy: str = "is it the right file?") -> bytes:
    """Return all of a regular file that has at most `limit` bytes.

    Args:
        path: of the file.
        limit: in bytes.
        remedy: what to do about a larger one, for the message.

    Raises:
        OSError, FlashdiffError: as `open_regular`; or the file is larger.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # One byte more shows a file that grows, or one that hides its size.
        data = b"" if size > limit else file.read(limit + 1)
    if max(size, len(data)) > limit:
        raise FlashdiffError(f"{path}: {max(size, len(data)):,} bytes, more than the {limit:,} that are read of such a file; {remedy}")
    return data


def read_text(path: str | Path, limit: int = JSON_BYTES) -> str:
    """Read as `read_bounded` does, decoded from UTF-8, a byte order mark left out.

    Raises:
        OSError, FlashdiffError: as `read_bounded`; or it is no UTF-8.
    """
    try:
        return read_bounded(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FlashdiffError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return a TOML file of bounded size and nesting.

    Raises:
        OSError, FlashdiffError: as `read_text`.
        ValueError: it is no TOML.
    """
    try:
        found = tomllib.loads(read_text(path, TOML_BYTES))
        check_depth(found)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return found


def check_depth(value: Any, limit: int = JSON_DEPTH) -> None:
    """Raise a ValueError if lists and mappings are nested more deeply than `limit`. A value that occurs twice is looked at once."""
    level, seen = [value], set()
    for _ in range(limit + 1):
        below = []
        for item in level:
            if isinstance(item, (dict, list, tuple)) and id(item) not in seen:
                seen.add(id(item))
                below += item.values() if isinstance(item, dict) else item
        level = below
        if not any(isinstance(item, (dict, list, tuple)) for item in level):
            return
    raise ValueError(f"nested more than {limit} levels deep")


def parse_json(text: str) -> Any:
    """Return a JSON value, strictly: no NaN or Infinity, bounded nesting.

    Raises:
        ValueError: it is none.
    """

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON number")

    try:
        found = json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    check_depth(found)
    return found


@contextmanager
def in_one_line(what: str | Path, remedy: str, error: type[FlashdiffError] = FlashdiffError) -> Iterator[None]:
    """Turn whatever a file's content makes the code inside raise into one error that names the file.

    Args:
        what: the file, or part of one.
        remedy: what to do, after the cause.
        error: class of what is raised.

    Raises:
        FlashdiffError: something failed; one that names its cause already passes through.
    """
    try:
        yield
    except FlashdiffError:
        raise
    except RecursionError as cause:
        raise error(f"{what}: nested too deeply; {remedy}") from cause
    except MemoryError as cause:
        raise error(f"{what}: needs more memory than there is; {remedy}") from cause
    except Exception as cause:
        reason = " ".join(str(cause).split())[:160]
        raise error(f"{what}: {type(cause).__name__}{f' ({reason})' if reason else ''}; {remedy}") from cause
