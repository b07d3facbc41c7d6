"""What a measurement says of its own degradation: the width of a Gaussian blur and the level of the noise."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from flashdiff_cli.cosines import cosine_basis, cosine_order
from flashdiff_cli.operators.base import Operator, per_sample
from flashdiff_cli.operators.gaussian_blur import GaussianBlur

WIDTHS = torch.logspace(math.log10(0.2), math.log10(6.0), 25, dtype=torch.float64)
"""Candidate standard deviations in pixels; the minimum is then refined between its neighbours."""

HIGH_PASS = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])
"""Second difference along both axes: nearly blind to edges and blur, all noise (Immerkaer 1996)."""

OF_MEDIAN = 1 / 0.6745 / 6 / 2
"""0.6745 sigma is the median of |N(0, sigma^2)|; the kernel's norm is 6; half, for intensities."""

SHOWN_TIMES, SHOWN_ABOVE = 1.5, 0.01
"""How much more noise than was told a blurred measurement must show before it is believed. On 60 training pictures of each kind
(Gaussian blur of 0.3 to 3 pixels, noise up to 0.1) fine detail was never taken for more than 0.008 of noise."""

COARSE, SMOOTH_SHARE, BANDS = 3, 0.15, ((4, 6), (7, 9), (10, 14))
"""Of `noise_level`: blocks are chosen by their cosines up to u + v = COARSE, this share of them, and measured in these bands."""

CLIPPED_FROM, CLIPPED_SHARE, LEAST_LEFT = 1.5 / 255, 0.02, 0.05
"""Of `noise_level`: how near to white or black, on the scale of [-1, 1], a value is cut; the share of such pixels from which a block is passed
over; and the share of the blocks that has to be left."""

EMPTIED = 0.65
"""A band with less than this share of the noise that a coarser one has was emptied by what a file went through."""

LOOKED_AT, STEPS, GRID_SHOWS, STEP_OF_LEAST = 256, (2, 6), 0.08, 1.5
"""Of `rounding_noise`: pixels along a side, lowest and highest u + v, how many more of the cosines are near 0 on a JPEG's own grid, and a step as a
multiple of the least cosines that are not."""

COMMON_FROM, COMMON_TO = 0.7, 0.95
"""Of `common_noise`: shares that count as none and as all."""

BLOCK, SMOOTH = 8, 0.05
"""Of `enlarged_noise`: side of a block in pixels, and the share of the blocks that is taken for smooth."""

DETAIL, WEIGHT = 0.005, 12.0
"""Of `enlarged_noise`: what the smooth parts of clean enlarged pictures show, and the noise for which the solver does best, as a
multiple of what they show beyond it; found on training pictures enlarged 1.5 to 4 times with noise of 0 to 0.05."""


def _fine(measurement: torch.Tensor) -> torch.Tensor:
    """Return (B, C, H - 2, W - 2): magnitude of the second difference along both axes."""
    kernel = HIGH_PASS.to(measurement)[None, None].expand(measurement.shape[1], 1, 3, 3)
    return F.conv2d(measurement, kernel, groups=measurement.shape[1]).abs()


def noise_level(measurement: torch.Tensor) -> torch.Tensor:
    """Estimate the standard deviation of the noise where it shows: in the smooth blocks, in the finest band of cosines that was not emptied.

    White noise is alike in all bands. JPEG, demosaicing, denoising and enlargement empty the finest ones, where a second difference looks,
    and leave the noise in the middle, where sharpening would amplify it. Blocks are chosen by their coarse bands, and measured in others.

    Args:
        measurement: (B, C, H, W) in [-1, 1] units, sides of at least 3.

    Returns:
        (B,) on intensities in [0, 1].
    """
    *coarser, found = noise_bands(measurement).mean(1).unbind(1)
    for band in reversed(coarser):
        found = torch.where(found < EMPTIED * band, band, found)
    return found


