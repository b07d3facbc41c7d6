"""Many pictures, one after the other: a file that fails is recorded and the rest goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.pictures.files import Picture, read_picture
from flashdiff_cli.runs.plan import Job
from flashdiff_cli.runs.record import Record


class Work(Protocol):
    """What is done with each picture."""

    def __call__(self, job: Job, picture: Picture) -> Record:
        """Do it, write what is to be written, and return the record."""


def each(jobs: Sequence[Job], work: Work, begin: Callable[[Job], None] = lambda job: None) -> Iterator[Record]:
    """Run `work` on every job's picture and yield the records in order; failures become records with `error`."""
    for job in jobs:
        begin(job)
        start = time.perf_counter()
        try:
            picture = read_picture(job.source)
            read = time.perf_counter() - start
            record = work(job, picture)
            record.seconds = {"read": read} | record.seconds | {"total": time.perf_counter() - start}
        except FlashdiffError as error:
            text = str(error)
            record = Record(str(job.source), status="failed", error=text)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
                raise
            record = Record(str(job.source), status="failed", error=f"{job.source}: not enough memory; make the picture smaller")
        yield record
