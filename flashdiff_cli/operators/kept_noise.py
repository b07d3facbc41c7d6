"""The noise of a picture with holes, from its kept pixels alone: differences that reach across the edge of a hole are not looked at."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from flashdiff_cli.operators.base import Operator
from flashdiff_cli.operators.estimate import noise_level

KERNELS = (
    ([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]],),
    ([[1.0, -2.0, 1.0]], [[1.0], [-2.0], [1.0]]),
    ([[1.0, -1.0]], [[1.0], [-1.0]]),
)
"""Second differences along both axes, along one, and differences of neighbours: the first of which the kept pixels hold enough is taken."""
BLOCK = 16
"""Side, in pixels, of the blocks that are looked at one by one."""
SMOOTHEST = 0.1
"""The quantile of the blocks' levels that is taken: texture is not noise, and the smoothest blocks have the least of it."""
LEAST_DIFFERENCES, LEAST_BLOCKS = 24, 10
"""What a block, and a picture, must hold, so that it can be judged."""
OF_MEDIAN, OF_SMALLEST, SPREAD = 0.6745, 0.1891, 1.166
"""Quantiles of |N(0, 1)| at 0.5 and 0.15 (less of which is texture), and the relative standard deviation of the median of n such values
times the root of n."""
NORMAL_QUANTILE = -1.2816
"""Of SMOOTHEST."""


def measured_noise(measurement: torch.Tensor, operator: Operator | None) -> torch.Tensor:
    """Estimate the noise of measurements (B, C, H, W): of the pixels that their operator keeps, or of all. (B,) on intensities in [0, 1]."""
    keep = None if operator is None else operator.kept()
    return noise_level(measurement) if keep is None else kept_noise(measurement, keep)


def kept_noise(measurement: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Estimate the standard deviation of white noise from kept pixels.

    Args:
        measurement: (B, C, H, W) in [-1, 1] units; values of missing pixels are not looked at.
        keep: (B, H, W) or (1, H, W), bool.

    Returns:
        (B,) on intensities in [0, 1]; 0 where too few pixels are kept to tell.
    """
    keep = keep.to(measurement.device, torch.bool).expand(len(measurement), *measurement.shape[-2:])
    return torch.stack([_level(one.float(), where) for one, where in zip(measurement, keep, strict=True)])


def _level(image: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Return `kept_noise` of one picture (C, H, W)."""
    # What is clipped shows no noise.
    seen = (keep & (image > -1) & (image < 1)).float()
    level = image.new_zeros(())
    for kernels in KERNELS:
        found = [_differences(image, seen, torch.tensor(kernel)) for kernel in kernels]
        blocks = torch.cat([_blocks(part) for part in found], 1)
        counts = blocks.isfinite().sum(1)
        good = counts >= LEAST_DIFFERENCES
        if int(good.sum()) >= LEAST_BLOCKS:
            medians = blocks[good].nanmedian(1).values
            # Where all pixels are kept, a difference shares them with its neighbours: half as many are independent.
            independent = counts[good].float().median() / (2 if kernels is KERNELS[0] else 1)
            shrunk = 1 + NORMAL_QUANTILE * SPREAD / independent.sqrt()
            return medians.quantile(SMOOTHEST) / OF_MEDIAN / shrunk.clamp(min=0.5) / 2
        every = torch.cat([part.flatten() for part in found])
        if int(every.isfinite().sum()) >= LEAST_DIFFERENCES and level == 0:
            level = every.nanquantile(0.15) / OF_SMALLEST / 2
    return level


def _differences(image: torch.Tensor, seen: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Return the magnitudes of differences of (C, H, W), of unit gain for white noise; NaN where a pixel that they need is not `seen` (C, H, W)."""
    kernel = kernel.to(image)
    if any(n < k for n, k in zip(image.shape[1:], kernel.shape, strict=True)):
        return image.new_full((len(image), 1, 1), torch.nan)
    taps = F.conv2d(seen[:, None], torch.ones_like(kernel)[None, None])[:, 0]
    fine = F.conv2d((image * seen)[:, None], (kernel / kernel.norm())[None, None])[:, 0].abs()
    return torch.where(taps > kernel.numel() - 0.5, fine, torch.nan)


def _blocks(values: torch.Tensor) -> torch.Tensor:
    """Return (N, C * BLOCK * BLOCK): whole blocks of (C, H, W), those at the right and lower border filled up with NaN."""
    height, width = values.shape[1:]
    wide = F.pad(values, (0, -width % BLOCK, 0, -height % BLOCK), value=torch.nan)
    parts = wide.unflatten(1, (-1, BLOCK)).unflatten(3, (-1, BLOCK))
    return parts.permute(1, 3, 0, 2, 4).flatten(2).flatten(0, 1)


__all__ = ["kept_noise", "measured_noise"]
