"""Severity read off the encoder's reconstruction, where that orders pictures better than the encoder's own deviation.

A small severity encoder knows what it reconstructs better than how wrong that is. Three things that its decoded estimate
shows explain most of the error of a blurred picture's latent: the blur that takes the reconstruction to the measurement, the
noise, and how much detail the reconstruction holds. A log-linear fit to clean pictures (`benchmarks/calibrate.py`) weighs
them; a model folder keeps its coefficients for each severity encoder that it was found to serve better.
"""

from __future__ import annotations

from typing import Any

import torch

NOISE_FLOOR, GRADIENT_FLOOR = 0.005, 0.002
LOWEST, HIGHEST = 1e-4, 1e2


def mean_gradient(image: torch.Tensor) -> torch.Tensor:
    """(B,): mean absolute difference of horizontal neighbours of (B, 3, H, W)."""
    return (image[..., 1:] - image[..., :-1]).abs().mean((1, 2, 3))


def terms(width: torch.Tensor, noise_std: torch.Tensor, decoded: torch.Tensor, bounds: tuple[float, float]) -> torch.Tensor:
    """What the logarithm of the variance is linear in: (B, 5).

    Args:
        width: (B,) fitted blur in pixels, not corrected (`operators.estimate.fit_blur`).
        noise_std: (B,) on intensities in [0, 1].
        decoded: (B, 3, H, W) in [-1, 1].
        bounds: of log width, outside which nothing was fitted.
    """
    x = width.double().log().clamp(*bounds)
    noise = (noise_std.double() + NOISE_FLOOR).log()
    gradient = (mean_gradient(decoded).double() + GRADIENT_FLOOR).log()
    return torch.stack([torch.ones_like(x), x, x.square(), noise.to(x), gradient.to(x)], 1)


def calibrated_variance(
    width: torch.Tensor, noise_std: torch.Tensor, decoded: torch.Tensor, calibration: dict[str, Any]
) -> torch.Tensor:
    """(B,): variance of the latent estimate's error, per sample.

    Args:
        width, noise_std, decoded: as for `terms`.
        calibration: `coefficients` (5 numbers) and `log_width` (2 numbers), as a model folder keeps them.
    """
    found = terms(width, noise_std, decoded, tuple(calibration["log_width"]))
    return (found @ torch.tensor(calibration["coefficients"], dtype=found.dtype, device=found.device)).exp().clamp(LOWEST, HIGHEST).float()
