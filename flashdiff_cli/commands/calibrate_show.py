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
HEADS = {"noise_correction": "noise", "variance_multiplier": "variance", "inner_steps": "inner", "ae_weight": "ae"}


def follow(search: Search, quiet: bool) -> bool:
    """Run the rounds; False if they were interrupted."""
    return not any(bench_show.follow(bench, False, quiet) for bench in search.rounds())


def say_plan(tried: Sequence[Candidate], sizes: Sequence[int]) -> None:
    """The candidates, one a line, and the rounds."""
    for candidate in tried:
        print(candidate.name + ("" if candidate.in_grid else " (in use)"))
    print(f"{len(tried)} candidates; rounds of {', '.join(map(str, sizes))} pictures, each with the better ones of the one before")


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def say_choice(rows: Sequence[Row], chosen: Row, axes: Sequence[str], objective: str, pictures: int, as_json: bool) -> None:
    """The last round as a table of at most 80 columns, and the choice."""
    if as_json:
        kept = [{"choice": r.candidate.choice, "means": r.means, "difference": r.difference, "tied": r.tied} for r in rows]
        print(json.dumps({"chosen": chosen.candidate.choice, "objective": objective, "pictures": pictures, "last_round": kept}))
        return
    shown = [name for name in axes if len({row.candidate.value(name) for row in rows}) > 1]
    console = Console(highlight=False, width=WIDTH)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for head in (*(HEADS.get(name, name) for name in shown), "evals", "PSNR", "SSIM", "HaarPSI", "grad", f"{objective}, to the best", ""):
        table.add_column(head, justify="left" if not head else "right")
    for row in rows:
        m, d = row.means, row.difference
        interval = "" if d["low"] is None else f" [{d['low']:+.2f}, {d['high']:+.2f}]"
        figures = (f"{m['network_evaluations']:.1f}", f"{m['psnr']:.2f}", f"{m['ssim']:.3f}", f"{m['haarpsi']:.3f}", f"{m['gradient']:.2f}")
        mark = "chosen" if row is chosen else "ties" if row.tied else "" if row.candidate.in_grid else "in use"
        table.add_row(*(escape(_text(row.candidate.value(n))) for n in shown), *figures, f"{d['mean']:+.2f}{interval}", mark)
    console.print(table)
    choice = chosen.candidate.choice
    flat = {k: v for k, v in choice.items() if k != "settings"} | choice["settings"]
    console.print(escape("chosen: " + ", ".join(f"{k} {_text(v)}" for k, v in flat.items())))
