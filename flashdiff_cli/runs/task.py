"""What a run does with every picture: plain values, so that other processes and machines can do the same."""

from __future__ import annotations

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
    from flashdiff_cli.runs.executor import Finish
    from flashdiff_cli.runs.restorer import Restorer


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

    def restore(self, restorer: Restorer, journal: Journal, job: Job, picture: Picture, shown: Shown) -> tuple[Record, Finish]:
        """Restore a picture; returns its record, and what writes all that is made of it.

        Args:
            restorer: from `load`.
            journal: of the folders that are written into.
            job: with a target.
            picture: its source.
            shown: told how far it is.
        """
        from flashdiff_cli.pictures.files import write_picture
        from flashdiff_cli.runs import extras

        restored, record = restorer.restore(picture, self.settings, str(job.source), shown.step, phase=shown.phase)
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
        return record, finish
