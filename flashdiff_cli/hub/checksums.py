"""Are the files of a model on this machine those that were published? Answered without a network."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.hub.download import sha256_of

SUMS = "SHA256SUMS"
"""Written beside converted and shipped weights, in the format of `sha256sum`."""


@dataclass(frozen=True)
class Check:
    """One file of a model."""

    path: str
    """Below the model's folder."""
    state: str
    """"ok", "damaged", "missing", or "unknown" where no checksum is known."""


def write_sums(folder: Path) -> None:
    """Note the checksum of every file in a folder in its SHA256SUMS."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (SUMS, "README.md"))
    lines = (f"{sha256_of(p)}  {p.relative_to(folder).as_posix()}\n" for p in files)
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def renewed_sums(folder: Path, name: str) -> str | None:
    """The content of a folder's SHA256SUMS with the checksum of one file taken anew; None if it has none.

    All other lines stay, so that a file that is damaged still shows.
    """
    sums = folder / SUMS
    if not sums.exists():
        return None
    lines = [line for line in sums.read_text(encoding="utf-8").splitlines() if line.partition("  ")[2] != name]
    lines.append(f"{sha256_of(folder / name)}  {name}")
    return "".join(line + "\n" for line in sorted(lines, key=lambda line: line.partition("  ")[2]))


def _git_sha1(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _check_blob(path: Path) -> str:
    """The Hub's cache names a blob by its hash: SHA-256 of large files, git's SHA-1 of small ones."""
    name = path.resolve().name
    if not path.exists():
        return "missing"
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return "ok" if sha256_of(path) == name else "damaged"
    if re.fullmatch(r"[0-9a-f]{40}", name):
        return "ok" if _git_sha1(path) == name else "damaged"
    return "unknown"


def check_folder(folder: Path) -> list[Check]:
    """Check every file of a model folder.

    Args:
        folder: with a SHA256SUMS, or a snapshot in the Hub's cache.

    Raises:
        FlashdiffError: the list of checksums itself is damaged.
    """
    sums = folder / SUMS
    if not sums.exists():
        files = sorted(p for p in folder.rglob("*") if not p.is_dir())
        return [Check(p.relative_to(folder).as_posix(), _check_blob(p)) for p in files]
    found = []
    for line in sums.read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"([0-9a-f]{64})  ([^/\\][^\\]*)", line)
        if match is None or ".." in match[2].split("/"):
            raise FlashdiffError(f"{sums}: not a list of checksums ({line[:40]!r}); download or convert the model again")
        path = folder / match[2]
        state = "missing" if not path.is_file() else "ok" if sha256_of(path) == match[1] else "damaged"
        found.append(Check(match[2], state))
    return found
