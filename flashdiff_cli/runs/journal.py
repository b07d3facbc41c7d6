"""What runs have written into a folder: `.flashdiff.jsonl` beside the outputs, one line each, added when one is whole."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.runs.inputs import Job
from flashdiff_cli.runs.record import Record

NAME = ".flashdiff.jsonl"
NEW, DONE, STALE, FOREIGN = "new", "done", "stale", "foreign"


def fingerprint(**settings: Any) -> str:
    """A short name for everything that an output depends on besides its source; equal settings give equal names."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stat(path: Path) -> list[int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


class Journal:
    """The outputs of all folders that a run writes into; each folder's file is read when it is first asked for.

    Lines that a killed run left unfinished are passed over, so an output counts only if its line is whole.
    """

    def __init__(self):
        self._folders: dict[Path, dict[str, dict]] = {}
        self._others: dict[Path, set[str]] = {}
        self._seen: dict[Path, list[int] | None] = {}

    def _entries(self, folder: Path) -> dict[str, dict]:
        folder = folder.absolute()
        if folder not in self._folders:
            found, others = {}, set()
            self._folders[folder], self._others[folder] = found, others
            try:
                lines = (folder / NAME).read_text(encoding="utf-8", errors="replace").splitlines()
            except OSError:
                lines = []
            for line in lines:
                try:
                    entry = json.loads(line)
                    others.update(Path(path).name for path in entry["record"].get("others") or ())
                    found[str(entry["output"])] = entry
                except (ValueError, KeyError, TypeError, AttributeError):
                    continue
        return self._folders[folder]

    def state(self, job: Job, settings: str) -> str:
        """How a job's target stands.

        Args:
            job: with a target.
            settings: the `fingerprint` of this run.

        Returns:
            "new": nothing there. "done": made from this source, as it still is, with these settings. "stale": made by
            flashdiff from another state of the source or with other settings. "foreign": not made by flashdiff, or
            changed since.
        """
        source, target = _stat(job.source), _stat(job.target)
        self._seen[job.source] = source
        entry = self._entries(job.target.parent).get(job.target.name)
        if job.in_place:
            if entry is None or entry.get("target_stat") != target:
                return NEW
            return DONE if entry.get("settings") == settings else STALE
        if target is None:
            return NEW
        if entry is None or (entry.get("target_stat") or [None])[0] != target[0]:
            return FOREIGN
        same = entry.get("settings") == settings and entry.get("source_stat") == source
        return DONE if same else STALE

    def made(self, path: Path) -> bool:
        """Whether a file is what an earlier run has written, and not a picture that was restored in place."""
        entries = self._entries(path.parent)
        if path.name in entries:
            return not entries[path.name].get("in_place")
        return path.name in self._others[path.parent.absolute()]

    def record(self, job: Job) -> Record:
        """The record of a finished job, marked as skipped."""
        entry = self._entries(job.target.parent).get(job.target.name, {})
        known = {k: v for k, v in (entry.get("record") or {}).items() if k in Record.__dataclass_fields__}
        return Record(**(known | {"input": str(job.source), "output": str(job.target), "status": "skipped"}))

    def add(self, job: Job, settings: str, record: Record) -> None:
        """Add the line of a job whose output is whole.

        Args:
            job: whose `state` was asked for before its source was read.
            settings: the `fingerprint` of this run.
            record: of what was done.

        Raises:
            FlashdiffError: the line cannot be written.
        """
        target = job.target
        entry = {"output": target.name, "source": str(job.source), "in_place": job.in_place}
        entry |= {"source_stat": self._seen.get(job.source), "target_stat": _stat(target)}
        entry |= {"settings": settings, "record": asdict(record)}
        self._entries(target.parent)[target.name] = entry
        line = (json.dumps(entry, ensure_ascii=True) + "\n").encode()
        try:
            # One write call, so that lines of runs that share a folder never mix.
            handle = os.open(target.parent / NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(handle, line)
            finally:
                os.close(handle)
        except OSError as error:
            raise FlashdiffError(f"{target.parent / NAME}: cannot be written ({error.strerror})") from error
