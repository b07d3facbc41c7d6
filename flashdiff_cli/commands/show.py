"""What people see while a run goes on: progress on stderr, JSON lines on stdout. Tables are in `table`."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from flashdiff_cli.commands.flags import as_flags
from flashdiff_cli.commands.signals import Interrupted, Stop, handled
from flashdiff_cli.errors import one_line

if TYPE_CHECKING:
    from flashdiff_cli.runs.inputs import Job
    from flashdiff_cli.runs.record import Record
    from flashdiff_cli.runs.resume import Decision

WIDTH = 80
log = logging.getLogger("flashdiff")


def errors() -> Console:
    """Return a console on the stderr of this moment."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say_error(message: str) -> None:
    """Print one line on stderr; parameters of the library are named as flags."""
    with suppress(OSError):
        print(f"flashdiff: {one_line(' '.join(as_flags(message).split()))}", file=sys.stderr)


def lenient() -> None:
    """Write what a console's code page cannot show as its escape, on stdout and stderr: names are any bytes."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def say_json(text: str) -> None:
    """Print one line of JSON on stdout, in ASCII where its code page lacks a character."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text))
    print(text, flush=True)


class Meter:
    """Progress of pictures and of the steps of the present one; a line a picture where nobody watches a terminal.

    Args:
        total: pictures.
        quiet: show nothing.
        expected: seconds that one picture may take, where they are known before any step is run.
    """

    def __init__(self, total: int, quiet: bool, expected: float | None = None):
        self.console = Console(stderr=True)
        self.total, self.done, self.expected = total, 0, expected
        self.name = ""
        self.lines = not quiet and total > 1 and not self.console.is_terminal
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[count]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            Left(),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )
        self.pictures = self.bar.add_task("pictures", total=total, visible=total > 1, count=f"0/{total}")
        self.steps = self.bar.add_task("loading the model", total=None, count="")

    def begin(self, name: str) -> None:
        """Note that a picture begins."""
        self.name = escape(one_line(Path(name).name)[:24])
        self.bar.reset(self.steps, total=None, description=self.name, expected=self.expected)
        self.phase("reading")

    def phase(self, name: str) -> None:
        """Show what is done with the present picture now."""
        self.bar.update(self.steps, description=f"{self.name}: {name}")
        log.debug("%s: %s", self.name, name)

    def workers(self, text: str) -> None:
        """Show how many workers there are, where pictures are done by others."""
        self.bar.update(self.steps, description=text)
        log.info("%s", text)

    def step(self, done: int, total: int) -> None:
        """Show that `done` of `total` steps of the present picture are run."""
        self.bar.update(self.steps, completed=done, total=total)

    def end(self, record: Record) -> None:
        """Note that a picture is finished, or was left as it is."""
        self.done += 1
        self.bar.update(self.pictures, advance=1, count=f"{self.done}/{self.total}")
        took = f"{record.status} in {record.seconds.get('total', 0.0):.1f} s"
        log.info("%s: %s", one_line(record.input), record.error or took)
        if self.lines and record.status == "done":
            with suppress(OSError):
                print(f"[{self.done}/{self.total}] {one_line(record.input)}: {took}", file=sys.stderr, flush=True)


class Left(TimeRemainingColumn):
    """Time that is left: by the steps that were run, and before any was by what was expected."""

    def render(self, task: Task) -> Text:
        expected = task.fields.get("expected")
        if expected is None or task.speed or task.finished:
            return super().render(task)
        left = max(0, round(expected - (task.elapsed or 0)))
        return Text(f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}", style="progress.remaining")


@contextmanager
def meter(total: int, quiet: bool, expected: float | None = None):
    """Show a Meter on stderr, gone when the work is done."""
    shown = Meter(total, quiet, expected)
    with shown.bar:
        yield shown


class HasConsole(Protocol):
    """A meter of progress, with the console that it stands on."""

    console: Console


@contextmanager
def interruptible(shown: HasConsole):
    """Let Ctrl-C, SIGTERM or SIGHUP ask to stop after the present picture; a second one stops at once. Yields the Stop that is then set."""
    stop = Stop()

    def ask(number, frame):
        if stop.is_set():
            raise Interrupted(number)
        stop.code = 128 + number
        stop.set()
        say("flashdiff: finishing what is in hand; Ctrl-C again stops at once")

    with printing_thread(shown.console) as say, handled(ask):
        yield stop


@contextmanager
def printing_thread(console: Console) -> Iterator[Callable[[str], None]]:
    """Yield what prints a line on the console from a thread of its own.

    A signal's handler may interrupt a write to stderr, and whoever writes there again, in the same thread, is refused (RuntimeError: reentrant
    call). A SimpleQueue may be put to at any moment.
    """
    lines: SimpleQueue[str | None] = SimpleQueue()

    def print_lines() -> None:
        while (line := lines.get()) is not None:
            with suppress(OSError, ValueError):
                console.print(line, highlight=False)

    printing = Thread(target=print_lines, daemon=True)
    printing.start()
    try:
        yield lines.put
    finally:
        lines.put(None)
        printing.join()


def say_left(jobs: Sequence[Job]) -> None:
    """Say what an interrupted run has left to do."""
    rest = f" and {len(jobs) - 3} more" if len(jobs) > 3 else ""
    names = ", ".join(str(job.source) for job in jobs[:3])
    say_error(f"interrupted; left: {names}{rest}; the same command goes on from there")


def say_plan(decisions: Sequence[Decision], expectation: object | None, as_json: bool) -> int:
    """Say a run's decisions on stdout, as JSON lines or a line for each picture, and how long it is expected to take on stderr.

    Returns:
        the exit code: 1 if a picture would be refused.
    """
    from flashdiff_cli.runs.resume import REFUSE

    for decision in decisions:
        job = decision.job
        if as_json:
            values = {"input": str(job.source), "output": str(job.target), "action": decision.action, "reason": decision.reason}
            say_json(json.dumps(values, ensure_ascii=False))
        else:
            why = f" ({decision.reason})" if decision.reason else ""
            print(one_line(f"{decision.action:8} {job.source} > {job.target}{why}"))
    if expectation is not None:
        say_error(str(expectation))
    return int(any(decision.action == REFUSE for decision in decisions))


def stream(records: Iterable[Record], as_json: bool, ended: Callable[[Record], None]) -> tuple[list[Record], bool]:
    """Take records as they come: failures to stderr, JSON lines to stdout. Returns (records, whether it was interrupted)."""
    taken: list[Record] = []
    try:
        for record in records:
            if record.error is not None:
                record.error = as_flags(record.error)
            taken.append(record)
            ended(record)
            if record.status == "failed":
                say_error(record.error or "failed")
            if as_json:
                say_json(record.to_json())
    except (KeyboardInterrupt, Interrupted):
        return taken, True
    return taken, False
