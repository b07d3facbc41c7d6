"""Files that are there whole or not at all, that replace nothing unasked, and that nobody can read who could not before."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.storage.upload import uploaded
from flashdiff_cli.storage.url import Url

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

TEMPORARY = re.compile(r"\.flashdiff-[0-9a-f]{16}\.part")
"""Names of files that are being written: random, so that nobody can wait for them, and no two runs share one."""
ATTRIBUTES = ("user.", "system.posix_acl_access")
"""Beginnings of the extended attributes that a file keeps when its content is replaced."""
_held: set[Path] = set()
"""Temporary files of this process that may be on the disk."""
_holding = threading.RLock()
_abandoned = threading.Event()
UNLINKED = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What file systems without hard links answer."""


Opener = Callable[[Any], AbstractContextManager[BinaryIO]]
"""Opens a file for writing, as `whole` does, by its path or address."""


@dataclass(frozen=True)
class Finished:
    """A file whose content is on the disk and which has not got its name yet."""

    size: int
    """Bytes."""
    time: int
    """Of its last change, in nanoseconds; it stays when the file gets its name."""
    digest: str
    """SHA-256 of its content, in hexadecimal."""


@contextmanager
def whole(
    path: Path | Url,
    replace: bool = True,
    like: Sequence[Path] = (),
    keep: bool = False,
    ready: Callable[[Finished], bool] | None = None,
) -> Iterator[BinaryIO]:
    """Open a file for writing: first under a temporary name, and moved when all of it is on the disk; folders are made.

    Args:
        path: its name in the end. A link of that name is replaced and never followed.
        replace: whether a file of that name may be replaced; if not, one that is there at the last moment stays.
        like: files that it was made from; nobody may read it who may not read each of them.
        keep: the new content of the file that is there, whose owner, permissions and extended attributes it takes over.
        ready: called when the content is on the disk and nothing has got its name yet; its answer stands instead of `replace`.

    Raises:
        FlashdiffError: the disk or the folder refuses, what is written cannot be put into this kind of file, or there is a
            file that may not be replaced, or something that is no ordinary file.
    """
    if isinstance(path, Url):
        with uploaded(path, replace, None if ready is None else lambda *found: ready(Finished(*found))) as file:
            yield file
        return
    temporary: Path | None = None
    try:
        make_folder(path.parent)
        sweep(path.parent)
        handle, temporary = _create(path.parent)
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            _permit(file.fileno(), path, like, keep)
            os.fsync(file.fileno())
            if ready is not None:
                replace = ready(_finished(file))
            if os.name != "nt":  # Windows cannot move an open file, and has no lock on it that closing would free
                _name(temporary, path, replace)
        if os.name == "nt":
            _name(temporary, path, replace)
    except FileExistsError as error:
        raise FlashdiffError(f"{path}: exists already and is not flashdiff's; choose another name, or pass `overwrite`") from error
    except OSError as error:
        reason = error.strerror or error
        raise FlashdiffError(f"{path}: cannot be written ({reason}); choose another place for it") from error
    except ValueError as error:
        raise FlashdiffError(f"{path}: cannot be written as a file of this kind ({error}); choose another ending") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            _held.discard(temporary)


def abandon() -> None:
    """Remove every temporary file of this process, and let it make no more: it is about to end, whatever its threads still do."""
    with _holding:
        _abandoned.set()
        for path in list(_held):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        OSError: the disk or a folder above refuses, or there is a file of that name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None


def _create(folder: Path) -> tuple[int, Path]:
    """Return a new file that only this process writes, readable by its owner alone, and its name."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    while True:
        path = folder / f".flashdiff-{secrets.token_hex(8)}.part"
        with _holding:
            if _abandoned.is_set():
                raise OSError(errno.EINTR, "interrupted")
            try:
                _held.add(path)  # before it is there: a signal may come between the two
                handle = os.open(path, flags, 0o600)
            except OSError as error:
                _held.discard(path)
                if isinstance(error, FileExistsError):
                    continue
                raise
        if _locked(handle):
            return handle, path
        _held.discard(path)
        os.close(handle)  # another run has just swept it away


def _locked(handle: int) -> bool:
    """Lock a temporary file, so that it is known to be in use; False if it was swept away before."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: nothing is swept there either
        return True
    return os.fstat(handle).st_nlink > 0


def sweep(folder: Path) -> None:
    """Remove what killed runs of the same user have left in a folder: temporary files that no process holds."""
    if fcntl is None:
        return
    with suppress(OSError), os.scandir(folder) as entries:
        for name in [entry.name for entry in entries if TEMPORARY.fullmatch(entry.name)]:
            with suppress(OSError):
                _sweep(folder / name)


