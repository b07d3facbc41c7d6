"""Pictures of each kind that the classifier tells apart, as files hold them: what was stored as a JPEG afterwards is of its kind still."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F

from flashdiff_cli.classifier import KINDS, PARAMETERS
from flashdiff_cli.operators import Enlargement, GaussianBlur, MotionBlur
from flashdiff_cli.operators.motion_blur import kernel_axis
from flashdiff_cli.training.mixtures import Draws, add_noise, apply, blur_of, compress, drawing, is_grey, part_of, recolour, resized, shake_of, stored

WEIGHTS = {"none": 0.2, "gaussian-blur": 0.25, "motion-blur": 0.16, "noise": 0.14, "jpeg": 0.12, "downsampling": 0.13}
"""How often each kind is drawn."""

DRAWINGS = 0.04
"""Share of drawings in place of photographs; they are compressed, noisy or left alone."""

EDITED = 0.4
"""Share of pictures that editing has made softer before."""

SOFT, SOFTNESS = 0.35, (0.4, 1.1)
"""Share of pictures that a lens, or who scaled them, left soft, and the width in pixels of the Gaussian that this is like: that of LFW's faces. It
counts as no blur, whatever came after, since to sharpen such a picture wrongly costs several dB and to leave it soft costs one."""

LEAST_NOISE = 0.003
"""Below it, on intensities in [0, 1], noise is not told from that of a clean picture, and its logarithm is not to be hit."""


class Sample(NamedTuple):
    """One picture with what degraded it."""

    measured: torch.Tensor
    """(3, side, side) in [-1, 1], rounded to 8 bits."""
    kind: str
    parameters: dict[str, float]
    """By `classifier.PARAMETERS`, those that the kind has."""


def kept_as(x: torch.Tensor, draws: Draws, share: float, low: float, high: float) -> torch.Tensor:
    """Store (3, H, W) as files are: a share as JPEGs of a quality between the two."""
    if not draws.chance(share):
        return stored(x)
    return compress(x, draws.uniform(low, high), "420" if draws.chance(0.65) else "444", is_grey(x))


def edited(x: torch.Tensor, side: int, draws: Draws) -> torch.Tensor:
    """Resample (3, H, W), at times a JPEG, as those do who straighten and resize pictures: what that makes softer is nothing to restore."""
    if draws.chance(0.5):
        x = compress(x, draws.uniform(75, 97), "420" if draws.chance(0.6) else "444", is_grey(x))
    if draws.chance(0.5):
        angle, zoom = draws.uniform(-0.2, 0.2), draws.uniform(0.75, 1.1)
        turned = zoom * torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])
        places = F.affine_grid(turned[None], [1, *x.shape], align_corners=False)
        mode = "bilinear" if draws.chance(0.7) else "bicubic"
        return F.grid_sample(x[None], places, mode, "reflection", align_corners=False)[0].clamp(-1, 1)
    shares = draws.uniform(0.8, 1.35)
    size = (max(side, round(x.shape[1] * shares)), max(side, round(x.shape[2] * shares)))
    return resized(x, size, draws).clamp(-1, 1)


def noise_target(level: float) -> dict[str, float]:
    return {"noise_std": math.log(max(level, LEAST_NOISE))}


def clean(x: torch.Tensor, side: int, draws: Draws) -> Sample:
    """Leave a picture as it is, as cameras and browsers store it."""
    x, level = part_of(x, side, draws), draws.uniform(0, 0.003)
    return Sample(kept_as(add_noise(x, level, draws, is_grey(x)), draws, 0.5, 88, 99), "none", noise_target(level))


def gaussian_blur(x: torch.Tensor, side: int, draws: Draws) -> Sample:
    """Blur, faintly as often as strongly; half of them behind noise and a JPEG."""
    operator, level = blur_of(draws), draws.log_uniform(0.002, 0.08)
    y = add_noise(part_of(apply(operator, x), side, draws), level, draws, is_grey(x), simple=draws.chance(0.6))
    width = spread_of(operator)
    return Sample(kept_as(y, draws, 0.5, 72, 98), "gaussian-blur", noise_target(level) | {"blur_std": math.log(width)})


def motion_blur(x: torch.Tensor, side: int, draws: Draws) -> Sample:
    """Move the camera on a path of 3.5 to 22 pixels."""
    operator, level = shake_of(draws, 22.0, 0.25), draws.log_uniform(0.002, 0.05)
    length, angle = kernel_axis(operator.kernel[0])
    y = add_noise(part_of(apply(operator, x), side, draws), level, draws, is_grey(x), simple=draws.chance(0.6))
    moved = {"blur_length": math.log(max(length, 1.0)), "cosine": math.cos(2 * angle), "sine": math.sin(2 * angle)}
    return Sample(kept_as(y, draws, 0.3, 78, 98), "motion-blur", noise_target(level) | moved)


def noise(x: torch.Tensor, side: int, draws: Draws) -> Sample:
    """Add noise of 0.012 to 0.16; behind a JPEG, where its rounding leaves the more the lower the quality, of 0.02 and more."""
    x, behind = part_of(x, side, draws), draws.chance(0.3)
    level = draws.log_uniform(0.02 if behind else 0.012, 0.16)
    y = add_noise(x, level, draws, is_grey(x), simple=draws.chance(0.6))
    return Sample(kept_as(y, draws, float(behind), 82, 98), "noise", noise_target(level))


def jpeg(x: torch.Tensor, side: int, draws: Draws) -> Sample:
    """Compress once, or twice, a picture with no noise or hardly any."""
    x = part_of(x, side, draws)
    x = add_noise(x, draws.log_uniform(0.001, 0.015), draws, is_grey(x)) if draws.chance(0.4) else x
    chroma, quality = "420" if draws.chance(0.65) else "444", draws.uniform(6, 85)
    x = compress(x, draws.uniform(30, 90), chroma, is_grey(x)) if draws.chance(0.15) else x
    return Sample(compress(x, quality, chroma, is_grey(x)), "jpeg", {"jpeg_quality": quality / 100})


def downsampling(x: torch.Tensor, side: int, draws: Draws) -> Sample:
    """Enlarge a small picture, which in half of the cases has a past: blur, noise and a JPEG."""
    level, factor, grey = draws.log_uniform(0.0005, 0.02), draws.uniform(1.4, 4.5), is_grey(x)
    if draws.chance(0.5):
        y = add_noise(part_of(apply(Enlargement(factor), x), side, draws), level, draws, grey, simple=draws.chance(0.7))
    else:
        factor, size = min(factor, 3.0), (x.shape[1], x.shape[2])
        y = apply(blur_of(draws, 1.5), x) if draws.chance(0.6) else x
        y = resized(y, (round(size[0] / factor), round(size[1] / factor)), draws)
        y = compress(add_noise(y, draws.log_uniform(0.003, 0.03), draws, grey), draws.uniform(50, 96), "420" if draws.chance(0.6) else "444", grey)
        y, level = part_of(resized(y, size, draws), side, draws), LEAST_NOISE
    return Sample(kept_as(y, draws, 0.3, 80, 98), "downsampling", noise_target(level) | {"enlarged": math.log(factor)})


def spread_of(operator) -> float:
    """Return the width in pixels of the Gaussian with the variance of a blur, the mean over both axes."""
    if not isinstance(operator, MotionBlur):
        return float(operator.describe()["blur_std"])
    kernel = cast(torch.Tensor, operator.kernel[0]).double()
    place = torch.arange(kernel.shape[-1], dtype=torch.float64) - kernel.shape[-1] // 2
    return math.sqrt(((kernel.sum(0) + kernel.sum(1)) @ place.square()).item() / 2)


MAKERS: dict[str, Callable[[torch.Tensor, int, Draws], Sample]] = {
    "none": clean,
    "gaussian-blur": gaussian_blur,
    "motion-blur": motion_blur,
    "noise": noise,
    "jpeg": jpeg,
    "downsampling": downsampling,
}
DRAWN = "none", "noise", "jpeg"


def make_sample(x: torch.Tensor, side: int, draws: Draws) -> Sample:
    """Degrade a part of a clean picture.

    Args:
        x: (3, H, W) in [-1, 1], sides of at least `side`.
        side: in pixels, of the part.
        draws: every random number.
    """
    kind = draws.choose(WEIGHTS)
    if kind in DRAWN and draws.chance(DRAWINGS * len(KINDS) / len(DRAWN)):
        x = drawing((x.shape[1], x.shape[2]), draws)
    elif draws.chance(EDITED):
        x = edited(x, side, draws)
    if draws.chance(SOFT):
        x = apply(GaussianBlur(draws.log_uniform(*SOFTNESS)), x)
    return MAKERS[kind](stored(recolour(x, draws)), side, draws)


def targets(samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return kinds (B,), parameters (B, 7) as the classifier gives them, and which of them a sample has."""
    kinds = torch.tensor([KINDS.index(sample.kind) for sample in samples])
    wanted = torch.tensor([[sample.parameters.get(name, 0.0) for name in PARAMETERS] for sample in samples])
    counts = torch.tensor([[float(name in sample.parameters) for name in PARAMETERS] for sample in samples])
    return kinds, wanted, counts
