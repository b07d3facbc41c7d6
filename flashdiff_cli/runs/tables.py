"""What a run says of all its pictures together, as files: a table and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.pages import write_text
from flashdiff_cli.pictures.formats import FORMATS, SUFFIXES
from flashdiff_cli.runs.content import same_file
from flashdiff_cli.runs.inputs import Job, place
from flashdiff_cli.runs.journal import Journal, Origin
from flashdiff_cli.runs.record import Record
from flashdiff_cli.runs.tabulate import to_csv
from flashdiff_cli.storage.url import Url

if TYPE_CHECKING:
    from flashdiff_cli.runs.report import Gathered


class Sources(Sequence[Path | Url]):
    """The pictures of jobs, each made when it is asked for."""

    def __init__(self, jobs: Sequence[Job]):
        self.jobs = jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: Any) -> Any:
        return [job.source for job in self.jobs[index]] if isinstance(index, slice) else self.jobs[index].source


def _pictures_among(given: Sequence[str], jobs: Sequence[Job]) -> set[str]:
    """Return which of some places are a picture's, or a result's; jobs are looked at only where there is a place to look for."""
    if not given:
        return set()
    return {name for job in jobs for path in (job.source, job.target) if path is not None and (name := place(path)) in given}


def _title(inputs: Sequence[Path], part: str | None) -> str:
    """Return the title of a page: the first inputs, and the part of the run."""
    return ", ".join(path.name or str(path) for path in inputs[:3]) + (f", part {part}" if part else "")


class Tables:
    """The files that `--csv` and `--report` name, looked at before the run so that nothing is in their way at its end.

    Args:
        journal: of what is there.
        inputs: as they were given.
        jobs: of the run.
        csv, page: where to write; None: not.
        overwrite: replace files that stand in the way.
        part: of a run that is divided, e.g. "3/16".

    Raises:
        UsageError: a name is a picture's, or both are the same.
        FlashdiffError: a file is in the way that flashdiff did not make of these inputs, or that was changed since.
    """

    def __init__(
        self,
        journal: Journal,
        inputs: Sequence[Path],
        jobs: Sequence[Job],
        csv: Path | None,
        page: Path | None,
        overwrite: bool = False,
        part: str | None = None,
    ):
        self.journal, self.csv, self.page, self.overwrite = journal, csv, page, overwrite
        self.title = _title(inputs, part)
        given = [place(path) for path in (csv, page) if path is not None]
        # No part may replace what another has written of the same inputs.
        self.origin = Origin.of_run([*inputs, *([Path(part)] if part else [])], Sources(jobs if given else ()))
        if csv is not None and page is not None and (place(csv) == place(page) or same_file(csv, page)):
            raise UsageError(f"--csv and --report name the same file, {csv}; choose two")
        taken = _pictures_among(given, jobs)
        for option, path in (("--csv", csv), ("--report", page)):
            if path is None:
                continue
            if path.suffix.lower() in (*FORMATS, *SUFFIXES) or place(path) in taken:
                raise UsageError(f"{option} {path}: this is a picture's name; end it in {'.csv' if option == '--csv' else '.html'}")
            journal.check(path, self.origin, overwrite=overwrite)

    def write(self, records: Sequence[Record], gathered: Gathered | None = None) -> list[str]:
        """Write both; what could not be written, for people. `gathered`: as for `make_report`."""
        from flashdiff_cli.runs.report import make_report

        errors = []
        for path, make in ((self.csv, to_csv), (self.page, lambda records: make_report(records, self.title, gathered))):
            if path is None:
                continue
            try:
                write_text(make(records), path, lambda path: self.journal.file(path, self.origin, overwrite=self.overwrite))
            except FlashdiffError as error:
                errors.append(str(error))
        return errors
