"""What a run does with every picture: plain values, so that other processes and machines can do the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from flashdiff_cli import lean
from flashdiff_cli.runs.inputs import Job
from flashdiff_cli.runs.journal import Journal, Origin
from flashdiff_cli.runs.naming import names_beside
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.settings import Settings
from flashdiff_cli.storage.url import Url

if TYPE_CHECKING:
    from flashdiff_cli.pictures.picture import Picture
    from flashdiff_cli.runs.executor import Done, Finish, Outcome, Work
    from flashdiff_cli.runs.restorer import Restorer
    from flashdiff_cli.runs.together import Finished, Restored, Wanted


class Shown:
    """Progress of a picture that nobody watches; who shows it has methods of the same names."""

    def step(self, done: int, total: int) -> None:
        """`done` of `total` steps are run."""

    def phase(self, name: str) -> None:
        """Show what is done now."""


@dataclass(frozen=True)
class Task:
    """How the pictures of a run are restored and written."""

    settings: Settings
    model: str = "photos"
    device: str = "auto"
    dtype: str = "auto"
    offline: bool = False
    batch: int | None = None
    prompt: str | None = None
    samples: int = 1
    severity_map: bool = False
    quality: int | None = None
    overwrite: bool = False
    resume: bool = False
    made_with: str = ""
    """The run's `fingerprint`."""

    def load(self) -> Restorer:
        """Load the model.

        Raises:
            UsageError, FlashdiffError: as for `Restorer`.
        """
        with lean.start():
            from flashdiff_cli.runs.restorer import Restorer

        return Restorer(self.model, self.device, self.dtype, offline=self.offline, batch=self.batch, prompt=self.prompt)

    def beside(self, target: Path | Url) -> list[Path | Url]:
        """Return what is written beside a result."""
        return names_beside(target, self.samples, self.severity_map)

    def work(self, restorer: Restorer, journal: Journal, shown: Shown) -> Work:
        """Return what restores the pictures of a run, together as far as they can be, as the executor takes it.

        Args:
            restorer: from `load`.
            journal: of the folders that are written into.
            shown: told how far it is.
        """
        return _Restoring(self, restorer, journal, shown)

    def writing(self, restorer: Restorer, journal: Journal, job: Job, picture: Picture, restored: Picture, record: Record, shown: Shown) -> Finish:
        """Make what is asked for besides a restored picture; returns what writes all of it.

        Args:
            restorer, journal, shown: as for `work`.
            job: with a target.
            picture: its source.
            restored, record: what came of it.
        """
        from flashdiff_cli.pictures.files import write_picture
        from flashdiff_cli.runs import extras

        map_, more, digest = None, None, picture.digest.hex()
        if self.severity_map:
            map_ = extras.severity_map(restorer, picture, self.settings, (record.operator or {}).get("name"), record.noise_std)

        def beside(path: Path) -> AbstractContextManager[BinaryIO]:
            return journal.file(path, Origin.of(job.source), self.made_with, digest, of=job.result.name, overwrite=self.overwrite)

        if self.samples > 1:
            more = extras.write_samples(restorer, picture, self.settings, restored, job.result, self.samples, self.quality, shown.step, beside)

        def result(path: Path) -> AbstractContextManager[BinaryIO]:
            return journal.result(job, self.made_with, digest, record, self.overwrite)

        def finish(record: Record) -> None:
            if map_ is not None:
                record.others.append(str(extras.write_severity_map(map_, job.result, beside)))
            if more is not None:
                more(record)
            record.output = str(job.result)
            write_picture(restored, job.result, self.quality, result, record.notes)

        shown.phase("writing")
        return finish


class _Restoring:
    """Work of a task; see `executor.Work`."""

    def __init__(self, task: Task, restorer: Restorer, journal: Journal, shown: Shown):
        self.task, self.restorer, self.journal, self.shown = task, restorer, journal, shown
        self.pool = restorer.together(task.settings, callback=shown.step, phase=shown.phase)
        self.together = self.pool.limit

    def add(self, job: Job, picture: Picture) -> Iterator[Done]:
        yield from map(self._finished, self.pool.add(picture, str(job.source), tag=job))

    def rest(self, begun: bool = False) -> Iterator[Done]:
        yield from map(self._finished, self.pool.rest(begun))

    def _finished(self, done: Finished) -> Done:
        # One at a time, so that a picture is written while what is wanted besides the next one is made.
        return ((wanted.tag, self._outcome(wanted, found)) for wanted, found in done)

    def _outcome(self, wanted: Wanted, found: Restored) -> Outcome:
        if isinstance(found, Exception):
            return found
        (restored, record), begin = found, time.perf_counter()
        try:
            finish = self.task.writing(self.restorer, self.journal, wanted.tag, wanted.picture, restored, record, self.shown)
        except Exception as error:
            return error
        record.seconds["total"] = record.seconds.get("total", 0.0) + time.perf_counter() - begin
        return record, finish
