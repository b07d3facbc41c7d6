"""One of many workers: a process with a model of its own, somewhere, that restores the pictures that it is given."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.runs.executor import each
from flashdiff_cli.runs.inputs import Job
from flashdiff_cli.runs.journal import Journal
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.resume import Claims
from flashdiff_cli.runs.task import Shown, Task
from flashdiff_cli.version import __version__

LIMITS = ("FLASHDIFF_MAX_MEGAPIXELS", "FLASHDIFF_MAX_SECONDS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Variables by which a run is bounded, here as where it was asked for."""


class Worker:
    """The pictures of a run, as one process does them.

    Args:
        task: what is done with each.
        folder: from which names begin; None where all are whole.
        environment: values of `LIMITS`, as far as they are set.
        version: of flashdiff where the run was asked for.
    """

    def __init__(self, task: Task, folder: str | None, environment: Mapping[str, str], version: str):
        os.environ.update(environment)  # before anything that computes is imported
        self.task, self.folder, self.version = task, folder, version
        self.journal, self.stopped = Journal(sparse=True), False

    def load(self) -> None:
        """Load the model.

        Raises:
            UsageError, FlashdiffError: as for `Task.load` and `Restorer.check`; or this machine has another flashdiff, or not the folder.
        """
        if self.version != __version__:
            both = f"flashdiff {__version__} is installed there, and {self.version} here"
            raise FlashdiffError(f"{socket.gethostname()}: {both}; install the same on every machine")
        if self.folder is not None:
            try:
                os.chdir(self.folder)
            except OSError as error:
                where = f"{self.folder}: is not there on {socket.gethostname()}, and names begin from it"
                raise FlashdiffError(f"{where}; give whole paths that mean the same on every machine, or addresses") from error
        self.restorer = self.task.load()
        self.restorer.check(self.task.settings)

    def restore(self, jobs: Sequence[tuple[int, Job]]) -> Iterator[tuple[int, Record]]:
        """Restore pictures; the records come as they are finished, each with the number that it was given.

        Args:
            jobs: with targets. What is done already, by whomever, is not done again.
        """
        numbers = {str(job.source): number for number, job in jobs}
        claims = Claims(self.journal, self.task.made_with, self.task.overwrite, self.task.resume)
        work = self.task.work(self.restorer, self.journal, Shown())
        for record in each([job for _, job in jobs], work, stopped=lambda: self.stopped, claims=claims):
            yield numbers[record.input], record

    def stop(self) -> None:
        """Leave what is not begun."""
        self.stopped = True
