"""The path of a camera that was moved, estimated from the picture: what a diagnosis of a motion begins with is straight.

Two searches, each refined by what is restored with it (`kernel`): from the straight path that was seen, and from the one that explains the
picture's power spectrum (`spectrum`), which holds for the path turned by half a circle as well. What restores the picture with the least residual,
explains its spectrum and leaves it calm is believed; of a picture that may have been blurred otherwise, a round blur may be, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch

from flashdiff_cli.diagnosis import Analysis, Diagnosis
from flashdiff_cli.kernel import CAUTION, blur_of, busiest_window, gradients, radius_for, refine_kernel
from flashdiff_cli.last_step import LastStep
from flashdiff_cli.operators import MotionBlur
from flashdiff_cli.operators.motion_blur import kernel_axis
from flashdiff_cli.spectrum import PictureSpectrum, explaining_kernel

SPECTRUM, CALM = 0.1, 0.05
"""Weights of the misfit of the spectrum and of the logarithm of the mean root of the gradients, beside the logarithm of the residual. Chosen on 24
shaken crops of three sets, where each of the three alone is mistaken at times: a false path can explain a picture by inventing ripples."""

OUTRUN = 0.15
"""By how much the spectrum must prefer its path to the straight one for that not to be gone on from."""

MAY_BE_ROUND = 0.12
"""Probability of a round blur from which a picture that seems to have been shaken is compared with one."""

AS_WELL, LIKELIER = 0.004, 0.01
"""By how much a path must explain a spectrum better than a round blur does, where the classifier holds the path or the blur for likelier. Of doubted
pictures without a JPEG 28 of 35 blurred ones were below the first and 30 of 35 shaken ones above it; of the other five shaken ones four gain 4 to 17
dB more by the round blur. What is above and blurred may still be told by the doubt."""

ROUND_WIDTHS, ROUND_RADIUS = torch.linspace(0.3, 4.5, 43, dtype=torch.float64), 14
"""Standard deviations in pixels of the round blurs that are compared, and their radius."""

ITERATIONS = 2
"""Of refinement, for a path that is nearly right already: more take its bends for noise."""

LEAST_GRADIENT = 1e-3
"""Added to gradients, on the scale of [-1, 1], before their roots are taken."""


class Candidate(NamedTuple):
    """A kernel, and what speaks against it."""

    kernel: torch.Tensor
    doubt: float


@torch.no_grad()
def with_path(
    seen: Diagnosis, measurement: torch.Tensor, analyse: Callable[[torch.Tensor, str], Analysis], last_step: LastStep | None, multiple: int
) -> Diagnosis | None:
    """Return a diagnosis of a motion with the camera's path in place of a straight one; from a part of large pictures. Others stay.

    Args:
        seen: what the picture was found to suffer from.
        measurement: (1, 3, H, W) in [-1, 1] units, sides multiples of `multiple`.
        analyse: estimates the clean picture by a severity encoder, given a kind of degradation.
        last_step: that restores by each path that is tried; None: the path stays straight.
        multiple: of which sides and places of a part are.

    Returns:
        None where a round blur, which the classifier holds for possible, is the better explanation.
    """
    if seen.doubted or not isinstance(seen.operator, MotionBlur):
        return seen
    likely = seen.probabilities or {"gaussian-blur": 0.0, "motion-blur": 1.0}
    round_likelier = likely["gaussian-blur"] > likely["motion-blur"]
    unless_round = None if likely["gaussian-blur"] < MAY_BE_ROUND else LIKELIER if round_likelier else AS_WELL
    part = busiest_window(measurement, multiple).of(measurement).float()
    straight = seen.operator.kernel[0].double()
    if last_step is None or 2 * max(radius_for(straight), straight.shape[-1]) >= min(part.shape[-2:]):
        return None if round_likelier else seen
    analysis = analyse(part, seen.kind)

    def restore(kernel: torch.Tensor, caution: float = CAUTION) -> torch.Tensor:
        known = [torch.tensor([caution * std]) for std in (seen.noise_std, seen.rounding_std)]
        return last_step.restore(analysis.decoded, part, blur_of(kernel), *known)

    path = find_path(part, straight, math.hypot(seen.noise_std, seen.rounding_std), restore, unless_round)
    if path is None:
        return None
    return replace(seen, operator=blur_of(path), analysis=analysis if part.shape == measurement.shape else None)


def find_path(
    part: torch.Tensor, straight: torch.Tensor, noise_std: float, restore: Callable[..., torch.Tensor], unless_round: float | None = None
) -> torch.Tensor | None:
    """Return the kernel (k, k) float64 of the camera's path.

    Args:
        part: (1, 3, H, W) in [-1, 1], shaken.
        straight: kernel of the straight path that was seen.
        noise_std: on intensities in [0, 1].
        restore: returns the picture without a kernel's blur, given the kernel and how many times the noise is to be reckoned with.
        unless_round: by how much a path has to explain the spectrum better than a round blur; None: there was none.

    Returns:
        None where the blur was round rather: where it explains the spectrum as well, or restores the picture with less doubt.
    """
    length = kernel_axis(straight)[0]
    if unless_round is not None and ahead_of_round(part, noise_std, length) < unless_round:
        return None
    found = explaining_kernel(part, noise_std, length)
    if found is None:
        return refine_kernel(straight, part, restore)
    kernel, spectrum = found

    def judged(kernel: torch.Tensor) -> Candidate:
        return Candidate(kernel, doubt(kernel, part, restore(kernel, 1.0), spectrum))

    candidates = [min((judged(turned) for turned in (kernel, kernel.flip(0, 1))), key=lambda one: one.doubt)]
    candidates.append(judged(refine_kernel(candidates[0].kernel, part, restore, ITERATIONS)))
    if misfit_of(straight, spectrum) - misfit_of(kernel, spectrum) < OUTRUN:
        candidates.append(judged(refine_kernel(straight, part, restore)))
    best = min(candidates, key=lambda one: one.doubt)
    return None if unless_round is not None and judged(roundest(spectrum)[0]).doubt < best.doubt else best.kernel


def ahead_of_round(part: torch.Tensor, noise_std: float, length: float) -> float:
    """Return by how much a path explains the spectrum of a picture better than a round blur does; see `explaining_kernel`, 0 without one."""
    found = explaining_kernel(part, noise_std, length, headroom=1.0)
    return 0.0 if found is None else roundest(found[1])[1] - misfit_of(*found)


def roundest(spectrum: PictureSpectrum) -> tuple[torch.Tensor, float]:
    """Return the kernel (k, k) of the Gaussian blur that explains a spectrum best, and its misfit."""
    place = torch.arange(-ROUND_RADIUS, ROUND_RADIUS + 1, dtype=torch.float64)
    lines = (-(place / ROUND_WIDTHS[:, None]).square() / 2).exp()
    kernels = lines[:, :, None] * lines[:, None]
    kernels = kernels / kernels.sum((1, 2), keepdim=True)
    misfits = spectrum.misfit(kernels)
    return kernels[misfits.argmin()], misfits.min().item()


def doubt(kernel: torch.Tensor, part: torch.Tensor, restored: torch.Tensor, spectrum: PictureSpectrum) -> float:
    """Return what speaks against a kernel (k, k), the less the better: see SPECTRUM. Images (1, 3, H, W) in [-1, 1]."""
    residual = (blur_of(kernel).on_signed(restored) - part).square().mean().sqrt().clamp(min=1e-6).log()
    calm = (gradients(restored).abs() + LEAST_GRADIENT).sqrt().mean().log()
    return residual.item() + SPECTRUM * misfit_of(kernel, spectrum) + CALM * calm.item()


def misfit_of(kernel: torch.Tensor, spectrum: PictureSpectrum) -> float:
    """Return the misfit of one kernel (k, k), cut to the spectrum's block where it is larger."""
    over = max(0, (len(kernel) - spectrum.block + 2) // 2)
    kernel = kernel[over : len(kernel) - over, over : len(kernel) - over]
    return spectrum.misfit((kernel / kernel.sum())[None]).item()
