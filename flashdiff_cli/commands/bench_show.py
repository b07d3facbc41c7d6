"""What people see of a bench: progress with time left on stderr, tables of at most 80 columns on stdout."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from flashdiff_cli.commands.show import WIDTH, interruptible, say_error
from flashdiff_cli.commands.signals import Interrupted
from flashdiff_cli.errors import one_line

if TYPE_CHECKING:
    from flashdiff_cli.bench.protocol import Protocol
    from flashdiff_cli.bench.runner import Bench

EVERY = 60.0
"""Seconds between lines of progress where stderr is no terminal."""

__all__ = ["follow", "say_error", "say_plan", "say_protocols", "say_summary"]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"


def _say(line: str) -> None:
    """Print one line on stdout; what a protocol says may be anybody's."""
    print(one_line(line))


class BenchMeter:
    """A bar on a terminal; a line now and then elsewhere, for logs of long runs."""

    def __init__(self, quiet: bool):
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.quiet, self.live, self._said = quiet, self.console.is_terminal and not quiet, time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TaskProgressColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, TextColumn("left {task.fields[left]}"), console=self.console, transient=True, disable=not self.live)
        self.task = self.bar.add_task("", total=1.0, left="?")

    def __call__(self, what: str, share: float, left: float | None) -> None:
        if self.live:
            self.bar.update(self.task, description=escape(one_line(what)[:40]), completed=share, left=_time(left))
        elif not self.quiet and time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            self.console.print(escape(f"{share:.0%} {one_line(what)}, left {_time(left)}"))


def follow(runner: Bench, as_json: bool, quiet: bool) -> int:
    """Run a bench; the exit code if it was interrupted, else 0. Ctrl-C lets the arm in hand finish."""
    shown = BenchMeter(quiet)
    with shown.bar, interruptible(shown) as stop:
        try:
            for record in runner.run(shown, stop.is_set):
                if record.status == "failed":
                    say_error(f"{record.image}, {record.condition}, {record.arm}: {record.error}")
                if as_json:
                    print(record.to_json(), flush=True)
        except (KeyboardInterrupt, Interrupted):
            return stop.code
        return stop.code if stop.is_set() else 0


def say_protocols() -> None:
    """Print the packaged protocols, one a line."""
    from flashdiff_cli.bench.protocol import load, packaged

    for name in packaged():
        print(f"{name:18} {load(name).title}")


def say_plan(protocol: Protocol, pictures: int) -> None:
    """Print conditions, arms and how much that is."""
    for condition in protocol.condition:
        values = " ".join(f"{k} {v}" for k, v in condition.options.items())
        _say(f"condition  {condition.name}: {condition.operator} {values}".rstrip() + f", noise {condition.noise_std}")
        if condition.assumed is not None:
            name, options, noise = condition.assumption
            _say(f"           told {name} " + " ".join(f"{k} {v}" for k, v in options.items()) + f", noise {noise}")
    for arm in protocol.arm:
        what = arm.baseline or f"{arm.solver}, start {arm.start}" + (f", {arm.steps} steps" if arm.steps else "")
        _say(f"arm        {arm.name}: {what}" + (", blind" if arm.blind else ""))
    if protocol.levels:
        print(f"severity   {protocol.levels} levels")
    count = len(protocol.condition) * len(protocol.arm)
    print(f"{pictures} pictures x {len(protocol.condition)} conditions x {len(protocol.arm)} arms: {pictures * count} records")


def say_summary(summary: dict[str, Any]) -> None:
    """Print a table for each condition, of at most 80 columns; all else is in the written tables."""
    from flashdiff_cli.bench.tables import DIGITS, TITLES, number, severity_lines

    console = Console(highlight=False, width=WIDTH)
    short = {"network_evaluations": "evals", "seconds": "sec", "gradient": "grad"}
    columns = [m for m in summary["measures"] if m in ("psnr", "ssim", "ms_ssim", "gmsd", "haarpsi", "gradient")][:5]
    columns += ["network_evaluations", "seconds"]
    for name, block in summary["conditions"].items():
        table = Table(title=escape(one_line(name)), title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column("arm", overflow="fold", ratio=1)
        for heading in ("n", *(short.get(m, TITLES[m]) for m in columns)):
            table.add_column(heading, justify="right", no_wrap=True)
        for arm, row in block["arms"].items():
            if not row["n"]:
                reason = "[red]failed[/red]" if row["failed"] else "skipped"
                table.add_row(escape(one_line(arm)), reason, *[""] * len(columns))
                continue
            table.add_row(escape(one_line(arm)), str(row["n"]), *(number(row["measures"][m], DIGITS[m], interval=False) for m in columns))
        console.print(table)
        for line in severity_lines(block["severity"]):
            console.print(escape(line))