def noise_bands(planes: torch.Tensor, picture: torch.Tensor | None = None) -> torch.Tensor:
    """Return the noise that each plane shows in each of BANDS: (B, C, 3) on intensities in [0, 1]; see `noise_level`.

    Args:
        planes: (B, C, H, W) in [-1, 1] units: a picture's channels, or what was made of them, as their differences.
        picture: (B, K, H, W) in [-1, 1] units that such planes were made of: blocks are passed over that are cut in any of its channels.
    """
    if min(planes.shape[-2:]) < 2 * BLOCK:
        return (_fine(planes).flatten(2).median(2).values * OF_MEDIAN)[..., None].expand(-1, -1, len(BANDS))
    basis, order = cosine_basis(BLOCK).to(planes), cosine_order(BLOCK)
    energy = F.conv2d(planes.flatten(0, 1)[:, None], basis, stride=BLOCK).square().flatten(2)
    whole = _whole_blocks(planes) if picture is None else _whole_blocks(picture).all(1, keepdim=True).expand(-1, planes.shape[1], -1)
    usable = _usable(whole.flatten(0, 1))
    coarse = energy[:, order <= COARSE].sum(1) - energy[:, 0]
    blocks = coarse.masked_fill(~usable, torch.inf).argsort(1)
    taken = torch.arange(blocks.shape[1], device=blocks.device) < (SMOOTH_SHARE * usable.sum(1)).ceil()[:, None]
    ordered = energy.gather(2, blocks[:, None].expand_as(energy))
    chosen = (ordered * taken[:, None]).sum(2) / taken.sum(1, keepdim=True)
    bands = torch.stack([chosen[:, (order >= low) & (order <= high)].median(1).values for low, high in BANDS], 1)
    return bands.unflatten(0, planes.shape[:2]).sqrt() / 2


def _whole_blocks(image: torch.Tensor) -> torch.Tensor:
    """Tell of the blocks of (B, C, H, W) in [-1, 1] units whether black and white have left them whole, (B, C, blocks): where they cut, noise is
    halved, or hidden altogether."""
    cut = F.avg_pool2d((image.abs() >= 1 - CLIPPED_FROM).float(), BLOCK).flatten(2)
    # In float measurements noise goes beyond white and black, and nothing is cut.
    open_ended = (image.abs() > 1 + CLIPPED_FROM).flatten(2).any(2, keepdim=True)
    return (cut <= CLIPPED_SHARE) | open_ended


def _usable(whole: torch.Tensor) -> torch.Tensor:
    """Return which blocks (N, blocks) noise is read from: the whole ones, or all where hardly any is whole, as in text and line art."""
    enough = whole.sum(1, keepdim=True) >= max(LEAST_LEFT * whole.shape[1], 4)
    return whole | ~enough


