"""What a pipeline returns: what it saw in measurements, and what it made of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from flashdiff_cli.calibration import Evidence
from flashdiff_cli.diagnosis import Diagnosis
from flashdiff_cli.severity import SeverityEstimate


@dataclass
class Analysis:
    """What the severity encoder says of B measurements."""

    estimate: SeverityEstimate
    decoded: torch.Tensor
    """(B, 3, H, W) in [-1, 1]: the decoded latent estimate, before any diffusion step."""
    encoder: str
    """Name of the severity encoder that was used."""
    evidence: Evidence | None = None
    """What the calibration of this encoder was read from; None where it has none."""

    @property
    def latent(self) -> torch.Tensor:
        return self.estimate.latent

    @property
    def variance(self) -> torch.Tensor:
        return self.estimate.variance


@dataclass
class Restoration:
    """B restored images and what was done for each."""

    images: torch.Tensor
    """(B, 3, H, W), clipped to [-1, 1]."""
    decoded: torch.Tensor
    """(B, 3, H, W): the severity encoder's own estimate, decoded."""
    latent: torch.Tensor
    variance: torch.Tensor
    start_step: torch.Tensor
    schedule_steps: int
    steps: torch.Tensor
    network_evaluations: torch.Tensor
    operators: list[dict[str, Any]]
    diagnosis: list[Diagnosis | None]
    """What was found in the pictures themselves; None where the operator was given."""
    noise_std: torch.Tensor
    solver: dict[str, Any]
    encoder: str
    fidelity: bool
    kept_detail: torch.Tensor
    """(B,): share of the solver's own detail that `fidelity.restrain` has left."""
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Sequence[Restoration]) -> Restoration:
        """Restorations of single samples as one of them all; seconds are added up."""
        values = {}
        for entry in fields(cls):
            found = [getattr(part, entry.name) for part in parts]
            if torch.is_tensor(found[0]):
                values[entry.name] = torch.cat(found)
            elif isinstance(found[0], list):
                values[entry.name] = [one for part in found for one in part]
            else:
                values[entry.name] = ", ".join(dict.fromkeys(found)) if entry.name == "encoder" else found[0]
        values["seconds"] = {k: sum(part.seconds.get(k, 0.0) for part in parts) for k in parts[0].seconds}
        return cls(**values)


class Clock:
    """Seconds by phase, with the device brought to rest at each boundary."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, {}

    @contextmanager
    def phase(self, name: str):
        begin = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
