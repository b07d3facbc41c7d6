"""Which of a run's pictures are to be done, which are done already, and which must not be touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flashdiff_cli.hub.checksums import SUMS
from flashdiff_cli.runs.inputs import Job
from flashdiff_cli.runs.journal import DONE, FOREIGN, STALE, Journal

DO, SKIP, REFUSE = "restore", "skip", "refuse"


@dataclass(frozen=True)
class Decision:
    """What becomes of one job, and why, for people."""

    job: Job
    action: str
    """"restore", "skip" or "refuse"."""
    reason: str = ""


def decide(jobs: Sequence[Job], journal: Journal, settings: str, overwrite: bool = False, resume: bool = False) -> list[Decision]:
    """Decide for every job.

    Args:
        jobs: with targets.
        journal: of what is there.
        settings: the run's `fingerprint`.
        overwrite: do everything again and replace whatever stands in the way.
        resume: keep every output that flashdiff made, whatever its settings were.
    """
    return [_decide(job, journal.state(job, settings), overwrite, resume) for job in jobs]


def _decide(job: Job, state: str, overwrite: bool, resume: bool) -> Decision:
    if overwrite:
        return Decision(job, DO, "--overwrite")
    if state == DONE:
        return Decision(job, SKIP, "done already")
    if state == STALE and resume:
        return Decision(job, SKIP, "done already, with other settings or from an older source")
    if state == STALE and job.in_place:
        reason = "was restored in place before, with other settings; --overwrite restores the result once more"
        return Decision(job, REFUSE, reason)
    if state == FOREIGN:
        reason = "exists already and is not flashdiff's; choose another --output or --suffix, or pass --overwrite"
        return Decision(job, REFUSE, reason)
    return Decision(job, DO, "settings or source have changed" if state == STALE else "")


def without_outputs(jobs: Sequence[Job], journal: Journal) -> list[Job]:
    """The jobs without those found in folders that are outputs of earlier runs; what was named itself stays."""
    return [job for job in jobs if job.named or not journal.made(job.source)]


def model_state(folder: Path) -> str:
    """Something that changes when a model's files do: its list of checksums, or its files' sizes and times."""
    sums = folder / SUMS
    if sums.is_file():
        return sums.read_text(encoding="utf-8", errors="replace")
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return "\n".join(f"{p.relative_to(folder)} {p.stat().st_size} {p.stat().st_mtime_ns}" for p in files)
