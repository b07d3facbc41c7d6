"""Records as tables: for people two lines a picture in at most 80 columns, for other programs a line a picture between tabs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flashdiff_cli.errors import one_line

if TYPE_CHECKING:
    from flashdiff_cli.runs.record import Record

WIDTH = 80
LEFT_ALONE = "nothing wrong found"
LEGEND = "~: estimated from the picture, with how sure that is; start: the step it began at, of all; evals: network evaluations; sec: seconds"


def describe_operator(record: Record) -> str:
    """Return the degradation and its main parameters on one line, the noise on the next; "~" marks an estimate, with how sure it is."""
    operator = dict(record.operator or {})
    name, estimated = operator.pop("name", ""), operator.pop("estimated", False)
    short = {"gaussian-blur": "blur", "motion-blur": "motion", "random-inpainting": "kept", "identity": ""}.get(name, name)
    values = " ".join(f"{v:.2f}" if isinstance(v, float) else Path(v).name if isinstance(v, str) else str(v) for v in operator.values())
    found = record.degradation or {}
    if found.get("kind") in ("none", "noise"):
        short = LEFT_ALONE if found["kind"] == "none" else "noise"
    sure = f" ({found['confidence']:.0%})" if estimated and "confidence" in found else ""
    noise = "" if record.noise_std is None or short == LEFT_ALONE else f"noise {record.noise_std:.3f}"
    lines = [line for line in (f"{short} {values}".strip() + sure, noise) if line]
    return "\n".join(one_line(("~" if estimated else "") + line) for line in lines)


def describe_files(record: Record) -> str:
    """Return the input's name and below it the output: its name where it stands beside the input, else its path."""
    source = Path(record.input)
    if not record.output:
        return escape(one_line(source.name))
    target = Path(record.output)
    shown = target.name if target.parent == source.parent else target
    return escape(f"{one_line(source.name)}\n> {one_line(str(shown))}")


def table(records: Sequence[Record], restored: bool) -> Table:
    """Return two lines a picture; with ordinary names they fit 80 columns."""
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
        size = "" if r.width is None else f"{r.width}x{r.height}"
        cells = [describe_files(r), size, f"{r.severity:.3f}", escape(describe_operator(r))]
        cells.append("" if r.start_step is None or r.schedule_steps is None else f"{r.start_step}/{r.schedule_steps}")
        if restored:
            cells += ["" if n is None else str(n) for n in (r.steps, r.network_evaluations)]
        total = r.seconds.get("total")
        shown.add_row(*cells, "up to date" if r.status == "skipped" else "" if total is None else f"{total:.1f}")
    return shown


def to_tsv(records: Sequence[Record]) -> str:
    """Return a header and a line a record, between tabs; names are whole, and what does not apply is empty."""
    from flashdiff_cli.runs.tabulate import flat

    rows = [flat(record) for record in records]
    names = list(rows[0]) if rows else []
    lines = ["\t".join(names), *("\t".join(_cell(row[name]) for name in names) for row in rows)]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else one_line(str(value))


def report(records: Sequence[Record], as_json: bool, restored: bool = True) -> None:
    """Print the table on stdout, unless JSON lines went there already; lines between tabs where stdout is no terminal."""
    if as_json or not records:
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        print(to_tsv(records))
        return
    if console.width > WIDTH:
        console = Console(highlight=False, width=WIDTH)
    console.print(table(records, restored))
    console.print(LEGEND, style="dim")


def closing(records: Sequence[Record], passed: int = 0, files: Mapping[str, Path | None] | None = None, done: str = "restored") -> str:
    """Return what became of a run, in one line: "2 restored, 255 up to date, 2 failed, 34 passed over: report family.html".

    Args:
        records: of all pictures.
        passed: files that are no pictures.
        files: what was written about all of them, by what it is.
        done: what is done with a picture.
    """
    count = Counter(record.status for record in records)
    parts = [f"{count['done']:,} {done}"]
    parts += [f"{n:,} {what}" for n, what in ((count["skipped"], "up to date"), (count["failed"], "failed"), (passed, "passed over")) if n]
    written = [f"{what} {path}" for what, path in (files or {}).items() if path is not None]
    return ", ".join(parts) + (f": {', '.join(written)}" if written else "")
