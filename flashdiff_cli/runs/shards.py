"""One run divided among many machines that know nothing of each other: each takes the pictures whose names fall to it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from flashdiff_cli.errors import UsageError
from flashdiff_cli.runs.inputs import Job

MOST = 100_000
"""Shards of a run, at most."""


@dataclass(frozen=True)
class Shard:
    """One part of a run.

    Args:
        index: from 1 to `count`.
        count: of all parts.
    """

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "i/n".

        Raises:
            UsageError: it is not of this form, or i is not from 1 to n.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        index, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= index <= count <= MOST:
            raise UsageError(f"--shard {text}: give i/n, the part and the number of parts, e.g. 1/8 to 8/8")
        return cls(index, count)

    def has(self, job: Job) -> bool:
        """Return whether a picture is this part's, by its name below the folder that was given: whatever it shows, wherever the folder is mounted."""
        digest = hashlib.sha256(os.fsencode(job.below.as_posix())).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index - 1

    def of(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the pictures that are this part's, in their order."""
        return list(jobs) if self.count == 1 else [job for job in jobs if self.has(job)]

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"
