"""Pictures that are no files of this machine: an address of fsspec with the face of a path.

It is a small class of its own, because a run names millions of them: the universal paths of the libraries cost a hundred times more each.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path, PurePath, PurePosixPath
from typing import Any
from urllib.parse import unquote

from flashdiff_cli.errors import FlashdiffError, UsageError

ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*(://|::)")
WEB = ("http", "https")
ARCHIVES = {".zip": "zip", ".tar": "tar", ".tar.gz": "tar", ".tgz": "tar", ".tar.bz2": "tar", ".tar.xz": "tar"}
"""Endings of archives whose members are taken for the pictures of a folder, and their protocols."""
COMPRESSIONS = {".gz": "gzip", ".tgz": "gzip", ".bz2": "bz2", ".xz": "xz"}
READ_ONLY = frozenset({*WEB, "zip", "tar", "libarchive", "data", "git", "github", "gist", "reference"})
"""Protocols that only read, or that would have to write a whole archive anew."""
EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "azure"),
    **dict.fromkeys(WEB, "http"),
}
"""The extra of this package that brings a protocol's driver."""
_VERSIONS = (
    *("ETag", "etag", "blob_id", "CRC", "generation"),
    *("Last-Modified", "LastModified", "last_modified", "mtime", "chksum", "created", "modified"),
)
"""What drivers call something that changes with the content, the surest first."""


SECRETS = (
    (re.compile(r"(://[^/@:\s]*):[^/@\s]+@"), r"\1:...@"),
    (re.compile(r"([?&;][^=&;#\s]*(?:sig|token|secret|passw|credential|key|auth)[^=&;#\s]*)=[^&;#\s]+", re.IGNORECASE), r"\1=..."),
)
"""What in an address is nobody's business (a password, the signature of one that was signed), and what stands for it where it is shown."""


def shown(text: str) -> str:
    """Return an address, or words that hold some, without passwords and signatures."""
    # What GitHub's addresses have there is a repository's name.
    for pattern, instead in SECRETS[text.startswith("github:") :]:
        text = pattern.sub(instead, text)
    return text


def suffix_of(name: str) -> str:
    """Return the ending of a file's name with its dot, as `Path.suffix` has it."""
    dot = name.rfind(".")
    return name[dot:] if 0 < dot < len(name) - 1 else ""


