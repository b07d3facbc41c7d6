"""How a restoration ends: what a measurement says that no latent can hold is given back, and what a sampler made up in excess is taken away."""

from __future__ import annotations

import torch

from flashdiff_cli.broadcast import select, shaped
from flashdiff_cli.data_consistency import data_consistency, limit_deviation, residual_correlation
from flashdiff_cli.diagnosis import Diagnosis
from flashdiff_cli.last_step import LastStep
from flashdiff_cli.operators import Operator
from flashdiff_cli.operators.base import per_sample

KNOWN, UNKNOWN = 0.45, 0.8
"""How much of a picture the network of mixtures changes, as a share of what its operator asks for, where the operator explains it, and where it does
not: noise and blotches that were enlarged with a picture belong to it by its operator. On 67 pictures taken for enlarged, with and without such a
past, the change was 0.2 to 0.7 and 0.6 to 1.3 times the operator's."""

UNEXPLAINED = 0.03
"""`residual_correlation` from which a camera's path that was estimated does not explain its picture. Of 47 shaken crops the 45 below it gained 5.6 dB
on average by being believed (4.9 by half, 3.2 by `limit_deviation`; one lost 0.2); of the two above, one would have lost 2.6."""


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
    heard = diagnosis is not None and decoded is not None and bool(diagnosis.share.any())
    blind = None
    if last_step_mixed is not None and diagnosis is not None and (heard or diagnosis.mixed):
        blind = last_step_mixed.restore(images, operator.seen(measurement), None, torch.zeros(1))
    results, kept = _by_operator(images, decoded, measurement, operator, noise_std, diagnosis, last_step, blind)
    if not heard or diagnosis is None or decoded is None or blind is None:
        return results, kept
    # Their errors differ from those of a wrong operator, and one another's: the mean of all is nearer than any.
    return results + shaped(diagnosis.share, results) * ((decoded + blind) / 2 - results), kept


def _by_operator(
    images: torch.Tensor,
    decoded: torch.Tensor | None,
    measurement: torch.Tensor,
    operator: Operator,
    noise_std: torch.Tensor,
    diagnosis: Diagnosis | None,
    last_step: LastStep | None,
    blind: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `finish` does by the operator; `blind` is what the network of mixtures makes of the measurements, where it was asked."""
    whole = torch.ones(len(images))
    if diagnosis is not None and diagnosis.kind == "none":
        # Nothing was found, so nothing is changed: not even what a first stage loses.
        return operator.resize_to_image(measurement).clamp(-1, 1), whole
    rounding_std = per_sample(0.0 if diagnosis is None else diagnosis.rounding_std)

    def consistent(image: torch.Tensor) -> torch.Tensor:
        if last_step is None:
            return data_consistency(image, measurement, operator, noise_std)
        return last_step.restore(image, measurement, operator, noise_std, rounding_std)

    if diagnosis is not None and diagnosis.mixed and blind is not None:
        if diagnosis.uncertain:
            return blind, whole
        seen = operator.seen(measurement)
        # Texture that was enlarged is taken for noise at times, but not by a network that is told nothing: there is no more than it took away.
        noise_std = torch.minimum(noise_std.to(blind), root_mean_square(blind - seen) / 2)
        return by_what_explains(consistent(images), blind, seen), whole
    corrected = consistent(images)
    trusted = diagnosis is None or diagnosis.trusted
    # By an operator that is known, the network's rounds come to the same image from wherever they start.
    if decoded is None or (trusted and last_step is not None):
        return corrected, whole
    limited, kept = limit_deviation(corrected, consistent(decoded) if trusted else decoded, operator.seen(measurement))
    if trusted or last_step is None or not operator.linear:
        return limited, kept
    # A wrong path leaves edges in the residual; where there are none, the path is believed.
    explained = residual_correlation(operator, corrected, measurement.float()) < UNEXPLAINED
    return select(explained, corrected, limited), torch.where(explained.cpu(), whole, kept)


def by_what_explains(corrected: torch.Tensor, blind: torch.Tensor, measurement: torch.Tensor) -> torch.Tensor:
    """Return a mean of two restorations (B, 3, H, W), of which the second counts the more the less the operator of the first explains.

    Args:
        corrected: consistent with the measurement by an operator that was estimated.
        blind: made without one, with noise and blotches taken out.
        measurement: at the image's size, in [-1, 1] units.
    """
    asked, changed = (root_mean_square(image - measurement) for image in (corrected, blind))
    share = ((changed / asked.clamp(min=1e-6) - KNOWN) / (UNKNOWN - KNOWN)).clamp(0, 1)
    return corrected + shaped(share, blind) * (blind - corrected)


def root_mean_square(images: torch.Tensor) -> torch.Tensor:
    """Return the root of the mean square of each image (B, 3, H, W): (B,)."""
    return images.flatten(1).square().mean(1).sqrt()
