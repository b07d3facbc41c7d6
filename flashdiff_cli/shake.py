"""The path of a camera that was moved, estimated from the picture: what a diagnosis of a motion begins with is straight.

Two searches, each refined by what is restored with it (`kernel`): from the straight path that was seen, and from the one that explains the
picture's power spectrum (`spectrum`), which holds for the path turned by half a circle as well. What restores the picture with the least residual,
explains its spectrum and leaves it calm is believed.
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
    part = busiest_window(measurement, multiple).of(measurement).float()
    straight = seen.operator.kernel[0].double()
    if 2 * max(radius_for(straight), straight.shape[-1]) >= min(part.shape[-2:]):
        return seen
    analysis = analyse(part, seen.kind)

    def restore(kernel: torch.Tensor, caution: float = CAUTION) -> torch.Tensor:
        known = [torch.tensor([caution * std]) for std in (seen.noise_std, seen.rounding_std)]
        return last_step.restore(analysis.decoded, part, blur_of(kernel), *known)

    noise_std = math.hypot(seen.noise_std, seen.rounding_std)
    path = blur_of(find_path(part, straight, noise_std, restore))
    return replace(seen, operator=path, analysis=analysis if part.shape == measurement.shape else None)


def find_path(part: torch.Tensor, straight: torch.Tensor, noise_std: float, restore: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Return the kernel (k, k) float64 of the camera's path.

    Args:
        part: (1, 3, H, W) in [-1, 1], shaken.
        straight: kernel of the straight path that was seen.
        noise_std: on intensities in [0, 1].
        restore: returns the picture without a kernel's blur, given the kernel and how many times the noise is to be reckoned with.
    """
    found = explaining_kernel(part, noise_std, kernel_axis(straight)[0])
    if found is None:
        return refine_kernel(straight, part, restore)
    kernel, spectrum = found

    def judged(kernel: torch.Tensor) -> Candidate:
        return Candidate(kernel, doubt(kernel, part, restore(kernel, 1.0), spectrum))

    candidates = [min((judged(turned) for turned in (kernel, kernel.flip(0, 1))), key=lambda one: one.doubt)]
    candidates.append(judged(refine_kernel(candidates[0].kernel, part, restore, ITERATIONS)))
    if misfit_of(straight, spectrum) - misfit_of(kernel, spectrum) < OUTRUN:
        candidates.append(judged(refine_kernel(straight, part, restore)))
    return min(candidates, key=lambda one: one.doubt).kernel


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
