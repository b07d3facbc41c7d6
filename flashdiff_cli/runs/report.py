"""A run as one page that needs no other file and no network: sliders, severity against steps, a table, failures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.pages import Shown, render, show_picture
from flashdiff_cli.pictures.files import read_picture
from flashdiff_cli.runs.content import absolute_name
from flashdiff_cli.runs.record import Record
from flashdiff_cli.storage.url import Url, location
from flashdiff_cli.version import __version__

SHOWN = 48
"""Pictures that are shown with a slider: of more, those spread evenly over severity."""
SIDE = 720
"""Longer side of a shown picture, in pixels."""


@dataclass(frozen=True)
class Gathered:
    """Which pictures a page may show whose records were read from files: strangers may have written them, and would have any file
    of the reader's in the page, or an address asked for."""

    sources: Mapping[str, str | None]
    """The SHA-256 of the source of each output that stands where its journal says."""
    stores: frozenset[str] = frozenset()
    """Protocols of the addresses that were asked for by name; sources elsewhere are not fetched."""

    def may_show(self, record: Record) -> bool:
        """Return whether the result is one that its journal knows."""
        return str(record.output) in self.sources

    def before(self, record: Record) -> Shown | None:
        """Return the source, if it is still the picture that the result was made from."""
        digest, place = self.sources.get(str(record.output)), location(record.input)
        if digest is None or (isinstance(place, Url) and (place.protocol not in self.stores or "::" in place.text)):
            return None
        return _small(record.input, digest)


def saved(record: Record) -> float:
    """Return seconds that the full-length run would have taken more, by the time that each step took."""
    if record.status == "failed" or not record.steps or not record.schedule_steps:
        return 0.0
    return record.seconds.get("solve", 0.0) * (record.schedule_steps / record.steps - 1)