def _sweep(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(handle)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    finally:
        os.close(handle)


@lru_cache(maxsize=1)
def _umask() -> int:
    """Return the process's file mode creation mask, which can only be read by setting it."""
    before = os.umask(0o077)
    os.umask(before)
    return before


def _stat(path: Path) -> os.stat_result | None:
    """Return the state of an ordinary file, not of what a link means."""
    with suppress(OSError):
        found = os.lstat(path)
        return found if stat.S_ISREG(found.st_mode) else None
    return None


def _permit(handle: int, path: Path, like: Sequence[Path], keep: bool) -> None:
    """Give an open file its permissions: those of the file that it replaces, or at most those of what it was made from."""
    if os.name == "nt":
        return
    there = _stat(path)
    if keep and there is not None:
        for owner in ((there.st_uid, there.st_gid), (-1, there.st_gid)):
            with suppress(OSError):
                os.fchown(handle, *owner)
                break
        _copy_attributes(path, handle)
        os.fchmod(handle, _narrowed(there.st_mode & 0o7777, os.fstat(handle), [there]))
        return
    bounds = [there] if there is not None else []
    for source in like:
        with suppress(OSError):
            bounds.append(os.stat(source))
    groups = {bound.st_gid for bound in bounds}
    if len(groups) == 1:
        with suppress(OSError):
            os.fchown(handle, -1, groups.pop())
    mode = 0o666 & ~_umask()
    for bound in bounds:
        mode &= bound.st_mode | 0o600
    os.fchmod(handle, _narrowed(mode, os.fstat(handle), bounds))


def _narrowed(mode: int, own: os.stat_result, bounds: Sequence[os.stat_result]) -> int:
    """Return the mode of a file, without rights for a group that is another than that of a file which bounds it."""
    if any(bound.st_gid != own.st_gid for bound in bounds):
        return mode & (~0o070 | (mode & 0o007) << 3)
    return mode


def _copy_attributes(path: Path, handle: int) -> None:
    """Copy extended attributes and access control lists, where the system and the file system have them."""
    if not hasattr(os, "listxattr"):
        return
    with suppress(OSError):
        for name in os.listxattr(path, follow_symlinks=False):
            if name.startswith(ATTRIBUTES):
                with suppress(OSError):
                    os.setxattr(handle, name, os.getxattr(path, name, follow_symlinks=False))


def _finished(file: BinaryIO) -> Finished:
    found = os.fstat(file.fileno())
    file.seek(0)
    return Finished(found.st_size, found.st_mtime_ns, hashlib.file_digest(cast(Any, file), "sha256").hexdigest())  # any binary file will do


@lru_cache(maxsize=1)
def _renamer() -> Callable[[bytes, bytes], int] | None:
    """Return the system's call that gives a file a free name in one step, and refuses one that is taken: Linux and macOS have one."""
    import ctypes

    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None, use_errno=True)
        if hasattr(library, "renameat2"):
            at = -100  # AT_FDCWD
            library.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
            return lambda old, new: 0 if library.renameat2(at, old, at, new, 1) == 0 else ctypes.get_errno()  # RENAME_NOREPLACE
        library.renamex_np.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint]
        return lambda old, new: 0 if library.renamex_np(old, new, 4) == 0 else ctypes.get_errno()  # RENAME_EXCL
    return None


def _rename_new(temporary: Path, path: Path) -> bool:
    """Give a file a name that must be free, in one step; False where the system or the file system cannot.

    Raises:
        FileExistsError: the name is taken.
        OSError: the folder refuses.
    """
    rename = _renamer()
    if rename is None:
        return False
    number = rename(os.fsencode(temporary), os.fsencode(path))
    if number in (errno.EINVAL, errno.ENOSYS, *UNLINKED):
        return False
    if number:
        raise OSError(number, os.strerror(number), str(path))
    return True


def _name(temporary: Path, path: Path, replace: bool) -> None:
    """Give a finished file its name, in one step.

    Raises:
        FileExistsError: there is a file of that name, and it may not be replaced.
    """
    if replace:
        with suppress(FileNotFoundError):
            mode = os.lstat(path).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
                raise OSError(errno.EINVAL, "there is a folder, pipe or device of that name")
        os.replace(temporary, path)
        return
    if os.name == "nt":
        os.rename(temporary, path)  # which replaces nothing there
        return
    if _rename_new(temporary, path):
        return
    try:
        os.link(temporary, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in UNLINKED:
            raise
        # Neither that nor hard links: an empty file takes the name if it is free, and is replaced at once. A run that is killed in
        # between leaves it, and the next one, whose journal knows of it, replaces it.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.replace(temporary, path)
