"""Are the files of a model on this machine those that were published? Answered without a network."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from flashdiff_cli.bounded import open_regular, read_text
from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.hub.download import sha256_of
from flashdiff_cli.hub.paths import within
from flashdiff_cli.pictures.atomic import whole

SUMS = "SHA256SUMS"
"""Written beside converted and shipped weights, in the format of `sha256sum`."""
MOST_FILES = 10_000
"""Of a model's folder: one that has more is none."""


@dataclass(frozen=True)
class Check:
    """One file of a model."""

    path: str
    """Below the model's folder."""
    state: str
    """"ok", "damaged", "missing", "unlisted" where the list of checksums lacks it, or "unknown" where there is no list."""


def _files(folder: Path) -> list[Path]:
    """Return the files of a model's folder, but for the list of checksums and what begins with a dot; links to folders are not followed."""
    found, waiting = [], [folder]
    while waiting:
        for path in waiting.pop().iterdir():
            if path.name.startswith(".") or path == folder / SUMS:
                continue
            if path.is_dir() and not path.is_symlink():
                waiting.append(path)
            else:
                found.append(path)
            if len(found) + len(waiting) > MOST_FILES:
                raise FlashdiffError(f"{folder}: more than {MOST_FILES:,} files; give the model's own folder")
    return sorted(found)


def write_sums(folder: Path) -> None:
    """Note the checksum of every file in a folder in its SHA256SUMS.

    Raises:
        FlashdiffError: a file is none, or a link that leads out of the folder.
    """
    _write(folder, {p.relative_to(folder).as_posix(): _sha256(within(folder, p)) for p in _files(folder)})


def _write(folder: Path, sums: dict[str, str]) -> None:
    """Write a folder's SHA256SUMS, whole or not at all; a link of that name is replaced, never followed.

    Raises:
        FlashdiffError: a name would make a line of its own, or the disk refuses.
    """
    if odd := next((name for name in sums if not name.isprintable()), None):
        raise FlashdiffError(f"{folder}: {odd!r} is no name for a file of a model; rename or remove it")
    with whole(folder / SUMS) as file:
        file.write("".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode())


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()  # any binary file will do


def add_sums(folder: Path, below: Path) -> None:
    """Note the checksums of the files in a folder below a model's in its SHA256SUMS, if it has one; all other lines stay."""
    sums = read_sums(folder) if folder.is_dir() else None
    if sums is None:
        return
    sums |= {p.relative_to(folder).as_posix(): _sha256(within(folder, p)) for p in _files(below)}
    _write(folder, sums)


def renewed_sums(folder: Path, name: str) -> str | None:
    """Return the content of a folder's SHA256SUMS with the checksum of one file taken anew; None if it has none.

    All other lines stay, so that a file that is damaged still shows.
    """
    sums = read_sums(folder)
    if sums is None:
        return None
    sums[name] = sha256_of(folder / name)
    return "".join(f"{sums[key]}  {key}\n" for key in sorted(sums))


def _git_sha1(path: Path) -> str:
    with open_regular(path) as file:
        data = file.read()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _check_blob(path: Path) -> str:
    """Return the Hub's cache names a blob by its hash: SHA-256 of large files, git's SHA-1 of small ones."""
    name = path.resolve().name
    if not path.exists():
        return "missing"
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return "ok" if _sha256(path) == name else "damaged"
    if re.fullmatch(r"[0-9a-f]{40}", name):
        return "ok" if _git_sha1(path) == name else "damaged"
    return "unknown"


def read_sums(folder: Path) -> dict[str, str] | None:
    """Return the checksums by file of a folder's SHA256SUMS; None if it has none.

    Raises:
        FlashdiffError: the list itself is damaged.
    """
    sums = within(folder, folder / SUMS)
    if not sums.exists():
        return None
    found = {}
    for line in read_text(sums).splitlines():
        match = re.fullmatch(r"([0-9a-f]{64})  ([^/\\][^\\]*)", line)
        if match is None or ".." in match[2].split("/"):
            raise FlashdiffError(f"{sums}: not a list of checksums ({line[:40]!r}); download or convert the model again")
        found[match[2]] = match[1]
    return found


def check_file(folder: Path, path: Path) -> None:
    """Check one file of a model before it is used.

    Args:
        folder: the model's, with a SHA256SUMS, a snapshot in the Hub's cache, or neither.
        path: below it.

    Raises:
        FlashdiffError: it is not the file that the list names, the list does not name it, or it lies outside the folder.
    """
    sums = read_sums(folder)
    if not within(folder, path).exists():
        return
    if sums is None:
        if folder.resolve().parent.name == "snapshots" and _check_blob(path) == "damaged":
            raise FlashdiffError(f"{path}: damaged (not what the Hub has under this name); run: flashdiff models pull, which fetches it again")
        return
    name = path.relative_to(folder).as_posix()
    if name not in sums:
        raise FlashdiffError(f"{path}: not in {SUMS}; if you put it there, run: flashdiff models checksums {folder}")
    if _sha256(path) != sums[name]:
        raise FlashdiffError(f"{path}: damaged or changed (its checksum is not that of {SUMS}); fetch or convert the model again")


def check_folder(folder: Path) -> list[Check]:
    """Check every file of a model folder, and look for files that its list of checksums lacks.

    Args:
        folder: with a SHA256SUMS, or a snapshot in the Hub's cache.

    Raises:
        FlashdiffError: the list of checksums itself is damaged, or a link leads out of the folder.
    """
    sums = read_sums(folder)
    here = _files(folder)
    if sums is None:
        return [Check(p.relative_to(folder).as_posix(), _check_blob(within(folder, p))) for p in here]
    found = []
    for name, sha256 in sums.items():
        path = within(folder, folder / name)
        found.append(Check(name, "missing" if not path.is_file() else "ok" if _sha256(path) == sha256 else "damaged"))
    names = {p.relative_to(folder).as_posix() for p in here}
    return found + [Check(name, "unlisted") for name in sorted(names - set(sums))]
