"""Every figure that a bench's records allow, as PNG and SVG."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

from flashdiff_cli.bench.figures.cost import quality_against_cost, steps_histogram
from flashdiff_cli.bench.figures.data import Record, View
from flashdiff_cli.bench.figures.error import error_variance
from flashdiff_cli.bench.figures.grid import before_after, one_picture_everywhere
from flashdiff_cli.bench.figures.level import contributors, severity_against_level
from flashdiff_cli.bench.figures.robustness import robustness
from flashdiff_cli.bench.figures.starts import start_search
from flashdiff_cli.bench.figures.style import RC, Drawing, save
from flashdiff_cli.bench.figures.sweep import severity_sweep

FOLDER, INDEX = "figures", "figures.json"
OVER_CONDITIONS: tuple[Callable[[View], Drawing | None], ...] = (robustness, one_picture_everywhere)
"""Figures of a whole bench."""
OF_CONDITION: tuple[Callable[[View], Drawing | list[Drawing] | None], ...] = (
    before_after,
    quality_against_cost,
    start_search,
    steps_histogram,
    severity_against_level,
    severity_sweep,
    error_variance,
    contributors,
)
"""Figures of one condition. Each takes a View and returns nothing where the records do not allow it."""
CONDITIONS = 4
"""Of a bench with more conditions, the first so many get figures of their own."""


def drawings(view: View) -> list[Drawing]:
    """All figures of a bench, not yet written; under the style's settings (`matplotlib.rc_context(style.RC)`)."""
    found = [draw(view) for draw in OVER_CONDITIONS]
    for condition in view.conditions[:CONDITIONS]:
        part = view.only(condition)
        found += [draw(part) for draw in OF_CONDITION]
    flat = [d for one in found for d in (one if isinstance(one, list) else [one])]
    return [d for d in flat if d is not None]


def draw_all(records: Sequence[Record], folder: Path | str) -> list[Path]:
    """Draw every figure that the records allow.

    Writes `figures/NAME.png` and `figures/NAME.svg`, and `figures/figures.json` with name, title and caption of each in
    order. Figures of an earlier call that this one does not draw are removed.

    Args:
        records: of a bench, as read from `records.jsonl`.
        folder: of the bench; pictures are looked for in its `images/`.

    Returns:
        the files, in order.
    """
    target = Path(folder) / FOLDER
    before = {entry["name"] for entry in read_index(folder)}
    paths, index = [], []
    with matplotlib.rc_context(RC):
        for drawing in drawings(View.of(records, Path(folder))):
            paths += save(drawing, target)
            index.append({"name": drawing.name, "title": drawing.title, "caption": drawing.caption})
    for name in before - {entry["name"] for entry in index}:
        for ending in ("png", "svg"):
            (target / f"{name}.{ending}").unlink(missing_ok=True)
    if index or before:
        (target / INDEX).write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return paths


def read_index(folder: Path | str) -> list[dict[str, str]]:
    """Name, title and caption of the figures in a bench folder, in order; none if it has no figures."""
    path = Path(folder) / FOLDER / INDEX
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