def rounding_noise(measurement: torch.Tensor) -> torch.Tensor:
    """Estimate what rounding in a JPEG has left in pictures, whatever file they are in now, from the grid on which cosines are nearly 0.

    On its own grid of 8 x 8 pixels a picture that was compressed has many cosines near 0, and none of the others is below a step of its
    table; on any other grid it has neither (Fan and de Queiroz 2003).

    Args:
        measurement: (B, 3, H, W) in [-1, 1] units; the middle of a large one is looked at.

    Returns:
        (B,) on intensities in [0, 1]; 0 where no grid shows, or a side is below 32.
    """
    found = measurement.new_zeros(len(measurement), dtype=torch.float32)
    if min(measurement.shape[-2:]) < 4 * BLOCK:
        return found
    top, left = (max(0, (side - LOOKED_AT) // 2) for side in measurement.shape[-2:])
    middle = measurement[..., top : top + LOOKED_AT, left : left + LOOKED_AT].float()
    luma = torch.einsum("c,bchw->bhw", middle.new_tensor([0.299, 0.587, 0.114]), middle) * 127.5
    order = cosine_order(BLOCK)
    basis = cosine_basis(BLOCK)[(order >= STEPS[0]) & (order <= STEPS[1])].to(luma)
    cosines = F.conv2d(luma[:, None], basis).abs()
    rows, columns = (side // BLOCK * BLOCK for side in cosines.shape[2:])
    grids = cosines[..., :rows, :columns].unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).permute(0, 3, 5, 1, 2, 4).flatten(4)
    empty = (grids < 1).float().mean((3, 4)).flatten(1)
    most, where = empty.max(1)
    shown = most - empty.median(1).values > GRID_SHOWS
    for sample in shown.nonzero()[:, 0].tolist():
        values = grids.flatten(1, 2)[sample, where[sample]]
        steps = [one[one > 2].quantile(0.1) for one in values if (one > 2).sum() > BLOCK]
        if steps:
            found[sample] = STEP_OF_LEAST * torch.stack(steps).mean() / 255 / 12**0.5
    return found


def common_noise(measurement: torch.Tensor) -> torch.Tensor:
    """Estimate which share of the noise is the same in all channels, as in a black-and-white picture.

    Args:
        measurement: (B, 3, H, W) in [-1, 1] units.

    Returns:
        (B,), 0 independent to 1 the same; 0 below COMMON_FROM, since texture of a colour picture is alike in its channels too.
    """
    differences = torch.stack([measurement[:, 0] - measurement[:, 1], measurement[:, 2] - measurement[:, 1]], 1)
    alone, between = (noise_bands(part.float(), measurement)[..., 1].square().mean(1) for part in (measurement, differences))
    share = 1 - between / 2 / alone.clamp(min=1e-12)
    return ((share - COMMON_FROM) / (COMMON_TO - COMMON_FROM)).clamp(0, 1)


def effective_noise_std(noise_std: float | torch.Tensor, measurement: torch.Tensor, operator: Operator) -> torch.Tensor:
    """Return the noise that was assumed, or what a measurement plainly shows where that is much more.

    After a blur, what is fine in a measurement is noise; a solver that is told of less would sharpen it. Behind other operators it may be
    detail, and what was assumed is kept.

    Args:
        noise_std: assumed, on intensities in [0, 1]; a number or (B,).
        measurement: (B, 3, H, W) in [-1, 1] units.
        operator: that degraded it.

    Returns:
        (1,) or (B,) on the CPU.
    """
    assumed, hidden = per_sample(noise_std).cpu(), operator.hides_detail()
    if not bool(hidden.any()):
        return assumed
    shown = noise_level(measurement.float()).cpu().to(assumed.dtype)
    return torch.where(hidden & (shown > SHOWN_TIMES * assumed + SHOWN_ABOVE), shown, assumed)


def enlarged_noise(measurement: torch.Tensor, factor: float) -> float:
    """Return the noise to reckon with in a picture that was noisy before it was enlarged, where interpolation has made it smooth.

    Looked for at the former size, in the smoothest twentieth of the blocks, where texture is not taken for it. Neighbouring pixels share their
    noise, which the white noise of a solver's likelihood makes up for by a larger standard deviation.

    Args:
        measurement: (1, 3, H, W) in [-1, 1] units.
        factor: how many times it was enlarged along each side.

    Returns:
        a solver's noise_std, on intensities in [0, 1], two to four times what the noise was; 0 where most clean pictures show as much, or
        nothing can be said of so small a one.
    """
    sides = [round(n / max(factor, 1.0)) for n in measurement.shape[2:]]
    if min(sides) < 3 * BLOCK + 2:
        return 0.0
    fine = _fine(F.interpolate(measurement.float(), size=sides, mode="bicubic", antialias=True))[0]
    rows, columns = (n // BLOCK for n in fine.shape[1:])
    blocks = fine[:, : rows * BLOCK, : columns * BLOCK].unflatten(1, (rows, BLOCK)).unflatten(3, (columns, BLOCK))
    level = blocks.permute(1, 3, 0, 2, 4).flatten(0, 1).flatten(1).median(1).values.quantile(SMOOTH).item() * OF_MEDIAN
    return min(WEIGHT * math.sqrt(max(level**2 - DETAIL**2, 0.0)), 0.5)


def fit_blur(measurement: torch.Tensor, reconstruction: torch.Tensor) -> torch.Tensor:
    """Return the width that best explains each measurement from its reconstruction: argmin_s ||y - G_s x||.

    Args:
        measurement, reconstruction: (B, 3, H, W) in [-1, 1].

    Returns:
        (B,) standard deviations in pixels, from 0.2 to 6.
    """
    batch = len(measurement)
    errors = torch.stack(
        [(measurement - GaussianBlur(width.expand(batch)).forward(reconstruction)).double().square().flatten(1).sum(1) for width in WIDTHS]
    )
    best = errors.argmin(0).clamp(1, len(WIDTHS) - 2)
    columns = torch.arange(batch)
    left, middle, right = errors[best - 1, columns], errors[best, columns], errors[best + 1, columns]
    curvature = (left - 2 * middle + right).clamp(min=1e-12)
    shift = (0.5 * (left - right) / curvature).clamp(-1, 1)
    spacing = math.log(WIDTHS[1] / WIDTHS[0])
    return (WIDTHS.log()[best.cpu()].to(shift) + spacing * shift).exp().float()
