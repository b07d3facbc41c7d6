"""What people see: progress on stderr, a table of at most 80 columns or JSON lines on stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from flashdiff_cli.runs.record import Record

WIDTH = 80


def errors() -> Console:
    """A console on the stderr of this moment."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say_error(message: str) -> None:
    """One line on stderr."""
    print(f"flashdiff: {' '.join(message.split())}", file=sys.stderr)


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
        self.bar.reset(self.steps, total=None, description=escape(Path(name).name[:24]))

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


def describe_operator(record: Record) -> str:
    """Operator, its main parameters and the noise, in a few words."""
    operator = dict(record.operator or {})
    name, estimated = operator.pop("name", ""), operator.pop("estimated", False)
    short = {"gaussian-blur": "blur", "random-inpainting": "kept", "identity": ""}.get(name, name)
    values = " ".join(f"{v:.2f}" if isinstance(v, float) else Path(v).name if isinstance(v, str) else str(v) for v in operator.values())
    noise = "" if record.noise_std is None else f"noise {record.noise_std:.3f}"
    return ("~" if estimated else "") + ", ".join(part for part in (f"{short} {values}".strip(), noise) if part)


def table(records: Iterable[Record], restored: bool) -> Table:
    """One row a picture."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("file", overflow="fold", ratio=3 if restored else None)
    shown.add_column("size", justify="right", no_wrap=True)
    shown.add_column("severity", justify="right")
    shown.add_column("degradation", overflow="fold", ratio=3 if restored else None)
    shown.add_column("start", justify="right", no_wrap=True)
    if restored:
        shown.add_column("steps", justify="right")
        shown.add_column("evals", justify="right")
    shown.add_column("sec", justify="right")
    shown.add_column("output", overflow="fold", ratio=4 if restored else None)
    for r in records:
        name = escape(Path(r.input).name)
        if r.status == "failed":
            shown.add_row(name, "", "", "[red]failed[/red]", "", *([""] * 3 if restored else [""]), "")
            continue
        cells = [name, f"{r.width}x{r.height}", f"{r.severity:.3f}", describe_operator(r), f"{r.start_step}/{r.schedule_steps}"]
        if restored:
            cells += [str(r.steps), str(r.network_evaluations)]
        cells += [f"{r.seconds['total']:.1f}", escape(r.output or "")]
        shown.add_row(*cells)
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
            taken.append(record)
            ended()
            if record.status == "failed":
                say_error(record.error or "failed")
            if as_json:
                print(record.to_json(), flush=True)
    except KeyboardInterrupt:
        return taken, True
    return taken, False