def _small(path: str | None, digest: str | None = None) -> Shown | None:
    """Return a picture file made small; None if it cannot be read or shown any more, or its SHA-256 is another."""
    if not path:
        return None
    try:
        picture = read_picture(path)
        return show_picture(picture.to_rgb(), SIDE) if digest in (None, picture.digest.hex()) else None
    except FlashdiffError:
        return None


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _chosen(records: Sequence[Record]) -> list[Record]:
    done = [(r.severity, r) for r in records if r.severity is not None and r.output]
    if len(done) <= SHOWN:
        return [r for _, r in done]
    ranked = [r for _, r in sorted(done, key=lambda pair: pair[0])]
    return [ranked[i * (len(ranked) - 1) // (SHOWN - 1)] for i in range(SHOWN)]


def _card(record: Record, gathered: Gathered | None) -> dict[str, Any] | None:
    after = _small(record.output) if gathered is None or gathered.may_show(record) else None
    if after is None:
        return None
    # A picture that was restored in place has no "before" any more.
    there = absolute_name(location(record.input)) != absolute_name(location(str(record.output)))
    before = None if not there else _small(record.input) if gathered is None else gathered.before(record)
    facts = f"severity {record.severity:.3f}, {record.steps} of {record.schedule_steps} steps"
    lines = [line for line in (facts, _degradation(record), *record.notes) if line]
    return {"name": Path(record.input).name, "before": before, "after": after, "lines": lines}


def _degradation(record: Record) -> str:
    """Return what the picture was restored from, in a line: "found" in it, or "given"."""
    if not record.operator:
        return ""
    values = {k: v for k, v in record.operator.items() if k not in ("name", "estimated")}
    parts = [record.operator["name"], *(f"{k} {_number(v)}" for k, v in values.items())]
    parts += [] if record.noise_std is None else [f"noise {_number(record.noise_std)}"]
    if not record.operator.get("estimated"):
        return "given: " + ", ".join(parts)
    seen = record.degradation or {}
    sure = f" ({seen['kind']}, {seen['confidence']:.0%} sure)" if "confidence" in seen else ""
    return "found: " + ", ".join(parts) + sure


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _ticks(largest: float) -> list[float]:
    """Round numbers from 0 to the first that is no less than the largest, at most six of them."""
    power = 10.0 ** math.floor(math.log10(largest))
    step = next(s for s in (0.2 * power, 0.25 * power, 0.5 * power, power, 2 * power) if largest <= 5 * s)
    return [step * i for i in range(math.ceil(largest / step) + 1)]


def _plot(records: Sequence[Record]) -> dict[str, list[tuple]] | None:
    """Return severity against steps: where marks and points lie in the drawing, and what is written at each."""
    points = [(r.severity, r.steps) for r in records if r.severity is not None and r.steps is not None]
    if not points:
        return None
    across, up = (_ticks(max(values) or 1.0) for values in zip(*points, strict=True))

    def place(x: float, y: float) -> tuple[float, float]:
        return 60 + 540 * x / across[-1], 250 - 220 * y / up[-1]

    return {
        "across": [(place(x, 0)[0], f"{x:.3g}") for x in across],
        "up": [(place(0, y)[1], f"{y:g}") for y in up],
        "points": [(*place(x, y), f"{x:.3f}: {y} steps") for x, y in points],
    }


COLUMNS = ("picture", "size", "severity", "start", "steps", "evaluations", "seconds", "saved", "status")


def _row(record: Record) -> dict[str, Any]:
    """Return a row of the table: each cell's text, and the value that it is sorted by."""
    seconds, less = record.seconds.get("total"), saved(record)
    cells = [
        (Path(record.input).name, Path(record.input).name),
        (f"{record.width} x {record.height}", record.width * record.height) if record.width and record.height else (None, None),
        (None if record.severity is None else f"{record.severity:.3f}", record.severity),
        (None if record.start_step is None else f"{record.start_step} / {record.schedule_steps}", record.start_step),
        (record.steps, record.steps),
        (record.network_evaluations, record.network_evaluations),
        (None if seconds is None else f"{seconds:.1f}", seconds),
        (_duration(less), less) if less else (None, None),
        (record.status, record.status),
    ]
    return {"status": record.status, "cells": [["" if x is None else x for x in cell] for cell in cells]}


def _facts(restored: Sequence[Record], failed: Sequence[Record]) -> list[tuple[object, str]]:
    """Return the numbers above all else, each with what it counts."""
    steps = [r.steps for r in restored if r.steps is not None]
    facts: list[tuple[object, str]] = [(len(restored), "restored")]
    if failed:
        facts.append((len(failed), "failed"))
    if steps:
        longest = max(r.schedule_steps for r in restored if r.schedule_steps)
        facts.append((f"{sum(steps) / len(steps):.0f} of {longest}", "steps, on average"))
        facts.append((_duration(sum(r.seconds.get("total", 0.0) for r in restored)), "in all"))
        facts.append((_duration(sum(map(saved, restored))), "saved against the full length (by the time of a step)"))
    return facts


def make_report(records: Sequence[Record], title: str = "flashdiff", gathered: Gathered | None = None) -> str:
    """Return the page of a run, as HTML.

    Args:
        records: of all its pictures; those that are done still have their files.
        title: of the page.
        gathered: where records were read from files, which of their pictures may be shown; None: all.
    """
    restored = [r for r in records if r.status != "failed"]
    failed = [r for r in records if r.status == "failed"]
    chosen = _chosen(records)
    models = ", ".join(sorted({str(r.model) for r in restored if r.model}))
    return render(
        "report.html",
        title=title,
        about=f"{datetime.now():%Y-%m-%d %H:%M}, flashdiff {__version__}, model {models or 'none'}",
        facts=_facts(restored, failed),
        cards=[card for card in (_card(record, gathered) for record in chosen) if card],
        more=f"{len(chosen)} of {len(restored)}, spread over severity." if len(chosen) < len(restored) else None,
        plot=_plot(restored),
        columns=COLUMNS,
        rows=[_row(r) for r in records],
        failures=[r.error or r.input for r in failed],
    )
