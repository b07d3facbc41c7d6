"""What a folder's journal says of each file, read when it is asked for: the last valid line of it, a line at a time."""

from __future__ import annotations

import json
import os
import threading
from array import array
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.runs.content import stat_of
from flashdiff_cli.runs.lines import LONGEST, key, safe_open, whole_lines
from flashdiff_cli.runs.record import Record

NAME = ".flashdiff.jsonl"
MOST_LINES, MOST_PASSED = 2_000_000, 10_000
"""Lines of a journal, and lines among them that are not flashdiff's, at most."""
_NO_OTHERS, _NEW = b'"others": []', b'"target_digest": '
LOOKED_AT, LOOKED_AT_BYTES = 200, 16 << 20
"""Lines of one file that are looked at, the last ones, and their bytes: a run's have some thousand each."""
_PATH, _WORD = 32768, 4096
"""Letters of a path, and of anything else, at most."""


def _text(value: Any, longest: int = _WORD) -> str:
    if not isinstance(value, str) or len(value) > longest or "\0" in value:
        raise ValueError
    return value


def _numbers(value: Any, fewest: int, most: int) -> list[int]:
    if not isinstance(value, list) or not fewest <= len(value) <= most:
        raise ValueError
    if not all(isinstance(n, int) and not isinstance(n, bool) and abs(n) < 2**64 for n in value):
        raise ValueError
    return value


def _digest(value: Any) -> str | None:
    if value is not None and (len(_text(value, 64)) != 64 or set(value) - set("0123456789abcdef")):
        raise ValueError
    return value


def plain_name(value: Any) -> str:
    """Return a file's name, without a folder.

    Raises:
        ValueError: it is none.
    """
    name = _text(value)
    if name in ("", ".", "..") or "/" in name or os.sep in name:
        raise ValueError
    return name


@dataclass
class Entry:
    """One line: which file was about to get its name, and from what it was made."""

    output: str
    source: str
    in_place: bool
    settings: str
    source_stat: list[int] | None
    """As `content.stat_of`, or its first two numbers."""
    source_digest: str | None
    target_stat: list[int]
    """Of what was written: as much as was known before it had its name, bytes and time."""
    target_digest: str | None
    of: str | None = None
    """The picture that it goes with: a map, a sample, a mean."""
    record: Record | None = None
    others: list[str] = field(default_factory=list)
    """Names of what older versions wrote besides."""

    @classmethod
    def of_line(cls, values: Any) -> Entry:
        """Make an entry from a line's values.

        Raises:
            ValueError: they are not what flashdiff writes.
        """
        if not isinstance(values, dict):
            raise ValueError
        of, record = values.get("of"), values.get("record")
        if not isinstance(values.get("in_place", False), bool):
            raise ValueError
        stat = values.get("source_stat")
        record = None if record is None else Record.of_stranger(record)
        return cls(
            output=plain_name(values.get("output")),
            source=_text(values.get("source"), _PATH),
            in_place=values.get("in_place", False),
            settings=_text(values.get("settings")),
            source_stat=None if stat is None else _numbers(stat, 2, 4),
            source_digest=_digest(values.get("source_digest")),
            target_stat=_numbers(values.get("target_stat"), 2, 4),
            target_digest=_digest(values.get("target_digest")),
            of=None if of is None else plain_name(of),
            record=record,
            others=[Path(path).name for path in record.others] if record is not None else [],
        )


class Entries:
    """The journal of one folder. Its lines stay on the disk; what is kept is where each file's lines begin."""

    def __init__(self, folder: Path):
        self.path = folder / NAME
        self.trouble: str | None = None
        """Why it cannot be used, for people."""
        self._lock = threading.Lock()
        self._reset()
        self.refresh()

    def _reset(self) -> None:
        self._places: dict[str, array] = {}
        self._others: set[str] = set()
        self._passed: set[int] = set()
        self._end, self._lines, self._file = 0, 0, (0, 0)

    def refresh(self, name: str | None = None) -> None:
        """Read what has been added since; `name`: the one file that is asked for."""
        with self._lock:
            self._refresh()

    def _refresh(self) -> None:
        self.trouble = None
        try:
            handle = safe_open(self.path)
        except FileNotFoundError:
            self._reset()
            return
        except FlashdiffError as error:
            self._reset()
            self.trouble = str(error)
            return
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            if (found.st_dev, found.st_ino) != self._file or found.st_size < self._end:
                self._reset()
                self._file = (found.st_dev, found.st_ino)
            file.seek(self._end)
            for begin, end, line in whole_lines(file):
                self._end = end
                self._lines += 1
                name = None if line is None else key(line)
                if line is not None and name is not None:
                    self._places.setdefault(name, array("q")).append(begin)
                    if b'"others": ' in line and _NO_OTHERS not in line and _NEW not in line:
                        self._note_others(line)
                elif line is None or line.strip():
                    self._passed.add(begin)
                if self._lines > MOST_LINES or len(self._passed) > MOST_PASSED:
                    self.trouble = f"{self.path}: more lines than flashdiff writes; remove it or choose another `output`"
                    return

    @property
    def passed(self) -> int:
        """Lines that are not flashdiff's, as far as they were looked at."""
        return len(self._passed)

    def _note_others(self, line: bytes) -> None:
        with suppress(ValueError, RecursionError):
            self._others.update(Entry.of_line(json.loads(line, parse_constant=lambda name: None)).others)

    def has(self, name: str) -> bool:
        """Return whether there is anything of that name in the folder."""
        return os.path.lexists(self.path.parent / name)

    def stat(self, name: str) -> list[int] | None:
        """Return what `content.stat_of` does, of a file in the folder, and not of what a link means."""
        return stat_of(self.path.parent / name, follow=False)

    def names(self) -> list[str]:
        """Return the files that lines tell of."""
        return list(self._places)

    def is_other(self, name: str) -> bool:
        """Return whether an older version wrote this file beside a restored picture."""
        return name in self._others

    def of(self, name: str) -> Iterator[tuple[Entry, list[int] | None]]:
        """Yield the valid entries of a file, the last first, each with the file's `content.stat_of` right after it had got its name, if known."""
        places, seen = self._places.get(name, ())[-LOOKED_AT:], None
        if not places:
            return
        with suppress(FileNotFoundError), os.fdopen(safe_open(self.path), "rb") as file:
            left = LOOKED_AT_BYTES
            for place in reversed(places):
                file.seek(place)
                line = file.readline(LONGEST)
                left -= len(line)
                if left < 0:
                    return
                try:
                    values = json.loads(line, parse_constant=lambda name: None)
                    if "seen" in values and "source" not in values:
                        seen = _numbers(values["seen"], 4, 4)
                        continue
                    entry = Entry.of_line(values)
                except (ValueError, TypeError, RecursionError):
                    self._passed.add(place)
                    continue
                yield entry, seen if seen is not None and seen[:2] == entry.target_stat[:2] else None
                seen = None
