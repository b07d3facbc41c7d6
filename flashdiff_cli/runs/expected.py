"""How long a run will take: what earlier runs on this machine took, by model, device and settings, or a rough figure before there is any.

Needs no torch. What is kept are sums, from which seconds = a + b x megapixels is fitted by least squares; old runs fade.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.hub.paths import converted_folder
from flashdiff_cli.pictures.atomic import whole
from flashdiff_cli.pictures.limits import size_of
from flashdiff_cli.pictures.time_limit import in_time
from flashdiff_cli.runs.inputs import Job
from flashdiff_cli.runs.record import Record

GUESSED = {"steps": (3.0, 110.0), "fast": (1.5, 22.0)}
"""Seconds a picture, and seconds a megapixel, of `photos` on two processor cores (examples/, 256 x 256): what is said before anything is known."""
FADE = 0.95
"""Of the weight that earlier pictures keep with each new one."""
LOOKED_AT = 1000
"""Pictures whose size is read; more are taken to be as large as these."""
LOOKED_FOR = 5.0
"""Seconds after which no more of them are looked at: on a slow network the run itself is to begin."""
MOST_KEYS = 200


@dataclass(frozen=True)
class Expectation:
    """What a run is expected to be."""

    pictures: int
    megapixels: float
    seconds: float
    known: bool
    """Whether pictures were timed on this machine with these settings; else the time is a rough guess."""

    def __str__(self) -> str:
        pictures = f"{self.pictures:,} picture{'s' if self.pictures != 1 else ''}, " if self.pictures != 1 else ""
        how = "here" if self.known else "roughly, for nothing was timed here yet"
        return f"{pictures}{self.megapixels:,.3g} megapixels: about {duration(self.seconds)} {how}"


def duration(seconds: float) -> str:
    """Return a time as people say it: 8 s, 4 min, 2 h 30 min, 3 days."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    return f"{round(minutes / 1440)} days"


def key_of(model: str, device: str, dtype: str, fast: bool, threads: int | None = None) -> str:
    """Return what times are kept under: whatever changes them most."""
    return "|".join([model, device, dtype, "fast" if fast else "steps", str(threads or os.cpu_count())])


def _file() -> Path:
    return converted_folder("seconds.json")


def _read() -> dict[str, list[float]]:
    """Return the sums (weight, megapixels, their squares, seconds, seconds x megapixels) of each key; none if the file is not ours."""
    found: Any = None
    with suppress(OSError, ValueError, RecursionError):
        path = _file()
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() and path.stat().st_size < 1 << 20 else None
    if not isinstance(found, dict):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, list) and len(v) == 5 and all(isinstance(n, float) and 0 <= n < 1e12 for n in v)}


def learn(key: str, records: Iterable[Record]) -> None:
    """Add what pictures took; what cannot be kept is forgotten."""
    seen = [
        (r.width * r.height / 1e6, r.seconds.get("total", 0.0))
        for r in records
        if r.status == "done" and r.steps is not None and r.width and r.height
    ]
    seen = [(m, s) for m, s in seen if s > 0]
    if not seen:
        return
    kept = _read()
    sums = kept.pop(key, [0.0] * 5)
    for m, s in seen:
        sums = [FADE * old + new for old, new in zip(sums, (1.0, m, m * m, s, s * m), strict=True)]
    # The last used stand last, and the first fall out.
    kept = dict([*kept.items(), (key, sums)][-MOST_KEYS:])
    with suppress(OSError, FlashdiffError):
        path = _file()
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as file:
            file.write(json.dumps(kept).encode())


def rate(key: str) -> tuple[float, float] | None:
    """Return (seconds a picture, seconds a megapixel) of this machine, neither negative; None if nothing was timed."""
    sums = _read().get(key)
    if sums is None or sums[0] <= 0 or sums[1] <= 0:
        return None
    n, m, mm, s, sm = sums
    spread = n * mm - m * m
    # Pictures that are nearly of one size say nothing of what a larger one takes but its share of pixels.
    slope = (n * sm - m * s) / spread if spread > 0.05 * n * mm else s / m
    slope = min(max(slope, 0.0), s / m)
    return max(0.0, (s - slope * m) / n), slope


def megapixels(jobs: Sequence[Job], scale: int = 1) -> float | None:
    """Return the size of all results together, from the files' headers; None if none can be read.

    Args:
        jobs: of a run.
        scale: how many times the results are larger along each side.
    """
    sizes, began = [], time.monotonic()
    for job in jobs[:LOOKED_AT]:
        if time.monotonic() - began > LOOKED_FOR:
            break
        if not isinstance(job.source, Path):  # whose pictures would have to be fetched
            continue
        with suppress(Exception):  # whatever is wrong with a file is said when it is its turn
            width, height = in_time(partial(size_of, job.source))
            sizes.append(width * height)
    return None if not sizes else sum(sizes) / len(sizes) * len(jobs) * scale**2 / 1e6


def expect(jobs: Sequence[Job], key: str, fast: bool, samples: int = 1, scale: int = 1) -> Expectation | None:
    """Return what a run is expected to take; None if there is nothing to do, or nothing is known of the pictures.

    Args:
        jobs: what is to be done.
        key: see `key_of`.
        fast: whether no steps are run.
        samples: restorations of each picture.
        scale: see `megapixels`.
    """
    size = megapixels(jobs, scale)
    if size is None or not math.isfinite(size):
        return None
    known = rate(key)
    each, slope = known or GUESSED["fast" if fast else "steps"]
    return Expectation(len(jobs), size, samples * (each * len(jobs) + slope * size), known is not None)
