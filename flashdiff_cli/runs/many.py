"""Many pictures: reading and writing overlap with computing, and a file that fails is recorded while the rest goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.pictures.files import Picture
from flashdiff_cli.runs.inputs import Job
from flashdiff_cli.runs.record import Record

Finish = Callable[[Record], None]


class Work(Protocol):
    """What is done with each picture."""

    def __call__(self, job: Job, picture: Picture) -> tuple[Record, Finish | None]:
        """Compute; returns the record, and what is still to be written, which is done while the next one computes."""


def _failure(job: Job, error: Exception) -> Record | None:
    """The record of a picture that could not be done; None if the error is a fault of the program."""
    if isinstance(error, FlashdiffError):
        text, source = str(error), str(job.source)
        named = source in text or (job.target is not None and str(job.target) in text)
        return Record(source, status="failed", error=text if named else f"{source}: {text}")
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error).lower()):
        return Record(str(job.source), status="failed", error=f"{job.source}: not enough memory; use a smaller --tile")
    return None


def _read(job: Job) -> tuple[Picture, float]:
    start = time.perf_counter()
    picture = job.read()
    return picture, time.perf_counter() - start


def _write(job: Job, record: Record, finish: Finish) -> Record:
    start = time.perf_counter()
    try:
        finish(record)
    except Exception as error:
        failed = _failure(job, error)
        if failed is None:
            raise
        return failed
    record.seconds["write"] = time.perf_counter() - start
    return record


def each(
    jobs: Sequence[Job],
    work: Work,
    begin: Callable[[Job], None] = lambda job: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Record]:
    """Run `work` on every job's picture; the records come in order, failures as records with `error`.

    At any time one picture is read ahead, one is computed and one is written, so memory does not grow with the run.

    Args:
        jobs: what to do.
        work: see `Work`.
        begin: called before a picture is computed.
        stopped: asked between pictures; once it is true, those that are computed are still written and the rest is left.
    """
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        ahead: Future | None = reader.submit(_read, jobs[0]) if jobs else None
        writing: Future | None = None
        for index, job in enumerate(jobs):
            if stopped():
                break
            begin(job)
            # The reader has one thread: the next picture is read while this one computes.
            reading, ahead = ahead, reader.submit(_read, jobs[index + 1]) if index + 1 < len(jobs) else None
            record: Record | Future
            try:
                picture, seconds = reading.result()
                start = time.perf_counter()
                record, finish = work(job, picture)
                record.seconds = {"read": seconds} | record.seconds | {"total": seconds + time.perf_counter() - start}
                if finish is not None:
                    record = writer.submit(_write, job, record, finish)
            except Exception as error:
                failed = _failure(job, error)
                if failed is None:
                    raise
                record = failed
            if writing is not None:
                yield writing.result()
                writing = None
            if isinstance(record, Future):
                writing = record
            else:
                yield record
        if writing is not None:
            yield writing.result()
