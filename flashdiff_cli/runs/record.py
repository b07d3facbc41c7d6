"""One record a picture: what went in, what was estimated, what was done, how long it took."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
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
        """One line of strict JSON."""
        return json.dumps(finite(asdict(self)), ensure_ascii=False)


def finite(value: Any) -> Any:
    """JSON has no infinities: they become null."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value