class Url:
    """An address, e.g. `s3://bucket/folder/a.jpg` or `zip://a.jpg::s3://bucket/all.zip`.

    Args:
        text: the address.
        known: bytes and version as a listing has told them, see `stat`.
    """

    __slots__ = ("known", "text")

    def __init__(self, text: str, known: tuple[int, int] | None = None):
        self.text, self.known = text, known

    def __str__(self) -> str:
        """Return what messages, records and journals name it by; `text` has all of it."""
        return shown(self.text)

    def __repr__(self) -> str:
        return f"Url({shown(self.text)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and self.text == other.text

    def __lt__(self, other: object) -> bool:
        return self.text < (other.text if isinstance(other, Url) else str(other))

    def __hash__(self) -> int:
        return hash(self.text)

    def _split(self) -> tuple[str, str, str]:
        """Return (protocol with "://", path, what follows it: the archive, or a query)."""
        head, mark, chain = self.text.partition("::")
        protocol, _, path = head.partition("://")
        tail = mark + chain
        if protocol in WEB:
            path, mark, query = path.partition("?")
            tail = mark + query + tail
        return f"{protocol}://", path, tail

    @property
    def protocol(self) -> str:
        """The first part of the address, in small letters."""
        return self.text.partition(":")[0].lower()

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written there."""
        return self.protocol in READ_ONLY or "::" in self.text

    @property
    def name(self) -> str:
        """The last part, as a file's name."""
        name = posixpath.basename(self._split()[1].rstrip("/"))
        return unquote(name) if self.protocol in WEB else name

    @property
    def suffix(self) -> str:
        """The name's ending."""
        return suffix_of(self.name)

    @property
    def stem(self) -> str:
        """The name without its ending."""
        name = self.name
        return name.removesuffix(suffix_of(name))

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the path."""
        return tuple(part for part in self._split()[1].split("/") if part)

    @property
    def parent(self) -> Url:
        """The folder above."""
        protocol, path, tail = self._split()
        above = posixpath.dirname(path.rstrip("/"))
        return Url(protocol + above + ("" if protocol[:-3] in WEB else tail))

    def with_name(self, name: str) -> Url:
        """Return another name in the same folder."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> Url:
        """Return the same name with another ending."""
        return self.with_name(self.stem + suffix)

    def __truediv__(self, below: str | PurePath) -> Url:
        begin, end = self.around
        return Url(f"{begin}{PurePosixPath(below)}{end}")

    @property
    def around(self) -> tuple[str, str]:
        """What stands before and after the name of a thing in this folder, in its address."""
        protocol, path, tail = self._split()
        return protocol + (f"{path.rstrip('/')}/" if path else ""), "" if protocol[:-3] in WEB else tail

    def absolute(self) -> Url:
        """Return itself: an address depends on no present folder."""
        return self

    def bare(self) -> Url:
        """Return the address without what a listing has told of it."""
        return Url(self.text)

    @property
    def storage(self) -> tuple[Any, str]:
        """The driver's file system, and the path in its own terms.

        Raises:
            UsageError, FlashdiffError: as for `open_storage`.
        """
        fs = self.open_storage()
        return fs, fs._strip_protocol(self.text.partition("::")[0])

    def open_storage(self) -> Any:
        """Return the driver's file system, which serves all pictures of a store or an archive.

        Raises:
            UsageError: the protocol is unknown, or its driver is not installed.
            FlashdiffError: it is an archive that cannot be opened.
        """
        head, mark, chain = self.text.partition("::")
        protocol = head.partition("://")[0]
        return _file_system(f"{protocol}://{mark}{chain}" if mark else f"{protocol}://{self._split()[1].split('/')[0]}")

    def ask(self, what: str, ask: Callable[[Any, str], Any]) -> Any:
        """Return what a driver answers; whatever it raises is one line that names the address."""
        try:
            return ask(*self.storage)
        except (FlashdiffError, FileNotFoundError, FileExistsError):
            raise
        except Exception as error:  # every driver has errors of its own
            reason = shown(" ".join(str(error).split()))[:200] or type(error).__name__
            raise FlashdiffError(f"{self}: cannot be {what} ({reason}); look at the address, the network and the credentials") from error

    def info(self) -> dict[str, Any] | None:
        """Return what the store says of it now; None: there is nothing.

        Raises:
            FlashdiffError: the store cannot be asked.
        """
        try:
            return self.ask("looked up", lambda fs, path: fs.info(path))
        except FileNotFoundError:
            return None

    def exists(self) -> bool:
        """Return whether there is something now."""
        return self.info() is not None

    def is_dir(self) -> bool:
        """Return whether it is a folder, or names begin with it as if it were one."""
        if self.text.endswith("/") or not self._split()[1]:
            return True
        if self.protocol in WEB:
            return False  # pages and pictures look alike; a folder's address ends with a stroke
        return (self.info() or {}).get("type") == "directory"

    def is_file(self) -> bool:
        """Return whether it is a file now."""
        return (self.info() or {}).get("type") == "file"

    def stat(self) -> list[int] | None:
        """Return bytes, and a number that changes with the content, as a listing has told them or as they are now; None: no file."""
        if self.known is not None:
            return list(self.known)
        found = self.info()
        return None if found is None or found.get("type") == "directory" else stat_of_info(found)

    def read(self, limit: int, remedy: str) -> bytes:
        """Return all of it.

        Args:
            limit: bytes at most.
            remedy: what to do about a larger one, for the message.

        Raises:
            FileNotFoundError: it is not there.
            FlashdiffError: it cannot be read, or is larger.
        """

        def read(fs: Any, path: str) -> tuple[bytes, int]:
            with fs.open(path, "rb") as file:
                size = getattr(file, "size", None) or 0
                # One byte more shows that there is more.
                return (b"" if size > limit else file.read(limit + 1)), size

        data, size = self.ask("read", read)
        if max(size, len(data)) > limit:
            raise FlashdiffError(f"{self}: {max(size, len(data)):,} bytes, more than the {limit:,} that are read of such a file; {remedy}")
        return data


