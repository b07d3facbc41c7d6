"""The path of a camera that was moved, estimated from the picture: what a diagnosis of a motion begins with is straight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from flashdiff_cli.diagnosis import Analysis, Diagnosis
from flashdiff_cli.kernel import CAUTION, busiest_window, refine_kernel
from flashdiff_cli.last_step import LastStep
from flashdiff_cli.operators import MotionBlur


@torch.no_grad()
def with_path(
    seen: Diagnosis, measurement: torch.Tensor, analyse: Callable[[torch.Tensor, str], Analysis], last_step: LastStep | None, multiple: int
) -> Diagnosis:
    """Return a diagnosis of a motion with the camera's path in place of a straight one; from a part of large pictures. Others stay.

    Args:
        seen: what the picture was found to suffer from.
        measurement: (1, 3, H, W) in [-1, 1] units, sides multiples of `multiple`.
        analyse: estimates the clean picture by a severity encoder, given a kind of degradation.
        last_step: that restores by each path that is tried; None: the path stays straight.
        multiple: of which sides and places of a part are.
    """
    if last_step is None or not isinstance(seen.operator, MotionBlur):
        return seen
    part = busiest_window(measurement, multiple).of(measurement)
    analysis = analyse(part, seen.kind)
    known = [torch.tensor([std]) for std in (CAUTION * seen.noise_std, seen.rounding_std)]
    path = refine_kernel(part.float(), seen.operator, lambda blur: last_step.restore(analysis.decoded, part, blur, *known))
    return replace(seen, operator=path, analysis=analysis if part.shape == measurement.shape else None)
