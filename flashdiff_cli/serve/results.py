"""What visitors of the page get: files in a folder for each visit, kept while it lasts and for an hour after."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.serve.worker import Answer

KEPT = 3600
"""Seconds after which uploads and results of visitors are removed."""
SWEPT = 300
"""Seconds between two looks at what has been kept long enough."""


@dataclass
class Done:
    """What a visit has made so far: files in a folder of its own; only the last answer stays in memory."""

    folder: Path
    last: Answer | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def take(self, uploads: Sequence[str]) -> list[Path]:
        """Bring uploads into the folder, where they stay until it is their turn; return their paths there, also of those that are missing."""
        given = self.folder / "given"
        given.mkdir()
        taken = [given / str(number) for number in range(len(uploads))]
        for upload, path in zip(uploads, taken, strict=True):
            with suppress(FileNotFoundError):
                try:
                    os.link(upload, path)
                except FileNotFoundError:
                    raise
                except OSError:  # a file system without links
                    shutil.copyfile(upload, path)
        return taken

    def keep(self, answer: Answer) -> None:
        """Write an answer's files; equal names are counted."""
        path = self._free(answer.name)
        path.write_bytes(answer.data)
        self.last = answer
        self.records.append(answer.record)
        self.names.append(answer.name)
        self.files.append(path)
        if answer.severity_map is not None:
            mapped = self._free(f"{path.stem}-severity.png")
            mapped.write_bytes(answer.severity_map)
            self.files.append(mapped)

    def _free(self, name: str) -> Path:
        stem, dot, ending = name.rpartition(".")
        path, number = self.folder / name, 2
        while path.exists():
            path, number = self.folder / f"{stem}-{number}{dot}{ending}", number + 1
        return path

    def keep_mask(self, mask: bytes | None) -> None:
        """Write the mask that was painted, which the command line takes."""
        if mask is not None:
            self.files.append(self._free("mask.png"))
            self.files[-1].write_bytes(mask)

    def shown(self, what: str, data: bytes) -> str:
        """Write a JPEG or PNG for the page; return its path."""
        path = self.folder / "shown"
        path.mkdir(exist_ok=True)
        path /= what
        path.write_bytes(data)
        return str(path)

    def zipped(self) -> str:
        """Write all results, their records and what failed into one archive; return its path."""
        path = self.folder / "restored.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for file in self.files:
                archive.write(file, file.name)
            archive.writestr("records.jsonl", "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in self.records))
            if self.failed:
                archive.writestr("failed.txt", "\n".join(self.failed) + "\n")
        return str(path)


def taken_bytes(path: Path, name: str) -> bytes:
    """Return the bytes of an upload that was taken, and remove it.

    Raises:
        FlashdiffError: it is no longer there.
    """
    try:
        data = path.read_bytes()
        path.unlink()
    except OSError:
        raise FlashdiffError(f"{name}: is no longer here, since uploads are removed after an hour; drop it again") from None
    return data


class Results:
    """The folders of all visits.

    Args:
        folder: that they are made in.
        uploads: folder of what visitors have sent.
    """

    def __init__(self, folder: Path, uploads: Path):
        self.folder, self.uploads = folder, uploads
        self._visited: set[Path] = set()
        self._lock = threading.Lock()

    @contextmanager
    def visit(self) -> Iterator[Done]:
        """Give a folder that stays as long as the visit lasts, and an hour longer."""
        with self._lock:
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            self._visited.add(folder)
        try:
            yield Done(folder)
        finally:
            shutil.rmtree(folder / "given", ignore_errors=True)
            with self._lock:
                with suppress(OSError):
                    os.utime(folder)
                self._visited.discard(folder)

    def sweep(self) -> None:
        """Remove results and uploads that have been kept long enough."""
        before = time.time() - KEPT
        with self._lock:
            for old in self.folder.iterdir():
                if old not in self._visited and _older(old, before):
                    shutil.rmtree(old, ignore_errors=True)
        for folder, _, names in os.walk(self.uploads, topdown=False):
            for name in names:
                path = Path(folder, name)
                if _older(path, before):
                    with suppress(OSError):
                        path.unlink()


def _older(path: Path, before: float) -> bool:
    """Return whether a file or folder was last changed before a time; copies may have their original's time of change."""
    try:
        found = path.stat()
    except OSError:
        return False
    return max(found.st_mtime, 0 if path.is_dir() else found.st_ctime) < before


__all__ = ["KEPT", "SWEPT", "Done", "Results", "taken_bytes"]
