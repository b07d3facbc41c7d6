"""One file from a plain web server: resumed where it stopped, checked, and moved into place when it is whole."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.version import __version__

CHUNK = 1 << 20
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as lost."""
Report = Callable[[str, int, int | None], None]
"""Called with (file, bytes so far, bytes in all or None)."""


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, target: Path, sha256: str | None = None, report: Callable[[int, int | None], None] | None = None) -> Path:
    """Fetch a file. What an interrupted call has fetched stays in `<target>.part`, and the next call goes on from there.

    Args:
        url: http or https.
        target: final name.
        sha256: expected; None: not checked.
        report: called with (bytes so far, bytes in all or None).

    Returns:
        `target`.

    Raises:
        FlashdiffError: no connection, an error from the server, a connection lost on the way, or a wrong checksum (the
            file is then removed).
    """
    part, tag = target.with_name(target.name + ".part"), target.with_name(target.name + ".part.etag")
    target.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": f"flashdiff/{__version__}"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag.exists():
            # The server sends all of it if the file is another one by now.
            headers["If-Range"] = tag.read_text()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as reply:
            if reply.headers.get_content_type() == "text/html":
                raise FlashdiffError(f"{url}: the server sent a web page instead of a file; fetch it with a browser and convert it by hand")
            resumed = reply.status == 206
            have = have if resumed else 0
            length = reply.headers.get("Content-Length")
            total = have + int(length) if length else None
            if etag := reply.headers.get("ETag"):
                tag.write_text(etag)
            with open(part, "ab" if resumed else "wb") as file:
                while chunk := reply.read(CHUNK):
                    file.write(chunk)
                    have += len(chunk)
                    if report:
                        report(have, total)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            part.unlink(missing_ok=True)
            raise FlashdiffError(f"{url}: the file has changed since the download began; run again") from error
        raise FlashdiffError(f"{url}: the server answers {error.code} ({error.reason}); has the file moved?") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise FlashdiffError(f"{url}: no connection ({reason}); {have >> 20} MB are kept, run again to go on from there") from error
    if total is not None and have < total:
        raise FlashdiffError(f"{url}: the connection was lost after {have >> 20} of {total >> 20} MB; run again to go on from there")
    if sha256 and (found := sha256_of(part)) != sha256:
        part.unlink()
        tag.unlink(missing_ok=True)
        raise FlashdiffError(f"{url}: wrong checksum (SHA-256 {found[:12]}..., expected {sha256[:12]}...); it was removed, run again")
    part.replace(target)
    tag.unlink(missing_ok=True)
    return target
