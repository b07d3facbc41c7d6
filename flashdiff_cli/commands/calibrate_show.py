"""What people see of a calibration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flashdiff_cli.commands import bench_show
from flashdiff_cli.commands.show import WIDTH, say_error

if TYPE_CHECKING:
    from flashdiff_cli.bench.calibrate import Candidate, Row, Search

__all__ = ["follow", "say_choice", "say_error", "say_plan"]
HEADS = {"noise_correction": "c", "variance_multiplier": "mult", "dc_step": "dc", "ae_weight": "ae"}


def follow(search: Search, quiet: bool) -> bool:
    """Run the rounds; False if they were interrupted."""
    return not any(bench_show.follow(bench, False, quiet) for bench in search.rounds())


def say_plan(tried: Sequence[Candidate], sizes: Sequence[int]) -> None:
    """Print the candidates, one a line, and the rounds."""
    for candidate in tried:
        print(candidate.name + (" (in use)" if candidate.in_use else ""))
    print(f"{len(tried)} candidates; rounds of {', '.join(map(str, sizes))} pictures, each with the better ones of the one before")


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(rows: Sequence[Row], chosen: Row, shown: Sequence[str], objective: str, digits: int) -> Table:
    """Return the candidates of a round, one a row: the settings that differ, and what was measured."""
    from flashdiff_cli.bench.tables import number

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for head in ("", *(HEADS.get(name, name) for name in shown), "evals", "PSNR", "SSIM", "HaarPSI", "grad", objective):
        table.add_column(head, justify="right")
    for row in rows:
        m, mark = row.means, "*" if row is chosen else "=" if row.tied else "<" if row.candidate.in_use else ""
        figures = (f"{m['network_evaluations']:.1f}", f"{m['psnr']:.2f}", f"{m['ssim']:.3f}", f"{m['haarpsi']:.3f}", f"{m['gradient']:.2f}")
        settings = (escape(_text(row.candidate.value(name))) for name in shown)
        table.add_row(mark, *settings, *figures, escape(number(row.difference, digits, signed=True)))
    return table


def say_choice(rows: Sequence[Row], chosen: Row, axes: Sequence[str], objective: str, pictures: int, as_json: bool) -> None:
    """Print the last round as a table of at most 80 columns, and the choice."""
    from flashdiff_cli.bench.calibrate import OBJECTIVES
    from flashdiff_cli.runs.record import finite

    if as_json:
        kept = [{"choice": r.candidate.choice, "means": r.means, "difference": r.difference, "tied": r.tied} for r in rows]
        print(json.dumps(finite({"chosen": chosen.candidate.choice, "objective": objective, "pictures": pictures, "last_round": kept})))
        return
    shown = [name for name in axes if len({row.candidate.value(name) for row in rows if row.candidate.in_grid}) > 1]
    digits = 2 if OBJECTIVES[objective].tolerance >= 0.1 else 4
    console = Console(highlight=False, width=WIDTH)
    console.print(_table(rows, chosen, shown, objective, digits))
    console.print(f"{pictures} pictures; {objective} minus the best's. * chosen, = as good, < in use")
    used = next((row for row in rows if row.candidate.in_use), chosen)
    if (gain := used.means["objective"] - chosen.means["objective"]) > OBJECTIVES[objective].tolerance:
        console.print(f"note: the settings in use are better by {gain:.{digits}f}, outside grid or budget")
    choice = chosen.candidate.choice
    flat = {k: v for k, v in choice.items() if k != "settings"} | choice["settings"]
    console.print(escape("chosen: " + ", ".join(f"{k} {_text(v)}" for k, v in flat.items())))
