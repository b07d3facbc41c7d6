"""Severity and blur width read off the encoder's reconstruction, where that tells more than the encoder's own deviation.

A small severity encoder knows what it reconstructs better than how wrong that is. Four things together explain most of the
error of a blurred picture's latent, and of the true width of the blur: the blur that takes the reconstruction to the
measurement, the noise, how much detail the reconstruction holds, and the encoder's own variance, which knows a face from a
meadow. Quadratic forms of their logarithms, fitted on clean pictures (`benchmarks/calibrate.py`), weigh them; a model folder keeps the
coefficients for each severity encoder that they were found to serve better.

The variance is a mean (least squares). The width is a low quantile: a width taken too large sharpens what is not blurred,
which harms a picture much more than one taken too small.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

NOISE_FLOOR, GRADIENT_FLOOR, VARIANCE_FLOOR = 0.005, 0.002, 1e-6
VARIANCE_LIMITS, WIDTH_LIMITS = (1e-4, 1e2), (0.2, 6.0)
TERMS = 15


class BlurFeatures(NamedTuple):
    """What a reconstruction shows of B measurements, (B,) each."""

    width: torch.Tensor
    """Fitted blur in pixels (`operators.estimate.fit_blur`)."""
    noise_std: torch.Tensor
    """On intensities in [0, 1]."""
    gradient: torch.Tensor
    """`mean_gradient` of the reconstruction."""
    variance: torch.Tensor
    """The encoder's own."""


def mean_gradient(image: torch.Tensor) -> torch.Tensor:
    """Return (B,): mean absolute difference of horizontal neighbours of (B, 3, H, W)."""
    return (image[..., 1:] - image[..., :-1]).abs().mean((1, 2, 3))


def logarithms(blur_features: BlurFeatures) -> torch.Tensor:
    """Return (B, 4) in float64: width, noise, gradient and variance, the last three with a floor under them."""
    width, noise_std, gradient, variance = (part.double() for part in blur_features)
    floored = [width, noise_std + NOISE_FLOOR, gradient + GRADIENT_FLOOR, variance + VARIANCE_FLOOR]
    return torch.stack(floored, 1).log()


def terms(blur_features: BlurFeatures, bounds: list[list[float]]) -> torch.Tensor:
    """Return all monomials up to degree two of the four logarithms: (B, 15).

    Args:
        blur_features: of B measurements.
        bounds: lowest and highest of each logarithm that was fitted; what lies outside is taken at the border.
    """
    x = logarithms(blur_features)
    low, high = torch.tensor(bounds, dtype=x.dtype, device=x.device).T
    x = x.clamp(low, high)
    pairs = [x[:, i] * x[:, j] for i in range(x.shape[1]) for j in range(i, x.shape[1])]
    return torch.stack([torch.ones_like(x[:, 0]), *x.T, *pairs], 1)


def _read(blur_features: BlurFeatures, calibration: Mapping[str, Any], of: str, limits: tuple[float, float]) -> torch.Tensor:
    found = terms(blur_features, calibration["bounds"])
    return (found @ torch.tensor(calibration[of], dtype=found.dtype, device=found.device)).exp().clamp(*limits).float()


def calibrated_variance(blur_features: BlurFeatures, calibration: Mapping[str, Any]) -> torch.Tensor:
    """Return the (B,) variance of the latent estimate's error.

    Args:
        blur_features: of B measurements.
        calibration: `variance` (15 coefficients) and `bounds` (4 pairs), as a model folder keeps them.
    """
    return _read(blur_features, calibration, "variance", VARIANCE_LIMITS)


def calibrated_width(blur_features: BlurFeatures, calibration: Mapping[str, Any]) -> torch.Tensor:
    """Return the (B,) standard deviation of the blur in pixels, rather too small than too large.

    Args:
        blur_features: of B measurements.
        calibration: `width` (15 coefficients) and `bounds` (4 pairs).
    """
    return _read(blur_features, calibration, "width", WIDTH_LIMITS)
