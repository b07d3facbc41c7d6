"""What a pipeline makes of measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from flashdiff_cli.diagnosis import Analysis, Diagnosis
from flashdiff_cli.flash import Start
from flashdiff_cli.operators import Operator
from flashdiff_cli.plan import SamplingPlan, SamplingRequest
from flashdiff_cli.solvers import Problem


@dataclass
class Restoration:
    """B restored images and what was done for each; what only a severity encoder can tell is None where none was asked."""

    images: torch.Tensor
    """(B, 3, H, W), clipped to [-1, 1]."""
    decoded: torch.Tensor | None
    """(B, 3, H, W): the severity encoder's own estimate, decoded."""
    latent: torch.Tensor
    """(B, C, h, w) that the images were decoded from."""
    variance: torch.Tensor | None
    """(B,): of the estimate's error."""
    start_step: torch.Tensor
    """(B,), 0 to `schedule_steps`."""
    schedule_steps: int
    steps: torch.Tensor
    """(B,) reverse steps that were run."""
    network_evaluations: torch.Tensor
    """(B,) forward passes of the UNet."""
    operators: list[dict[str, Any]]
    """Name and parameters."""
    diagnosis: list[Diagnosis | None]
    """What was found in the pictures themselves; None where the operator was given."""
    noise_std: torch.Tensor
    """(B,) on intensities in [0, 1]."""
    solver: dict[str, Any]
    """`name`, `eta` and settings."""
    encoder: str | None
    fidelity: bool
    kept_detail: torch.Tensor
    """(B,): share of the solver's own detail that the last step has left."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By phase, of all samples together."""

    @classmethod
    def of(
        cls,
        plan: SamplingPlan,
        problem: Problem,
        begin: Start,
        analysis: Analysis | None,
        diagnosis: Diagnosis | None,
        images: torch.Tensor,
        kept_detail: torch.Tensor,
        latent: torch.Tensor,
        seconds: dict[str, float],
    ) -> Restoration:
        """Record what a pipeline has done."""
        operator, batch = problem.operator, len(images)
        return cls(
            images=images,
            decoded=None if analysis is None else analysis.decoded,
            latent=latent,
            variance=None if analysis is None else analysis.variance.float().cpu(),
            start_step=begin.level,
            schedule_steps=len(plan.schedule),
            steps=begin.level.clone(),
            network_evaluations=problem.network_evaluations,
            operators=[{"name": operator.name, **operator.describe(i)} for i in range(batch)],
            diagnosis=[diagnosis] * batch,
            noise_std=problem.noise_std,
            solver=plan.describe_solver(),
            encoder=None if analysis is None else analysis.encoder,
            fidelity=plan.fidelity,
            kept_detail=kept_detail,
            seconds=seconds,
        )

    def split(self) -> list[Restoration]:
        """Return the restorations of single samples, the reverse of `joined`; seconds are shared evenly."""
        batch, parts = len(self.images), []
        for i in range(batch):
            whole = {entry.name: getattr(self, entry.name) for entry in fields(self)}
            values: dict[str, Any] = {k: v[i : i + 1] if torch.is_tensor(v) or isinstance(v, list) else v for k, v in whole.items()}
            values["seconds"] = {k: v / batch for k, v in self.seconds.items()}
            parts.append(type(self)(**values))
        return parts

    @classmethod
    def joined(cls, parts: Sequence[Restoration]) -> Restoration:
        """Join restorations of single samples; seconds are added up."""
        values = {}
        for entry in fields(cls):
            found = [getattr(part, entry.name) for part in parts]
            if all(torch.is_tensor(one) for one in found):
                values[entry.name] = torch.cat(found)
            elif isinstance(found[0], list):
                values[entry.name] = [one for part in found for one in part]
            else:
                values[entry.name] = found[0]
        values["encoder"] = ", ".join(dict.fromkeys(part.encoder for part in parts if part.encoder is not None)) or None
        values["seconds"] = {k: sum(part.seconds.get(k, 0.0) for part in parts) for k in parts[0].seconds}
        return cls(**values)


def one_by_one(
    pipeline: Callable[..., Restoration],
    measurement: torch.Tensor,
    operator: Operator | None,
    noise_std: float | torch.Tensor | None,
    request: SamplingRequest,
    generators: Sequence[torch.Generator],
    noise: torch.Tensor | None,
    callback: Callable[[int, int], None] | None,
) -> Restoration:
    """Restore a batch whose samples cannot share a run, each by itself; arguments as for the pipeline's call."""
    batch, parts = len(measurement), []
    for i in range(batch):
        given = {"noise_std": noise_std, "noise": noise}
        given = {k: v[i : i + 1] if torch.is_tensor(v) and v.numel() > 1 else v for k, v in given.items()}
        given["operator"] = None if operator is None else operator.subset(torch.arange(batch) == i)
        own = {"request": request.sample(i), "generators": generators[i : i + 1], "callback": callback}
        parts.append(pipeline(measurement[i : i + 1], **given, **own))
    return Restoration.joined(parts)
