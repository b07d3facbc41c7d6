"""What the commands that go through pictures share: the model, the loop, progress, results and the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from flashdiff_cli.commands.show import Meter, interruptible, meter, say_error, say_left, stream
from flashdiff_cli.commands.table import report

if TYPE_CHECKING:
    from flashdiff_cli.pictures.files import Picture
    from flashdiff_cli.runs.executor import Claims, Finish, Work
    from flashdiff_cli.runs.expected import Expectation
    from flashdiff_cli.runs.inputs import Job
    from flashdiff_cli.runs.record import Record
    from flashdiff_cli.runs.restorer import Restorer, Settings

LONG = 30.0
"""Seconds that a run may take without a word on how long it will be."""
Made = Callable[["Restorer", Meter], "Work | Callable[[Job, Picture], tuple[Record, Finish | None]]"]
"""Makes what is done with the pictures, as `runs.executor.each` takes it, of the model and what shows its progress."""
Elsewhere = Callable[[Meter, Callable[[], bool]], "Generator[Record]"]
"""Does all pictures of a run on other processes or machines, told what shows its progress, and what says whether to stop."""


def find_pictures(
    inputs: Sequence[Path],
    recursive: bool,
    limit: int | None,
    names: Sequence[bytes],
    drop: Callable[[list[Job]], list[Job]] = list,
    passed: Counter[str] | None = None,
) -> list[Job]:
    """Find the pictures of a run, and say which files are passed over.

    Args:
        inputs, recursive, limit, names: see `runs.inputs.find`; the limit counts what is left.
        drop: takes out what earlier runs made.
        passed: counts what is passed over, by the reason.

    Raises:
        UsageError: there is none.
    """
    from flashdiff_cli.runs.inputs import find, say_passed

    passed = Counter() if passed is None else passed
    found = find(inputs, recursive, None, names, passed)
    jobs = drop(found)
    passed["made by earlier runs"] = len(found) - len(jobs)
    if (said := say_passed(passed)) is not None:
        say_error(said)
    return jobs[:limit]


def _left(jobs: Sequence[Job], records: Sequence[Record]) -> list[Job]:
    """Return the jobs of which there is no record; records are not in the order of the jobs, for those that another run had come last."""
    finished = Counter(record.input for record in records)
    return [job for job in jobs if not finished[str(job.source)]]


def run_pictures(
    jobs: Sequence[Job],
    settings: Settings,
    load: Callable[[], Restorer],
    work: Made,
    as_json: bool,
    quiet: bool,
    early: Sequence[Record] = (),
    restored: bool = True,
    claims: Claims | None = None,
    together: Callable[[list[Record]], list[str]] = lambda records: [],
    expected: Expectation | None = None,
    close: Callable[[Sequence[Record]], str] | None = None,
    elsewhere: Elsewhere | None = None,
    more: bool = False,
) -> tuple[list[Record], int]:
    """Load the model, work on every picture, and show what comes of it.

    Args:
        jobs: what to do; without any, no model is loaded.
        settings: looked at by the model before the first picture is read.
        load: the model.
        work: see `Made`.
        as_json: print the records, and no table.
        quiet: show no progress.
        early: records of what is known without work.
        restored: whether the table tells of steps that were run.
        claims: see `runs.executor.each`.
        together: writes files about all records, before the table is shown; returns what went wrong.
        expected: how long it may take, which is said if it is long.
        close: says what became of the run; said where there are several pictures.
        elsewhere: does all of `jobs` instead of this process, and loads the model where it does.
        more: whether other pictures are to follow, so that a signal has something to stop though all of these are done.

    Returns:
        (all records, exit code): 0 all done, 1 some failed, 128 and its number after a signal.
    """
    from flashdiff_cli.runs.executor import each

    if expected is not None and expected.seconds >= LONG and not quiet:
        say_error(str(expected))
    with meter(len(early) + len(jobs), quiet, expected and expected.seconds / max(1, len(jobs))) as shown, interruptible(shown) as stopped:
        done: Generator[Record] = (record for record in ())
        if jobs and elsewhere is not None:
            done = elsewhere(shown, stopped.is_set)
        elif jobs:
            restorer = load()
            restorer.check(settings)
            done = each(jobs, work(restorer, shown), lambda job: shown.begin(str(job.source)), stopped.is_set, claims)
        with closing(done):
            records, interrupted = stream(chain(early, done), as_json, shown.end)
    failed = any(r.status == "failed" for r in records)
    for error in together(records):
        say_error(error)
        failed = True
    report(records, as_json, restored)
    if close is not None and len(records) > 1 and not quiet:
        say_error(close(records))
    if left := _left(jobs, records[len(early) :]):
        say_left(left)
    return records, stopped.code if interrupted or left or (more and stopped.is_set()) else int(failed)
