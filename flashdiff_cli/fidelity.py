"""What a restored image still owes to its measurement: a last step of data consistency, in pixels.

The first stage loses some detail and colour, and a solver's guidance stops short of the measurement. The measurement
y = A(x) + n says what is missing: with a restored image x' whose error is taken for white with variance t^2,

    x = x' + d,   d = argmin |A d - r|^2 / (2 s^2) + |d|^2 / (2 t^2),   r = y - A(x'),

the posterior mean of the error. The residual itself tells t^2: the mean of r^2 is s^2 + t^2 a, where a is the mean square
gain of A. Where noise explains all of the residual, t^2 is 0 and nothing is changed; without noise, the correction is all that
the measurement asks for.

And what a restored image must not do: end up further from the truth than its measurement was. A severity encoder's estimate m is
close to the posterior mean E[x | y], so the error x - m is uncorrelated with whatever is computed from y, and with draws of a sampler:

    E|y - x|^2 = |y - m|^2 + V,    E|m + w (x' - m) - x|^2 = w^2 |x' - m|^2 + V

with the same unknown V. The restored image is no worse than its measurement where w |x' - m| <= |y - m|, and `restrain` holds it to a
share of that. Most images pass untouched (w = 1); what is drawn in is detail that a sampler made up in excess.
"""

from __future__ import annotations

import torch

from flashdiff_cli.broadcast import select, shaped
from flashdiff_cli.operators import Jpeg, Operator

ITERATIONS = 30
"""Conjugate gradient steps at most."""
TOLERANCE = 1e-3
MARGIN = 0.7
"""Of |y - m|^2 that |x' - m|^2 may reach: below 1 because m is not quite the posterior mean."""


def _mean(x: torch.Tensor) -> torch.Tensor:
    """(B,) means over all but the samples."""
    return x.flatten(1).mean(1)


def gain(operator: Operator, like: torch.Tensor) -> torch.Tensor:
    """(B,) mean square gain of a linear operator: what white noise of variance 1 becomes, for images shaped as `like`."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(like.shape[1:], generator=generator).to(like).expand_as(like)
    return operator.forward(noise).square().flatten(1).mean(1)


def correct(image: torch.Tensor, measurement: torch.Tensor, operator: Operator, noise_std: torch.Tensor) -> torch.Tensor:
    """The image with what its measurement says of its error.

    Args:
        image: (B, 3, H, W) in [-1, 1].
        measurement: y, in [-1, 1] units.
        operator: A; for JPEG the image is brought to what compresses to y; another that is not linear changes nothing.
        noise_std: (B,) on intensities in [0, 1].

    Returns:
        (B, 3, H, W) in [-1, 1].
    """
    if isinstance(operator, Jpeg):
        return 2 * operator.agree((image + 1) / 2, (measurement.to(image) + 1) / 2).clamp(0, 1) - 1
    if not operator.linear:
        return image
    residual = measurement.to(image) - operator.on_signed(image)
    noise = (2 * noise_std).square().to(image).clamp(min=1e-8)
    error = ((_mean(residual.square()) - noise) / gain(operator, image).clamp(min=1e-8)).clamp(min=0)
    # The normal equations, times t^2 s^2 so that both variances may vanish: (t^2 A'A + s^2) d = t^2 A'r.
    t, s = shaped(error, image), shaped(noise, image)

    def normal(d: torch.Tensor) -> torch.Tensor:
        return t * operator.adjoint(operator.forward(d)) + s * d

    right = t * operator.adjoint(residual)
    d = torch.zeros_like(image)
    left, direction = right.clone(), right.clone()
    power = left.square().flatten(1).sum(1)
    enough = TOLERANCE**2 * power
    for _ in range(ITERATIONS):
        active = power > enough
        if not bool(active.any()):
            break
        image_of = normal(direction)
        curvature = (direction * image_of).flatten(1).sum(1)
        step = torch.where(active, power / curvature.clamp(min=1e-30), 0.0)
        d = d + shaped(step, d) * direction
        left = left - shaped(step, d) * image_of
        now = left.square().flatten(1).sum(1)
        direction = left + shaped(now / power.clamp(min=1e-30), d) * direction
        power = now
    return (image + d).clamp(-1, 1)


def restrain(image: torch.Tensor, mean: torch.Tensor, measurement: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw restored images towards the estimate where they would be further from the truth than their measurement.

    Args:
        image: x', (B, 3, H, W) in [-1, 1].
        mean: m, the severity encoder's estimate, decoded and corrected as x' was.
        measurement: y at the image's size, in [-1, 1] units.

    Returns:
        (B, 3, H, W), and the share w (B,) of the difference x' - m that was kept, 1 where nothing was changed.
    """
    allowed = MARGIN * _mean((measurement.to(image) - mean).square())
    taken = _mean((image - mean).square()).clamp(min=1e-12)
    share = (allowed / taken).sqrt().clamp(max=1)
    return select(share < 1, mean + shaped(share, image) * (image - mean), image), share.cpu()
