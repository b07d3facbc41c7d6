"""A folder into which pictures come: those that are new or changed, and complete."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.runs.inputs import Job, find

Stat = tuple[int, int, int]


class Arrivals:
    """What has come into a folder since it was last asked.

    The folder is listed again and again, which works on every file system, those of other machines included.

    Args:
        folder: that is watched.
        recursive: look in subfolders too.
        settle: seconds that a file must have kept its size and time, so that none is read while it is still being written.
    """

    def __init__(self, folder: Path, recursive: bool = False, settle: float = 2.0):
        self.folder, self.recursive, self.settle = folder, recursive, settle
        self._given: dict[Path, Stat] = {}
        self._seen: dict[Path, tuple[Stat, float]] = {}

    def check(self) -> None:
        """Raise a FlashdiffError if the folder is not there."""
        if not self.folder.is_dir():
            raise FlashdiffError(f"{self.folder}: no such folder; make it first, or watch another")

    def poll(self, now: float) -> list[Job]:
        """Return the pictures that are complete and were not returned as they are now, sorted.

        Args:
            now: on a clock that does not go back, in seconds.

        Raises:
            FlashdiffError: the folder has gone.
        """
        self.check()
        jobs: list[Job] = []
        with suppress(FlashdiffError):  # as yet there is no picture
            jobs = find([self.folder], self.recursive)
        ready: list[Job] = []
        seen: dict[Path, tuple[Stat, float]] = {}
        for job in jobs:
            assert isinstance(job.source, Path)
            stat = _stat(job.source)
            if stat is None or self._given.get(job.source) == stat:
                continue
            before, since = self._seen.get(job.source, (None, now))
            seen[job.source] = (stat, since if before == stat else now)
            if now - seen[job.source][1] >= self.settle:
                ready.append(job)
                self._given[job.source] = seen.pop(job.source)[0]
        self._seen = seen
        there = {job.source for job in jobs}
        self._given = {path: stat for path, stat in self._given.items() if path in there}
        return ready

    @property
    def waiting(self) -> bool:
        """Whether files are there that are not complete yet."""
        return bool(self._seen)


def _stat(path: Path) -> Stat | None:
    """Return what changes when a file is written; None if it has gone."""
    with suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns
    return None
