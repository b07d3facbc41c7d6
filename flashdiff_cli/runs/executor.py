"""Many pictures: reading and writing overlap with computing, and a file that fails is recorded while the rest goes on."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.runs.inputs import Job
from flashdiff_cli.runs.record import Record

if TYPE_CHECKING:
    from flashdiff_cli.pictures.files import Picture

Finish = Callable[[Record], None]


BUSY = 0.1
"""Seconds between two looks at pictures that other runs have."""


class Work(Protocol):
    """What is done with each picture."""

    def __call__(self, job: Job, picture: Picture) -> tuple[Record, Finish | None]:
        """Compute; returns the record, and what is still to be written, which is done while the next one computes."""
        ...


class Claims(Protocol):
    """Who does which picture, where several runs write into one folder."""

    def take(self, job: Job) -> Record | bool:
        """Return True: do it; False: another run has it; a record: nothing is to be done any more."""
        ...

    def free(self, job: Job) -> None:
        """Give back a claim: the picture is done, or has failed."""


class Everything:
    """Claims of a run that shares its folders with no other."""

    def take(self, job: Job) -> Record | bool:
        return True

    def free(self, job: Job) -> None:
        return


def _failure(job: Job, error: Exception) -> Record:
    return failure(str(job.source), error, None if job.target is None else str(job.target))


def failure(source: str, error: Exception, target: str | None = None) -> Record:
    """Return the record of a picture that could not be done, whatever the reason.

    Args:
        source, target: names of what was read and what was to be written; an error that has neither is given the first.
        error: what was raised.
    """
    if isinstance(error, FlashdiffError):
        text = str(error)
        named = source in text or (target is not None and target in text)
        return Record(source, status="failed", error=text if named else f"{source}: {text}")
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error).lower()):
        return Record(source, status="failed", error=f"{source}: not enough memory; use a smaller --tile")
    reason = " ".join(str(error).split())[:300]
    text = f"{source}: could not be done ({type(error).__name__}{': ' if reason else ''}{reason}); please report it with the picture"
    return Record(source, status="failed", error=text)


def _read(job: Job, claims: Claims) -> tuple[Picture | Record | None, float]:
    """Return the picture; or its record if there is nothing to do, None if another run has it; and the seconds that it took."""
    start = time.perf_counter()
    taken = claims.take(job)
    if taken is not True:
        return taken or None, 0.0
    return job.read(), time.perf_counter() - start


def _write(job: Job, record: Record, finish: Finish, claims: Claims) -> Record:
    start = time.perf_counter()
    try:
        finish(record)
    except Exception as error:
        return _failure(job, error)
    finally:
        claims.free(job)
    record.seconds["write"] = time.perf_counter() - start
    return record


class _Ahead:
    """The pictures in their order, each read while the one before is computed; those that another run has come again at the end."""

    def __init__(self, jobs: Sequence[Job], claims: Claims, reader: ThreadPoolExecutor):
        self.waiting, self.busy, self.claims, self.reader = deque(jobs), deque(), claims, reader
        self.next = self._submit()

    def _submit(self) -> tuple[Job, Future] | None:
        if not self.waiting:
            return None
        job = self.waiting.popleft()
        return job, self.reader.submit(_read, job, self.claims)

    def take(self) -> tuple[Job, Future] | None:
        """Return the next job and its picture as it will be read; the reader goes on to the one after."""
        taken = self.next
        self.next = self._submit()
        return taken

    def again(self) -> bool:
        """Return whether there are pictures that another run had; they are looked at once more."""
        if not self.busy:
            return False
        time.sleep(BUSY)
        self.waiting, self.busy = self.busy, deque()
        self.next = self._submit()
        return True

    def leave(self) -> None:
        """Give back the picture that was read and will not be computed."""
        if self.next is not None:
            job, reading = self.next
            reading.exception()  # waits for it
            self.claims.free(job)


def each(
    jobs: Sequence[Job],
    work: Work,
    begin: Callable[[Job], None] = lambda job: None,
    stopped: Callable[[], bool] = lambda: False,
    claims: Claims | None = None,
) -> Generator[Record]:
    """Run `work` on every job's picture; the records come in order, failures as records with `error`.

    At any time one picture is read ahead, one is computed and one is written, so memory does not grow with the run.

    Args:
        jobs: what to do.
        work: see `Work`.
        begin: called before a picture is computed.
        stopped: asked between pictures; once it is true, those that are computed are still written and the rest is left.
        claims: which pictures are this run's; those that another run has are looked at again when the others are done.
    """
    claims = claims or Everything()
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        ahead, writing = _Ahead(jobs, claims, reader), None
        record: Record | Future[Record] | None
        try:
            while not stopped():
                taken = ahead.take()
                if taken is None:
                    if writing is not None:  # before waiting for others
                        yield writing.result()
                        writing = None
                    if ahead.again():
                        continue
                    break
                job, reading = taken
                begin(job)
                record = _compute(job, reading, work, claims, writer)
                if record is None:
                    ahead.busy.append(job)
                    continue
                if writing is not None:
                    yield writing.result()
                    writing = None
                if isinstance(record, Future):
                    writing = record
                else:
                    yield record
            if writing is not None:
                yield writing.result()
        finally:
            ahead.leave()


def _compute(job: Job, reading: Future, work: Work, claims: Claims, writer: ThreadPoolExecutor) -> Record | Future[Record] | None:
    """Return the record of a picture, at once or when it is written; None if another run has the picture."""
    try:
        picture, seconds = reading.result()
        if picture is None or isinstance(picture, Record):
            return picture
        start = time.perf_counter()
        record, finish = work(job, picture)
        record.seconds = {"read": seconds} | record.seconds | {"total": seconds + time.perf_counter() - start}
        if finish is not None:
            return writer.submit(_write, job, record, finish, claims)
    except Exception as error:
        record = _failure(job, error)
    except BaseException:
        claims.free(job)
        raise
    claims.free(job)
    return record
