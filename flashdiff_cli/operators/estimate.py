"""What a measurement says of its own degradation: the width of a Gaussian blur and the level of the noise."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from flashdiff_cli.operators.gaussian_blur import GaussianBlur

WIDTHS = torch.logspace(math.log10(0.2), math.log10(6.0), 25, dtype=torch.float64)
"""Candidate standard deviations in pixels; the minimum is then refined between its neighbours."""

HIGH_PASS = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])
"""Second difference along both axes: nearly blind to edges and blur, all noise (Immerkaer 1996)."""


def noise_level(measurement: torch.Tensor) -> torch.Tensor:
    """Standard deviation of white noise, from the median absolute second difference.

    Args:
        measurement: (B, C, H, W) in [-1, 1] units, sides of at least 3.

    Returns:
        (B,) on intensities in [0, 1].
    """
    kernel = HIGH_PASS.to(measurement)[None, None].expand(measurement.shape[1], 1, 3, 3)
    response = F.conv2d(measurement, kernel, groups=measurement.shape[1]).flatten(1)
    # 0.6745 sigma is the median of |N(0, sigma^2)|; the kernel's norm is 6; half, for intensities.
    return response.abs().median(1).values / 0.6745 / 6 / 2


def fit_blur(measurement: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    """The width that best explains each measurement from its reconstruction: argmin_s ||y - G_s x||.

    Args:
        measurement, reconstruction: (B, 3, H, W) in [-1, 1].

    Returns:
        (B,) standard deviations in pixels, from 0.2 to 6.
    """
    batch = len(measurement)
    errors = torch.stack(
        [
            (measurement - GaussianBlur(width.expand(batch)).forward(reconstruction)).double().square().flatten(1).sum(1)
            for width in WIDTHS
        ]
    )
    best = errors.argmin(0).clamp(1, len(WIDTHS) - 2)
    columns = torch.arange(batch)
    left, middle, right = errors[best - 1, columns], errors[best, columns], errors[best + 1, columns]
    curvature = (left - 2 * middle + right).clamp(min=1e-12)
    shift = (0.5 * (left - right) / curvature).clamp(-1, 1)
    spacing = math.log(WIDTHS[1] / WIDTHS[0])
    return (WIDTHS.log()[best.cpu()].to(shift) + spacing * shift).exp().float()