@lru_cache(maxsize=64)
def _file_system(root: str) -> Any:
    import fsspec

    protocol = root.split(":")[0].lower()
    # Listings are asked for when they are wanted, and of millions of names none is kept.
    options: dict[str, Any] = {"skip_instance_cache": True} if "::" in root else {"use_listings_cache": False}
    if protocol == "tar":
        options["tar"] = {"compression": next((kind for ending, kind in COMPRESSIONS.items() if root.lower().endswith(ending)), None)}
    try:
        return fsspec.core.url_to_fs(root, **options)[0]
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        remedy = f'pip install "flashdiff[{extra}]"' if extra else "install it"
        raise UsageError(f"{protocol}:// needs a driver that is not installed ({error}); {remedy}") from error
    except ValueError as error:
        raise UsageError(f"{shown(root)}: {shown(str(error))}; give s3://, gs://, az://, hf://, https://, or a path") from error
    except Exception as error:  # every driver has errors of its own
        reason = shown(" ".join(str(error).split()))[:200] or type(error).__name__
        raise FlashdiffError(f"{shown(root)}: cannot be opened ({reason}); look at the address, the file and the credentials") from error


def forget() -> None:
    """Open stores and archives anew when they are next asked for."""
    _file_system.cache_clear()


def _md5_of(info: dict[str, Any]) -> str | None:
    """Return the MD5 of a file's content in hexadecimal, where the store tells it."""
    import base64

    etag = str(info.get("ETag") or "").strip('"')
    if re.fullmatch(r"[0-9a-f]{32}", etag):
        return etag
    settings = info.get("content_settings")
    found = info.get("md5Hash") or (settings.get("content_md5") if isinstance(settings, dict) else None)
    if isinstance(found, (bytes, bytearray)):
        return bytes(found).hex()
    return base64.b64decode(found).hex() if isinstance(found, str) else None


def token(version: str) -> int:
    """Return a number for a version's name."""
    return int.from_bytes(hashlib.sha256(version.encode()).digest()[:7], "big")


def content_token(data: bytes) -> int:
    """Return the number of a content, by which stores that tell a file's MD5 are known to hold it."""
    return token(f"md5:{hashlib.md5(data, usedforsecurity=False).hexdigest()}")


def stat_of_info(info: dict[str, Any]) -> list[int]:
    """Return bytes and version of a file, from what a driver says of it; a version that is not told equals none."""
    size = info.get("size")
    md5 = _md5_of(info)
    version = f"md5:{md5}" if md5 else next((f"{key}:{info[key]}" for key in _VERSIONS if info.get(key)), None)
    return [-1 if size is None else int(size), time.time_ns() if version is None else token(version)]


def location(text: str | Path | Url) -> Path | Url:
    """Return a path, or the address of something that is no file of this machine."""
    if isinstance(text, (Path, Url)):
        return text
    found = ADDRESS.match(text)
    # A file of this machine may be called `a::b.png`.
    if found is None or (found[1] == "::" and os.path.lexists(text)):
        return Path(text)
    if text[: found.start(1)].lower() in ("file", "local"):
        return Path(text[found.end() :])
    return Url(text)


def archive(path: Path | Url) -> Url | None:
    """Return the folder that an archive is; None: it is no archive, by its name, or a folder has such a name."""
    name = path.name.lower()
    protocol = next((kind for ending, kind in ARCHIVES.items() if name.endswith(ending)), None)
    if protocol is None or (isinstance(path, Path) and not path.is_file()):
        return None
    return Url(f"{protocol}://::{path.text if isinstance(path, Url) else path}")
