"""What `restore` does with each picture, and writes of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from flashdiff_cli.errors import UsageError, choose_from

if TYPE_CHECKING:
    from flashdiff_cli.commands.show import Meter
    from flashdiff_cli.pictures.picture import Picture
    from flashdiff_cli.runs.executor import Finish
    from flashdiff_cli.runs.inputs import Job
    from flashdiff_cli.runs.journal import Journal
    from flashdiff_cli.runs.record import Record
    from flashdiff_cli.runs.restorer import Restorer
    from flashdiff_cli.runs.settings import Settings


def ending_named(format: str | None) -> str | None:
    """The ending of the format that --format names; None where it is not given.

    Raises:
        UsageError: it cannot be written.
    """
    from flashdiff_cli.pictures.formats import FORMATS

    if format is None:
        return None
    ending = "." + format.lower().lstrip(".")
    if ending not in FORMATS:
        raise UsageError(f"--format {format!r} cannot be written; {choose_from(format, [name[1:] for name in FORMATS])}")
    return ending


def check_choices(fast_and_start: bool, overwrite_and_resume: bool) -> None:
    """Raise a UsageError if two options were given of which each means the opposite of the other."""
    if fast_and_start:
        raise UsageError("--fast and --start-step exclude each other: --fast is --start-step 0")
    if overwrite_and_resume:
        raise UsageError("--overwrite and --resume exclude each other: the one does all again, the other keeps all that is there")


def settings_among(given: Mapping[str, Any], **changed: Any) -> Settings:
    """The settings among a command's arguments, which have the names of their fields; `changed` go before them."""
    from flashdiff_cli.runs.settings import Settings

    return Settings(**({field.name: given[field.name] for field in fields(Settings) if field.name in given} | changed))


@dataclass
class Restoring:
    """The work of `restore`, as `commands.run.run_pictures` takes it."""

    journal: Journal
    made_with: str
    """The `fingerprint` of the run."""
    settings: Settings
    samples: int
    severity_map: bool
    quality: int | None
    overwrite: bool

    def __call__(self, restorer: Restorer, job: Job, picture: Picture, shown: Meter) -> tuple[Record, Finish]:
        """Restore a picture; returns its record, and what writes all that is made of it."""
        from flashdiff_cli.pictures.files import write_picture
        from flashdiff_cli.runs import extras
        from flashdiff_cli.runs.journal import Origin

        restored, record = restorer.restore(picture, self.settings, str(job.source), shown.step, phase=shown.phase)
        map_, more, digest = None, None, picture.digest.hex()
        if self.severity_map:
            map_ = extras.severity_map(restorer, picture, self.settings, (record.operator or {}).get("name"), record.noise_std)

        def beside(path: Path) -> AbstractContextManager[BinaryIO]:
            return self.journal.file(path, Origin.of(job.source), self.made_with, digest, of=job.result.name, overwrite=self.overwrite)

        if self.samples > 1:
            more = extras.write_samples(restorer, picture, self.settings, restored, job.result, self.samples, self.quality, shown.step, beside)

        def result(path: Path) -> AbstractContextManager[BinaryIO]:
            return self.journal.result(job, self.made_with, digest, record, self.overwrite)

        def finish(record: Record) -> None:
            if map_ is not None:
                record.others.append(str(extras.write_severity_map(map_, job.result, beside)))
            if more is not None:
                more(record)
            record.output = str(job.result)
            write_picture(restored, job.result, self.quality, result, record.notes)

        shown.phase("writing")
        return record, finish
