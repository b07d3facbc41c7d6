"""The data term solved in pixels: argmin_u |A u - y|^2 / (2 s^2) + |u - x|^2 / (2 t^2), in closed form where an operator has one.

This is the posterior mean of an image whose estimate x has white error of variance t^2, given a measurement with white noise of variance
s^2 (half-quadratic splitting's first half; Zhang et al., DPIR). The correction d = u - x solves (t^2 A'A + s^2) d = t^2 A'(y - A x), a form in
which both variances may vanish.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from flashdiff_cli.broadcast import shaped

ITERATIONS = 60
"""Conjugate gradient steps at most; camera shake under noise of 0.01 takes about 40 where the image is hardly believed, and 7 at the end."""
TOLERANCE = 1e-3

Linear = Callable[[torch.Tensor], torch.Tensor]


def conjugate_gradient(normal: Linear, right: torch.Tensor, precondition: Linear | None = None, iterations: int = ITERATIONS) -> torch.Tensor:
    """Solve N d = right for every sample by itself, N symmetric and positive.

    Args:
        normal: N, (B, ...) -> (B, ...).
        right: (B, ...).
        precondition: an approximate inverse of N, symmetric and positive.
        iterations: at most; a sample whose residual has shrunk to a thousandth stays as it is.
    """
    precondition = precondition or (lambda v: v)
    d, left = torch.zeros_like(right), right.clone()
    ready = precondition(left)
    direction = ready.clone()
    power = (left * ready).flatten(1).sum(1)
    enough = TOLERANCE**2 * right.square().flatten(1).sum(1)
    for _ in range(iterations):
        active = left.square().flatten(1).sum(1) > enough
        if not bool(active.any()):
            break
        image = normal(direction)
        curvature = (direction * image).flatten(1).sum(1)
        step = shaped(torch.where(active, power / curvature.clamp(min=1e-30), 0.0), d)
        d, left = d + step * direction, left - step * image
        ready = precondition(left)
        now = (left * ready).flatten(1).sum(1)
        direction = ready + shaped(now / power.clamp(min=1e-30), d) * direction
        power = now
    return d


def solve(
    x: torch.Tensor,
    residual: torch.Tensor,
    forward: Linear,
    adjoint: Linear,
    noise_variance: torch.Tensor,
    error_variance: torch.Tensor,
    precondition: Linear | None = None,
) -> torch.Tensor:
    """Return x + d by conjugate gradients.

    Args:
        x: (B, 3, H, W).
        residual: y - A x, measurement-sized.
        forward, adjoint: the linear part of A, and its adjoint.
        noise_variance, error_variance: s^2 and t^2, (B,), in the units of x squared.
        precondition: see `conjugate_gradient`.
    """
    t, s = shaped(error_variance, x), shaped(noise_variance.clamp(min=1e-8), x)
    return x + conjugate_gradient(lambda d: t * adjoint(forward(d)) + s * d, t * adjoint(residual), precondition)


def mirrored_cosines(x: torch.Tensor) -> torch.Tensor:
    """Return the DCT-I of the last two axes of (..., H, W), both at least 2: what diagonalises an even filter with mirrored borders."""
    for axis in (-1, -2):
        length = x.shape[axis]
        inner = x.narrow(axis, 1, length - 2).flip(axis)
        x = torch.fft.rfft(torch.cat([x, inner], axis), dim=axis).real
    return x


def inverse_mirrored_cosines(x: torch.Tensor) -> torch.Tensor:
    """Return what `mirrored_cosines` was made of."""
    for axis in (-1, -2):
        x = torch.fft.irfft(x.to(torch.complex64 if x.dtype == torch.float32 else torch.complex128), n=2 * (x.shape[axis] - 1), dim=axis).narrow(
            axis, 0, x.shape[axis]
        )
    return x
