"""One record a picture: what went in, what was estimated, what was done, how long it took."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass
class Record:
    """The JSON schema of `--json`, of run logs and of reports; a value is None where it does not apply."""

    input: str
    """Path as given; in a folder, the folder joined with the path below it."""
    output: str | None = None
    """Path written."""
    others: list[str] = field(default_factory=list)
    """Paths of what was written besides: maps, samples, their mean."""
    status: str = "done"
    """"done", "skipped" (an earlier run has done it; the figures are that run's) or "failed"."""
    error: str | None = None
    width: int | None = None
    height: int | None = None
    operator: dict[str, Any] | None = None
    """`name`, its parameters, and `estimated`: whether they were found in the picture."""
    degradation: dict[str, Any] | None = None
    """What the picture itself shows, where no operator was given: `kind`, `confidence` and the `probabilities` of all kinds."""
    noise_std: float | None = None
    """On intensities in [0, 1]."""
    severity: float | None = None
    """Standard deviation of the latent estimate's error."""
    variance: float | None = None
    """Mean over the tiles, where there are several."""
    start_step: int | None = None
    """Of the hardest tile, where there are several; so is `steps`."""
    schedule_steps: int | None = None
    steps: int | None = None
    network_evaluations: int | None = None
    """Of all tiles together."""
    samples: int | None = None
    """Restorations that were made, where there are more than one."""
    spread: float | None = None
    """Their standard deviation on intensities in [0, 1], mean over the pixels."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By phase, and in all as `total`."""
    solver: dict[str, Any] | None = None
    """`name`, `eta` and settings."""
    encoder: str | None = None
    """The severity encoder used."""
    fidelity: bool | None = None
    """Whether the result was corrected by its measurement at the end."""
    kept_detail: float | None = None
    """Share of the solver's detail that was kept, so that the result is nearer to the truth than the input; mean over the tiles."""
    model: str | None = None
    seed: int | None = None
    device: str | None = None
    dtype: str | None = None
    version: str | None = None
    notes: list[str] = field(default_factory=list)
    tiles: list[dict[str, Any]] | None = None
    """Where a picture was cut: each tile's place in pixels, severity, start_step, steps and network_evaluations."""

    def to_json(self) -> str:
        """Return one line of strict JSON."""
        return json.dumps(finite(asdict(self)), ensure_ascii=False)

    @classmethod
    def of_stranger(cls, values: Any) -> Record:
        """Return a record that was read from a file, which anybody may have written; what this version does not know is left out.

        Raises:
            ValueError: a value is of another type than the schema says, out of its range, or too large.
        """
        if not isinstance(values, dict):
            raise ValueError
        known = {f.name: f.type for f in fields(cls)}
        found = {name: value for name, value in values.items() if name in known}
        for name, value in found.items():
            if not _fits(value, str(known[name])):
                raise ValueError(name)
        record = cls(**found)
        record._check_together()
        return record

    def _check_together(self) -> None:
        """Raise a ValueError if the values contradict what everything that shows a record relies on."""
        counted = (self.width, self.height, self.start_step, self.schedule_steps, self.steps, self.network_evaluations, self.samples)
        sizes = (self.severity, self.variance, self.noise_std, self.spread, *self.seconds.values())
        if self.status not in STATUSES or any(n is not None and n < 0 for n in (*counted, *sizes)):
            raise ValueError
        if (self.width is None) != (self.height is None) or (self.steps is not None and not self.schedule_steps):
            raise ValueError
        for path in (self.input, self.output or "", *self.others):
            # Neither zeros nor halves of letters can be in the name of a file; the latter are a ValueError already.
            if b"\0" in os.fsencode(path):
                raise ValueError
        if self.operator is not None and not isinstance(self.operator.get("name"), str):
            raise ValueError
        found = self.degradation or {}
        if "confidence" in found and not (isinstance(found.get("kind"), str) and _fits(found["confidence"], "float")):
            raise ValueError


STATUSES = ("done", "skipped", "failed")
LONGEST_TEXT, MOST_VALUES, DEEPEST = 32768, 200_000, 6
"""Of values in a record that is read: letters of a text, values in all, and how deep they are nested."""


def _fits(value: Any, kind: str) -> bool:
    """Return whether a value is of the type that an annotation names, and plain, finite and of bounded size."""
    if value is None:
        return kind.endswith("| None")
    kind = kind.removesuffix(" | None")
    if kind in ("str", "bool", "int", "float"):
        types = {"str": str, "bool": bool, "int": int, "float": (int, float)}[kind]
        return isinstance(value, types) and (kind == "bool" or not isinstance(value, bool)) and _plain(value)
    outer, _, inner = kind.removesuffix("]").partition("[")
    if outer == "list":
        return isinstance(value, list) and _plain(value) and all(_fits(v, inner) for v in value)
    if outer == "dict":
        return isinstance(value, dict) and _plain(value) and all(_fits(v, inner.partition(", ")[2]) for v in value.values())
    return _plain(value)


def _plain(value: Any) -> bool:
    """Return whether a value is JSON's, finite, and no larger than a run makes it."""
    waiting, count = [(value, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if count > MOST_VALUES or depth > DEEPEST:
            return False
        if isinstance(value, dict):
            waiting += [(v, depth + 1) for pair in value.items() for v in pair]
        elif isinstance(value, list):
            waiting += [(v, depth + 1) for v in value]
        elif isinstance(value, str):
            if len(value) > LONGEST_TEXT:
                return False
        elif isinstance(value, float):
            if not math.isfinite(value):
                return False
        elif isinstance(value, int):
            if abs(value) >= 2**63:
                return False
        elif value is not None:
            return False
    return True


def finite(value: Any) -> Any:
    """Replace infinities by None: JSON has none."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
