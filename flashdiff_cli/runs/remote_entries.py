"""The journal of a folder in an object store, where nothing can be added to a file and nothing be locked.

It is a folder, `.flashdiff/`, of objects with one line each, written before the result that it tells of; at the end of a run small ones are
made one. Lines are read into a file of this machine and looked up there, as in any journal.
"""

from __future__ import annotations

import re
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.runs.entries import MOST_LINES, Entries, Entry
from flashdiff_cli.runs.lines import LARGEST
from flashdiff_cli.storage import listing
from flashdiff_cli.storage.upload import send
from flashdiff_cli.storage.url import Url, stat_of_info

FOLDER = ".flashdiff"
PART = re.compile(r"[0-9a-f]{24}\.jsonl")
SMALL, TOGETHER = 4 << 20, 64 << 20
"""Bytes of a part that is made one with others, and of what is made of them, at most."""
AT_ONCE, CONNECTIONS = 1000, 16
"""Parts that are held in memory, and asked for side by side."""
MOST_LOOKED = 10_000
"""Names that are remembered with what a look at them has told."""
T = TypeVar("T")


def _each(call: Callable[[str], T], names: Sequence[str]) -> list[T]:
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return list(pool.map(call, names))


def _content(part: Url) -> bytes | None:
    """Return the content of a part; None: another run has made it one with others."""
    try:
        return part.read(LARGEST, "remove it")
    except FileNotFoundError:
        return None


def _remove(part: Url) -> None:
    with suppress(FileNotFoundError):
        part.ask("removed", lambda fs, path: fs.rm_file(path))


class RemoteEntries(Entries):
    """As `Entries`, of a folder that is an address."""

    def __init__(self, folder: Url):
        self.folder = folder
        self.place = folder / FOLDER
        self._room = tempfile.TemporaryDirectory(prefix="flashdiff-", ignore_cleanup_errors=True)
        self._parts: dict[str, int] = {}
        self._listed: dict[str, list[int]] | None = None
        super().__init__(Path(self._room.name))

    def refresh(self, name: str | None = None) -> None:
        """Read what has been added since; of the folder's files all, or only `name`, are looked at anew."""
        if name is None or self._listed is None:
            self._listed = None
        else:
            found = (self.folder / name).stat()
            self._listed.pop(name, None)
            if found is not None:
                self._listed[name] = found
            if found is None or self._knows(name, found):
                return
        self._read()

    def _read(self) -> None:
        """Bring what has been added to the journal, and read it."""
        try:
            self._fetch()
        except FlashdiffError as error:
            self.trouble = str(error)
            return
        super().refresh()

    def _knows(self, name: str, stat: list[int]) -> bool:
        return any(entry.target_stat[:2] == stat for entry, _ in self.of(name))

    def _list(self) -> dict[str, int]:
        """Return the parts that there are, and their bytes."""
        return {name: info.get("size") or 0 for name, info in listing.entries(self.place) if PART.fullmatch(name)}

    def _fetch(self) -> None:
        """Bring the parts that are not here yet; those that are made one meanwhile are found in the next list."""
        for _ in range(8):
            found = self._list()
            if sum(found.values()) > LARGEST or len(found) > MOST_LINES:
                raise FlashdiffError(f"{self.place}: larger than flashdiff makes it; remove it or choose another `output`")
            new = [name for name in found if name not in self._parts]
            missing = False
            for i in range(0, len(new), AT_ONCE):
                missing |= not self._bring(new[i : i + AT_ONCE], found)
            if not missing:
                return
        raise FlashdiffError(f"{self.place}: changes faster than it can be read; run again")

    def _bring(self, names: list[str], sizes: dict[str, int]) -> bool:
        """Add parts to the local file; False: some are gone."""
        got = _each(lambda name: _content(self.place / name), names)
        with open(self.path, "ab") as file:
            for name, data in zip(names, got, strict=True):
                if data is not None:
                    file.write(data if data.endswith(b"\n") else data + b"\n")
                    self._parts[name] = sizes[name]
        return None not in got

    def of(self, name: str) -> Iterator[tuple[Entry, list[int] | None]]:
        """Yield what `Entries.of` does; a store's version tells of the content itself, so that it is what it was written as."""
        for entry, _ in super().of(name):
            yield entry, entry.target_stat

    def _files(self) -> dict[str, list[int]]:
        if self._listed is None:
            self._listed = {name: stat_of_info(info) for name, info in listing.entries(self.folder) if info.get("type") == "file" and name != FOLDER}
        return self._listed

    def has(self, name: str) -> bool:
        """Return whether there is a file of that name, as far as it was looked at."""
        return name in self._files()

    def stat(self, name: str) -> list[int] | None:
        """Return bytes and version of a file, as far as it was looked at; None: there is none."""
        return self._files().get(name)

    def add(self, line: str) -> None:
        """Write a line; it is in the store when this returns.

        Raises:
            FlashdiffError: the store refuses.
        """
        data, name = (line + "\n").encode(), f"{secrets.token_hex(12)}.jsonl"
        send(self.place / name, data, replace=False)
        with self._lock:
            with open(self.path, "ab") as file:
                file.write(data)
            self._parts[name] = len(data)
        super().refresh()

    def written(self, name: str, stat: list[int]) -> None:
        """Note that a file has got its name."""
        self._files()[name] = stat

    def unite(self) -> None:
        """Make the small parts few. Whatever is killed here leaves lines twice, never none.

        Raises:
            FlashdiffError: the store refuses.
        """
        parts = self._list()
        while len(small := _together(parts)) > 1:
            got = _each(lambda name: _content(self.place / name), small)
            name, data = f"{secrets.token_hex(12)}.jsonl", b"".join(part for part in got if part is not None)
            if not data:
                return
            send(self.place / name, data, replace=False)
            _each(lambda name: _remove(self.place / name), small)
            if all(part in self._parts for part in small):  # what it says is here
                self._parts[name] = len(data)
            parts = {part: length for part, length in parts.items() if part not in set(small)} | {name: len(data)}


def _together(parts: dict[str, int]) -> list[str]:
    """Return the names of small parts that one is to be made of."""
    small, size = [], 0
    for name, length in sorted(parts.items()):
        if length < SMALL and size + length <= TOGETHER:
            small.append(name)
            size += length
    return small


class LookedUp(RemoteEntries):
    """As `RemoteEntries`, for a process that does a few of many pictures: a name is looked up when it is asked for, and the journal is read when a
    file is there that it does not know."""

    def __init__(self, folder: Url):
        self._looked: dict[str, list[int] | None] = {}
        super().__init__(folder)

    def refresh(self, name: str | None = None) -> None:
        """Look a name up again; `None`: those that were looked at are forgotten."""
        if name is None or len(self._looked) > MOST_LOOKED:
            self._looked.clear()
        if name is None:
            return
        found = self._looked[name] = (self.folder / name).stat()
        if found is not None and not self._knows(name, found):
            self._read()

    def stat(self, name: str) -> list[int] | None:
        """Bytes and version of a file; None: there is none."""
        if name not in self._looked:
            self.refresh(name)
        return self._looked[name]

    def has(self, name: str) -> bool:
        """Return whether there is a file of that name."""
        return self.stat(name) is not None

    def written(self, name: str, stat: list[int]) -> None:
        """Note that a file has got its name."""
        self._looked[name] = stat
