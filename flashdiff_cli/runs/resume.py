"""Which of a run's pictures are to be done, which are done already, and which must not be touched."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flashdiff_cli.bounded import JSON_BYTES, read_bounded
from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.hub.checksums import SUMS
from flashdiff_cli.hub.configs import read_config
from flashdiff_cli.models.base import base_folder
from flashdiff_cli.models.resolve import resolve_model
from flashdiff_cli.pictures.atomic import make_folder, sweep
from flashdiff_cli.runs.content import other_names
from flashdiff_cli.runs.entries import NAME
from flashdiff_cli.runs.inputs import Job, place
from flashdiff_cli.runs.journal import (
    DONE,
    FOREIGN,
    HARD_LINKED,
    IN_THE_WAY,
    OF_ANOTHER,
    OTHER,
    STALE,
    Journal,
    Origin,
    place_of,
)
from flashdiff_cli.runs.lines import appending, safe_open
from flashdiff_cli.runs.locks import claim
from flashdiff_cli.runs.record import Record
from flashdiff_cli.storage.url import Url

DO, SKIP, REFUSE = "restore", "skip", "refuse"


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one job, and why, for people."""

    job: Job
    action: str
    """"restore", "skip" or "refuse"."""
    reason: str = ""


def decide(
    jobs: Sequence[Job],
    journal: Journal,
    settings: str,
    overwrite: bool = False,
    resume: bool = False,
    extras: Callable[[Path | Url], Sequence[Path | Url]] = lambda target: (),
) -> list[Decision]:
    """Decide for every job.

    Args:
        jobs: with targets.
        journal: of what is there.
        settings: the run's `fingerprint`.
        overwrite: do everything again and replace whatever stands in the way.
        resume: keep every output that flashdiff made, whatever its settings were.
        extras: what would be written besides, by target.
    """
    more = bool(jobs) and bool(extras(jobs[0].result))
    names = {place(path) for job in jobs for path in (job.source, job.result)} if more else set()
    sources: set[int] | None = None
    decisions = []
    for job in jobs:
        decision = decide_one(job, journal, settings, overwrite, resume)
        there = None if job.in_place else _file(job.result)
        if there is not None:
            sources = {found for other in jobs if (found := _file(other.source)) is not None} if sources is None else sources
            if there in sources:
                decision = Decision(job, REFUSE, "stands for an input, by another name or a link; choose another --output or --suffix")
        if more:
            if decision.action == DO:
                decision = _with_extras(decision, journal, names, overwrite, extras(job.result))
            names.update(map(place, extras(job.result)))
        decisions.append(decision)
    return decisions


def _file(path: Path | Url) -> int | None:
    """Return which file of this machine a name stands for, whatever the name; None: none."""
    if isinstance(path, Url):
        return None
    with suppress(OSError, ValueError):
        found = os.stat(path)
        return found.st_dev << 64 | found.st_ino
    return None


def _with_extras(decision: Decision, journal: Journal, names: set[str], overwrite: bool, extras: Sequence[Path | Url]) -> Decision:
    """Return the decision, or its refusal where something that would be written besides is in the way."""
    job = decision.job
    for path in extras:
        if place(path) in names:
            reason = f"{path} is another picture of this run, or its result; choose another --output, or restore them one after the other"
            return Decision(job, REFUSE, reason)
        try:
            journal.check(path, Origin.of(job.source), job.result.name, overwrite)
        except FlashdiffError as error:
            return Decision(job, REFUSE, str(error))
    return decision


def decide_one(job: Job, journal: Journal, settings: str, overwrite: bool = False, resume: bool = False, anew: bool = False) -> Decision:
    """Decide for one job, see `decide`; `anew`: with what other runs have written since."""
    try:
        state = journal.state(job, settings, anew)
    except FlashdiffError as error:
        return Decision(job, REFUSE, str(error))
    if overwrite:
        return Decision(job, DO, "--overwrite")
    if state == DONE:
        return Decision(job, SKIP, "done already")
    if state == STALE and resume:
        return Decision(job, SKIP, "done already, with other settings or from an older source")
    if state == STALE and job.in_place:
        reason = "was restored in place before, with other settings; --overwrite restores the result once more"
        return Decision(job, REFUSE, reason)
    if job.in_place and other_names(place_of(job)):
        return Decision(job, REFUSE, HARD_LINKED)
    if state in (FOREIGN, OTHER):
        return Decision(job, REFUSE, IN_THE_WAY if state == FOREIGN else OF_ANOTHER)
    return Decision(job, DO, "settings or source have changed" if state == STALE else "")


