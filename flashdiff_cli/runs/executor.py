"""Many pictures: reading and writing overlap with computing, and a file that fails is recorded while the rest goes on."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.runs.inputs import Job
from flashdiff_cli.runs.record import Record

if TYPE_CHECKING:
    from flashdiff_cli.pictures.files import Picture

Finish = Callable[[Record], None]


BUSY = 0.1
"""Seconds between two looks at pictures that other runs have."""
PIXELS = 16_000_000
"""Of pictures that were read and wait to be computed, and of those that wait to be written; one of more is read, and written, by itself."""


Outcome = tuple[Record, Finish | None] | Exception
"""The record of a picture, and what is still to be written, which is done while the next ones compute; or why there is none."""
Done = Iterable[tuple[Job, Outcome]]
"""What was finished at one time."""


_Taken = tuple["Picture | Record | None", float]


class Work(Protocol):
    """What is done with the pictures of a run."""

    together: int
    """Pictures that are computed together at most: so many are read ahead, and wait to be written."""

    def add(self, job: Job, picture: Picture) -> Iterable[Done]:
        """Take a picture; yields what is finished by it, of this picture and of earlier ones. Between two yields the run may be left."""
        ...

    def rest(self, begun: bool = False) -> Iterable[Done]:
        """Yield what is finished once no more pictures come; `begun`: only of pictures parts of which are done, all others are left."""
        ...


class OneByOne:
    """Work on each picture by itself.

    Args:
        function: computes; returns the record, and what is still to be written.
    """

    together = 1

    def __init__(self, function: Callable[[Job, Picture], tuple[Record, Finish | None]]):
        self.function = function

    def add(self, job: Job, picture: Picture) -> Iterable[Done]:
        """Do all of it."""
        begin = time.perf_counter()
        try:
            record, finish = self.function(job, picture)
        except Exception as error:
            return [[(job, error)]]
        record.seconds["total"] = time.perf_counter() - begin
        return [[(job, (record, finish))]]

    def rest(self, begun: bool = False) -> Iterable[Done]:
        """Yield nothing: nothing waits."""
        return ()


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


class _Room:
    """Lets a reader go on only while what is read and not yet taken is small."""

    def __init__(self):
        self.changed, self.held, self.open = threading.Condition(), 0, True

    def wait(self) -> None:
        """Wait until there is room."""
        with self.changed:
            self.changed.wait_for(lambda: self.held < PIXELS or not self.open)

    def take(self, pixels: int) -> None:
        """Note that a picture was read, or by a negative number that it was taken."""
        with self.changed:
            self.held += pixels
            self.changed.notify()

    def close(self) -> None:
        """Let whoever waits go on: nothing more is taken."""
        with self.changed:
            self.open = False
            self.changed.notify()


class _Ahead:
    """The pictures in their order, read while those before are computed; those that another run has come again at the end."""

    def __init__(self, jobs: Sequence[Job], claims: Claims, reader: ThreadPoolExecutor, count: int):
        self.waiting, self.busy, self.claims, self.reader, self.count = deque(jobs), deque[Job](), claims, reader, count
        self.room, self.reading = _Room(), deque[tuple[Job, Future[_Taken]]]()
        self._fill()

    def _fill(self) -> None:
        while self.waiting and len(self.reading) < self.count:
            job = self.waiting.popleft()
            self.reading.append((job, self.reader.submit(self._read, job)))

    def _read(self, job: Job) -> _Taken:
        """Return the picture; or its record if there is nothing to do, None if another run has it; and the seconds that it took."""
        self.room.wait()
        if not self.room.open:
            return None, 0.0
        start = time.perf_counter()
        taken = self.claims.take(job)
        if taken is not True:
            return taken or None, 0.0
        picture = job.read()
        self.room.take(_pixels(picture))
        return picture, time.perf_counter() - start

    def take(self, begin: Callable[[Job], None]) -> tuple[Job, Picture | Record | None, float] | None:
        """Return the next job and what `_read` has found, a failed record where it cannot be read; the reader goes on. None: there is no job."""
        if not self.reading:
            return None
        job, reading = self.reading.popleft()
        self._fill()
        begin(job)
        try:
            found, seconds = reading.result()
        except Exception as error:
            self.claims.free(job)
            return job, _failure(job, error), 0.0
        except BaseException:
            self.reading.appendleft((job, reading))
            raise
        if found is not None and not isinstance(found, Record):
            self.room.take(-_pixels(found))
        return job, found, seconds

    def again(self) -> bool:
        """Return whether there are pictures that another run had; they are looked at once more."""
        if not self.busy:
            return False
        time.sleep(BUSY)
        self.waiting, self.busy = self.busy, deque()
        self._fill()
        return True

    def leave(self) -> None:
        """Give back the pictures that were read and will not be computed."""
        self.room.close()
        for job, reading in self.reading:
            reading.exception()  # waits for it
            self.claims.free(job)


def _pixels(picture: Picture) -> int:
    height, width = picture.size
    return height * width


@dataclass(eq=False)
class _Entry:
    """A picture of which there is no record yet, or whose turn has not come."""

    job: Job
    read: float = 0.0
    """Seconds that reading took."""
    pixels: int = 0
    record: Record | Future[Record] | None = None
    """What has become of it."""


def each(
    jobs: Sequence[Job],
    work: Work | Callable[[Job, Picture], tuple[Record, Finish | None]],
    begin: Callable[[Job], None] = lambda job: None,
    stopped: Callable[[], bool] = lambda: False,
    claims: Claims | None = None,
) -> Generator[Record]:
    """Run `work` on every job's picture; the records come in order, failures as records with `error`.

    At any time as many pictures are read ahead, and are written, as are computed together, so memory does not grow with the run.

    Args:
        jobs: what to do.
        work: see `Work`; a function does each by itself.
        begin: called before a picture is computed.
        stopped: asked between pictures; once it is true, those that are computed are still written and the rest is left.
        claims: which pictures are this run's; those that another run has are looked at again when the others are done.
    """
    run = _Run(OneByOne(work) if callable(work) else work, claims or Everything(), stopped)
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        run.writer, ahead = writer, _Ahead(jobs, run.claims, reader, run.work.together)
        try:
            while True:
                yield from run.through(ahead, begin)
                # What waits is finished before others are waited for.
                yield from run.finishing()
                if stopped() or not ahead.again():
                    break
        finally:
            run.leave()
            ahead.leave()


class _Run:
    """The pictures of a run that are being computed or written, in the order in which they came."""

    writer: ThreadPoolExecutor

    def __init__(self, work: Work, claims: Claims, stopped: Callable[[], bool]):
        self.work, self.claims, self.stopped = work, claims, stopped
        self.entries: dict[int, _Entry] = {}
        """Those that have no record yet, by the identity of their jobs."""
        self.line: deque[_Entry] = deque()
        """Those whose record was not told yet."""

    def through(self, ahead: _Ahead, begin: Callable[[Job], None]) -> Iterator[Record]:
        """Do what can be read; what is left waits for `finishing`."""
        while not self.stopped():
            taken = ahead.take(begin)
            if taken is None:
                return
            yield from self._enter(ahead, *taken)
            del taken  # a large picture is let go when it is done, and not when the next one is there
            yield from self._told()

    def _enter(self, ahead: _Ahead, job: Job, found: Picture | Record | None, seconds: float) -> Iterator[Record]:
        """Do what is to be done with a job, of which this was found."""
        if found is None:
            ahead.busy.append(job)
        elif isinstance(found, Record):
            self.line.append(_Entry(job, record=found))
        else:
            entry = self.entries[id(job)] = _Entry(job, seconds, _pixels(found))
            self.line.append(entry)
            yield from self._take(self.work.add(job, found))

    def finishing(self) -> Iterator[Record]:
        """Do what waits, if the run is stopped only what is begun, and write what is done."""
        if not self.stopped():
            yield from self._take(self.work.rest())
        if self.stopped():
            # The tiles of a large picture that are done are not thrown away.
            yield from self._take(self.work.rest(begun=True), to_end=True)
        while self.line:
            entry = self.line.popleft()
            if entry.record is not None:
                yield entry.record.result() if isinstance(entry.record, Future) else entry.record

    def _take(self, finished: Iterable[Done], to_end: bool = False) -> Iterator[Record]:
        for done in finished:
            for job, outcome in done:
                entry = self.entries.pop(id(job))
                if isinstance(outcome, Exception):
                    entry.record = _failure(job, outcome)
                    self.claims.free(job)
                    continue
                record, finish = outcome
                record.seconds = {"read": entry.read} | record.seconds
                record.seconds["total"] = entry.read + record.seconds.get("total", 0.0)
                entry.record = record if finish is None else self.writer.submit(_write, job, record, finish, self.claims)
                if finish is None:
                    self.claims.free(job)
                self._wait()
            yield from self._told()
            if self.stopped() and not to_end:
                return

    def _wait(self) -> None:
        """Let no more wait to be written than are computed together, nor more pixels than may be held."""
        writing = [entry for entry in self.line if isinstance(entry.record, Future) and not entry.record.done()]
        for number, entry in enumerate(writing[:-1]):
            left = writing[number:]
            if len(left) <= self.work.together and sum(one.pixels for one in left) < PIXELS:
                return
            assert isinstance(entry.record, Future)
            entry.record.result()

    def _told(self) -> Iterator[Record]:
        """Yield the records that are there, up to the first that is not."""
        while self.line and self.line[0].record is not None:
            record = self.line[0].record
            if isinstance(record, Future):
                if not record.done():
                    return
                record = record.result()
            self.line.popleft()
            yield record

    def leave(self) -> None:
        """Give back what was not finished."""
        for entry in self.entries.values():
            self.claims.free(entry.job)
