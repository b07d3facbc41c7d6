"""Every figure that a bench's records allow, as PNG and SVG."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib

from flashdiff_cli.bench.figures.cost import quality_against_cost, steps_histogram
from flashdiff_cli.bench.figures.data import View
from flashdiff_cli.bench.figures.error import error_variance
from flashdiff_cli.bench.figures.grid import before_after, one_picture_everywhere
from flashdiff_cli.bench.figures.level import contributors, severity_against_level
from flashdiff_cli.bench.figures.robustness import robustness
from flashdiff_cli.bench.figures.starts import start_search
from flashdiff_cli.bench.figures.style import RC, Drawing, save, slug
from flashdiff_cli.bench.figures.sweep import severity_sweep
from flashdiff_cli.bench.records import Record
from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.pages import write_text

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


def drawings(view: View) -> list[tuple[str | None, Drawing]]:
    """Return all figures of a bench with the condition that each is of, not yet written.

    They take their style from matplotlib's settings: call this under `matplotlib.rc_context(style.RC)`.
    """
    parts = [(None, view, OVER_CONDITIONS)]
    parts += [(condition, view.only(condition), OF_CONDITION) for condition in view.conditions[:CONDITIONS]]
    found = []
    for condition, part, kinds in parts:
        for draw in kinds:
            drawn = draw(part)
            found += [(condition, d) for d in (drawn if isinstance(drawn, list) else [drawn]) if d is not None]
    return found


def draw_all(records: Sequence[Record], folder: Path | str) -> list[Path]:
    """Draw every figure that the records allow.

    Writes `figures/NAME.png` and `figures/NAME.svg`, and `figures/figures.json` with name, condition, title and
    caption of each in order. Figures of an earlier call that this one does not draw are removed.

    Args:
        records: of a bench, as read from `records.jsonl`.
        folder: of the bench; pictures are looked for in its `images/`.

    Returns:
        the files, in order.

    Raises:
        FlashdiffError: the disk or the folder refuses.
    """
    target = Path(folder) / FOLDER
    before = {entry["name"] for entry in read_index(folder)}
    paths, index = [], []
    try:
        with matplotlib.rc_context(cast(Any, RC)):
            for condition, drawing in drawings(View.of(records, Path(folder))):
                paths += save(drawing, target)
                index.append({"name": drawing.name, "condition": condition, "title": drawing.title, "caption": drawing.caption})
        for name in before - {entry["name"] for entry in index}:
            for ending in ("png", "svg"):
                (target / f"{name}.{ending}").unlink(missing_ok=True)
        if index or before:
            write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", target / INDEX)
    except OSError as error:
        raise FlashdiffError(f"{target}: figures cannot be written ({error.strerror or error}); choose another folder") from error
    return paths


def read_index(folder: Path | str) -> list[dict[str, Any]]:
    """Name, condition (None: all), title and caption of the figures in a bench folder, in order; none if it has no figures.

    Raises:
        FlashdiffError: the index is damaged.
    """
    path = Path(folder) / FOLDER / INDEX
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        # A name that is a path would lead out of the folder.
        return [{key: e[key] for key in ("name", "condition", "title", "caption")} for e in entries if slug(e["name"]) == e["name"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise FlashdiffError(f"{path}: cannot be read ({error}); remove the folder and draw again") from error