def refusal(decision: Decision) -> Record:
    """Return the failed record of a job that is refused."""
    target, reason = str(decision.job.target), decision.reason
    return Record(str(decision.job.source), status="failed", error=reason if target in reason else f"{target}: {reason}")


def known_records(decisions: Sequence[Decision], journal: Journal) -> list[Record]:
    """Return the records of what is not to be done: of those that are skipped, then of those that are refused."""
    return [journal.record(d.job) for d in decisions if d.action == SKIP] + [refusal(d) for d in decisions if d.action == REFUSE]


def sweep_outputs(decisions: Sequence[Decision]) -> None:
    """Remove what killed runs have left in the folders of a run's outputs, also where nothing is left to be written."""
    for folder in {place_of(decision.job).parent for decision in decisions if decision.action != REFUSE}:
        if isinstance(folder, Path):
            sweep(folder)


class Claims:
    """Which run restores which picture, where several write into one folder: each takes what no other has.

    Args:
        journal: of what is there.
        settings, overwrite, resume: as for `decide`, which is asked again once a picture is taken.
    """

    def __init__(self, journal: Journal, settings: str, overwrite: bool = False, resume: bool = False):
        self.journal, self.settings, self.overwrite, self.resume = journal, settings, overwrite, resume
        self._held: dict[Job, tuple[int, Path, list[Path], Callable[[], None]]] = {}

    def take(self, job: Job) -> Record | bool:
        """Return True: the picture is this run's. False: another run has it. A record: there is nothing to do any more.

        Raises:
            FlashdiffError: the folder's journal cannot be written.
        """
        if isinstance(job.target, Url):
            # Stores have no locks: of two runs side by side each may do a picture, and both make the same of it.
            return self._decided(job, anew=False)
        if not isinstance(job.source, Url) and not job.source.exists():
            return True  # which reading will say
        folder = place_of(job).parent
        assert isinstance(folder, Path)
        path = folder / NAME
        made = _make(folder)
        handle = safe_open(path, writing=True)
        release = claim(handle, path.parent, place_of(job).name)
        if release is None:
            os.close(handle)
            return False
        self._held[job] = (handle, path, made, release)
        decided = self._decided(job, anew=True)
        if decided is not True:
            self.free(job)
        return decided

    def _decided(self, job: Job, anew: bool) -> Record | bool:
        decision = decide_one(job, self.journal, self.settings, self.overwrite, self.resume, anew)
        if decision.action == DO:
            return True
        return self.journal.record(job) if decision.action == SKIP else refusal(decision)

    def free(self, job: Job) -> None:
        """Give a picture back; a journal and folders that were made for it and stayed empty are removed."""
        if job not in self._held:
            return
        handle, path, made, release = self._held.pop(job)
        release()
        os.close(handle)
        if any(path == other for _, other, *_ in list(self._held.values())):
            return
        with suppress(OSError, FlashdiffError):
            if path.stat().st_size == 0:
                with appending(path) as own:
                    if os.fstat(own).st_size == 0:
                        path.unlink()
            for folder in made:
                folder.rmdir()


def _make(folder: Path) -> list[Path]:
    """Make a folder; those that were missing, the deepest first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        make_folder(folder)
    except OSError as error:
        raise FlashdiffError(f"{folder}: cannot be made ({error.strerror}); choose another --output") from error
    return missing


def without_outputs(jobs: Sequence[Job], journal: Journal) -> list[Job]:
    """Return the jobs without those found in folders that are outputs of earlier runs; what was named itself stays."""
    return [job for job in jobs if job.named or not journal.made(job.source)]


def model_identity(model: str | Path, offline: bool = False, prompt: str | None = None) -> dict[str, str]:
    """Return what an output depends on besides its settings: which model it is, without loading it, and what that is told.

    Raises:
        UsageError, FlashdiffError: as for `resolve_model`.
    """
    folder = resolve_model(str(model), offline=offline)
    index = folder / "model_index.json"
    base = base_folder(folder, read_config(index), offline) if index.is_file() else None
    # What came later enters only where it is: earlier journals keep their hashes.
    more = {} if base is None else {"base": model_state(base)}
    return {"model": model_state(folder)} | more | ({} if prompt is None else {"prompt": prompt})


def model_state(folder: Path) -> str:
    """Return something that changes when a model's files do: its list of checksums, or its files' sizes and times."""
    sums = folder / SUMS
    if sums.is_file():
        return read_bounded(sums, JSON_BYTES).decode(errors="replace")
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return "\n".join(f"{p.relative_to(folder)} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files)
