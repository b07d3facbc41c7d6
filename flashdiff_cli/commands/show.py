"""What people see: progress on stderr, a table of at most 80 columns or JSON lines on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from flashdiff_cli.commands.flags import as_flags
from flashdiff_cli.commands.signals import Interrupted, Stop, handled
from flashdiff_cli.errors import one_line

if TYPE_CHECKING:
    from flashdiff_cli.runs.inputs import Job
    from flashdiff_cli.runs.record import Record
    from flashdiff_cli.runs.resume import Decision

WIDTH = 80


def errors() -> Console:
    """A console on the stderr of this moment."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say_error(message: str) -> None:
    """Print one line on stderr; parameters of the library are named as flags."""
    with suppress(OSError):
        print(f"flashdiff: {one_line(' '.join(as_flags(message).split()))}", file=sys.stderr)


def lenient() -> None:
    """What a console's code page cannot show is written as its escape, on stdout and stderr: names are any bytes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def say_json(text: str) -> None:
    """One line of JSON on stdout, in ASCII where its code page lacks a character."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text))
    print(text, flush=True)


class Meter:
    """Progress of pictures and of the steps of the present one."""

    def __init__(self, total: int, quiet: bool):
        self.console = Console(stderr=True)
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )
        self.pictures = self.bar.add_task("pictures", total=total, visible=total > 1)
        self.steps = self.bar.add_task("loading the model", total=None)

    def begin(self, name: str) -> None:
        """A picture begins."""
        self.bar.reset(self.steps, total=None, description=escape(one_line(Path(name).name)[:24]))

    def step(self, done: int, total: int) -> None:
        """`done` of `total` steps of the present picture are run."""
        self.bar.update(self.steps, completed=done, total=total)

    def end(self) -> None:
        """A picture is finished."""
        self.bar.advance(self.pictures)


@contextmanager
def meter(total: int, quiet: bool):
    """A Meter on stderr, gone when the work is done."""
    shown = Meter(total, quiet)
    with shown.bar:
        yield shown


@contextmanager
def interruptible(shown: Meter):
    """Ctrl-C, SIGTERM or SIGHUP asks to stop after the present picture; a second one stops at once. Yields the Stop that is then set."""
    stop = Stop()

    def ask(number, frame):
        if stop.is_set():
            raise Interrupted(number)
        stop.code = 128 + number
        stop.set()
        with suppress(OSError):
            shown.console.print("flashdiff: finishing this picture; Ctrl-C again stops at once", highlight=False)

    with handled(ask):
        yield stop


def say_left(jobs: Sequence[Job]) -> None:
    """What an interrupted run has left to do."""
    rest = f" and {len(jobs) - 3} more" if len(jobs) > 3 else ""
    names = ", ".join(str(job.source) for job in jobs[:3])
    say_error(f"interrupted; left: {names}{rest}; the same command goes on from there")


def say_plan(decisions: Sequence[Decision], as_json: bool) -> None:
    """A run's decisions on stdout: JSON lines, or a line for each picture."""
    for decision in decisions:
        job = decision.job
        if as_json:
            values = {"input": str(job.source), "output": str(job.target), "action": decision.action, "reason": decision.reason}
            say_json(json.dumps(values, ensure_ascii=False))
        else:
            why = f" ({decision.reason})" if decision.reason else ""
            print(one_line(f"{decision.action:8} {job.source} > {job.target}{why}"))


def describe_operator(record: Record) -> str:
    """The degradation and its main parameters on one line, the noise on the next; "~" marks an estimate, with how sure it is."""
    operator = dict(record.operator or {})
    name, estimated = operator.pop("name", ""), operator.pop("estimated", False)
    short = {"gaussian-blur": "blur", "motion-blur": "motion", "random-inpainting": "kept", "identity": ""}.get(name, name)
    values = " ".join(f"{v:.2f}" if isinstance(v, float) else Path(v).name if isinstance(v, str) else str(v) for v in operator.values())
    found = record.degradation or {}
    if found.get("kind") in ("none", "noise"):
        short = found["kind"]
    sure = f" ({found['confidence']:.0%})" if estimated and "confidence" in found else ""
    noise = "" if record.noise_std is None else f"noise {record.noise_std:.3f}"
    lines = [line for line in (f"{short} {values}".strip() + sure, noise) if line]
    return "\n".join(one_line(("~" if estimated else "") + line) for line in lines)


def describe_files(record: Record) -> str:
    """The input's name and below it the output: its name where it stands beside the input, else its path."""
    source = Path(record.input)
    if not record.output:
        return escape(one_line(source.name))
    target = Path(record.output)
    shown = target.name if target.parent == source.parent else target
    return escape(f"{one_line(source.name)}\n> {one_line(str(shown))}")


def table(records: list[Record], restored: bool) -> Table:
    """Two lines a picture; with ordinary names they fit 80 columns."""
    written = restored or any(r.output for r in records)
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    shown.add_column("file > output" if written else "file", overflow="fold", ratio=1)
    shown.add_column("size", justify="right", no_wrap=True)
    shown.add_column("severity", justify="right", no_wrap=True)
    shown.add_column("degradation", overflow="fold", min_width=12)
    shown.add_column("start", justify="right", no_wrap=True)
    if restored:
        shown.add_column("steps", justify="right", no_wrap=True)
        shown.add_column("evals", justify="right", no_wrap=True)
    shown.add_column("sec", justify="right", no_wrap=True)
    for r in records:
        if r.status == "failed" or r.severity is None:
            shown.add_row(describe_files(r), "", "", f"[red]{r.status}[/red]", "", *([""] * 2 if restored else []), "")
            continue
        cells = [describe_files(r), f"{r.width}x{r.height}", f"{r.severity:.3f}", escape(describe_operator(r))]
        cells.append(f"{r.start_step}/{r.schedule_steps}")
        if restored:
            cells += [str(r.steps), str(r.network_evaluations)]
        spent = "skipped" if r.status == "skipped" else f"{r.seconds['total']:.1f}"
        shown.add_row(*cells, spent)
    return shown


def report(records: list[Record], as_json: bool, restored: bool = True) -> None:
    """The table on stdout, unless JSON lines went there already."""
    if as_json or not records:
        return
    console = Console(highlight=False)
    if not console.is_terminal or console.width > WIDTH:
        console = Console(highlight=False, width=max(WIDTH, 0))
    console.print(table(records, restored))


def stream(records: Iterable[Record], as_json: bool, ended: Callable[[], None]) -> tuple[list[Record], bool]:
    """Take records as they come: failures to stderr, JSON lines to stdout. Returns (records, whether it was interrupted)."""
    taken: list[Record] = []
    try:
        for record in records:
            if record.error is not None:
                record.error = as_flags(record.error)
            taken.append(record)
            ended()
            if record.status == "failed":
                say_error(record.error or "failed")
            if as_json:
                say_json(record.to_json())
    except (KeyboardInterrupt, Interrupted):
        return taken, True
    return taken, False
