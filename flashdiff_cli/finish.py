"""How a restoration ends: what a measurement says that no latent can hold is given back, and what a sampler made up in excess is taken away."""

from __future__ import annotations

import torch

from flashdiff_cli.data_consistency import data_consistency, limit_deviation
from flashdiff_cli.diagnosis import Diagnosis
from flashdiff_cli.last_step import LastStep
from flashdiff_cli.operators import Operator


def finish(
    images: torch.Tensor,
    decoded: torch.Tensor | None,
    measurement: torch.Tensor,
    operator: Operator,
    noise_std: torch.Tensor,
    diagnosis: Diagnosis | None = None,
    last_step: LastStep | None = None,
    last_step_mixed: LastStep | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give back to restored images what their measurements say was lost, and take away what a sampler made up in excess.

    Args:
        images: (B, 3, H, W) in [-1, 1], as decoded.
        decoded: the severity encoder's estimate, of the same shape; None where there is none.
        measurement: in [-1, 1] units.
        operator: that degraded them.
        noise_std: (B,) on intensities in [0, 1].
        diagnosis: what the operator came from, if it is an estimate.
        last_step: the model's, for operators that are known; None: `data_consistency` in its place.
        last_step_mixed: the model's, for what no operator explains; None: the severity encoder's estimate stands in.

    Returns:
        the final images, and the share (B,) of the solver's own detail that was kept.
    """
    whole = torch.ones(len(images))
    if diagnosis is not None and diagnosis.kind == "none":
        # Nothing was found, so nothing is changed: not even what a first stage loses.
        return operator.resize_to_image(measurement).clamp(-1, 1), whole
    rounding_std = torch.tensor([0.0 if diagnosis is None else diagnosis.rounding_std])

    def consistent(image: torch.Tensor) -> torch.Tensor:
        if last_step is None:
            return data_consistency(image, measurement, operator, noise_std)
        return last_step.restore(image, measurement, operator, noise_std, rounding_std)

    corrected = consistent(images)
    if diagnosis is not None and diagnosis.mixed and last_step_mixed is not None:
        blind = last_step_mixed.restore(images, operator.seen(measurement), None, torch.zeros(1))
        # Two estimates that err apart err less together; where not even the kind is certain, the operator's is none.
        return (blind if diagnosis.uncertain else (corrected + blind) / 2), whole
    trusted = diagnosis is None or diagnosis.trusted
    # By an operator that is known, the network's rounds come to the same image from wherever they start.
    if decoded is None or (trusted and last_step is not None):
        return corrected, whole
    return limit_deviation(corrected, consistent(decoded) if trusted else decoded, operator.seen(measurement))
