"""The kernel of a shaken picture, from the picture and an estimate of it without the shake.

Where u is nearly sharp, y = k * u + n gives k by least squares over the gradients of u and y, in the Fourier domain (Cho and Lee, Fast
Motion Deblurring, eq. 9 and 10). Only strong gradients of u are believed, and each kernel is drawn towards the one before, which keeps
what u made up from feeding on itself. A kernel is not negative, connected, and sums to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from flashdiff_cli.grey import luma_of
from flashdiff_cli.operators.motion_blur import MotionBlur, kernel_axis
from flashdiff_cli.pictures.tiles import Tile

ITERATIONS = 4
"""Alternations between kernel and image."""

STRONG = 0.15
"""Share of the pixels, those of the strongest gradients, that a kernel is estimated from."""

PULL, FLOOR = 0.2, 0.02
"""Weights of the kernel before and of zero, as shares of the mean power of the gradients."""

LEAST = 0.08
"""Of the largest value of a kernel, below which there is noise."""

WIDER, MORE = 0.65, 2
"""Radius of the kernels that are looked for: a share of the length that the first one has, and pixels."""

CAUTION = 1.5
"""Times the noise that is found, which a restoration by a kernel that is not quite right yet is told."""

TAPER = 12
"""Pixels over which the gradients fade out at the borders, which a Fourier transform takes for neighbours."""

MOST_SIDE = 320
"""Side of the window, in pixels, that the kernel of a large picture is estimated in."""


def gradients(x: torch.Tensor) -> torch.Tensor:
    """Return the forward differences of the luma of (1, 3, H, W) across and down: (2, H - 1, W - 1)."""
    luma = luma_of(x)[0]
    return torch.stack([luma[:-1, 1:] - luma[:-1, :-1], luma[1:, :-1] - luma[:-1, :-1]])


def _window(size: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
    """Return (H, W) that is 1 inside and falls to 0 at the borders."""

    def fade(length: int) -> torch.Tensor:
        place = torch.arange(length, dtype=like.dtype, device=like.device)
        return 0.5 - 0.5 * torch.cos(math.pi * (torch.minimum(place, length - 1 - place) / TAPER).clamp(max=1))

    return fade(size[0])[:, None] * fade(size[1])


def estimate_kernel(sharp: torch.Tensor, blurred: torch.Tensor, before: torch.Tensor, radius: int) -> torch.Tensor:
    """Estimate the kernel that makes one image of another.

    Args:
        sharp, blurred: (1, 3, H, W) in [-1, 1], sides above twice the radius.
        before: what the kernel is drawn towards, (k, k), k odd and at most the image's sides.
        radius: of the kernel.

    Returns:
        (2 radius + 1, 2 radius + 1) float64, not negative, sum 1.
    """
    mine, seen = gradients(sharp), gradients(blurred)
    strength = mine.square().sum(0)
    mine = mine * (strength >= strength.flatten().kthvalue(max(1, round((1 - STRONG) * strength.numel()))).values)
    size = (mine.shape[1], mine.shape[2])
    window = _window(size, mine)
    u, y = torch.fft.rfft2(mine * window), torch.fft.rfft2(seen * window)
    power = u.abs().square().sum(0)
    mean = power.mean().clamp(min=1e-12)
    middle = before.shape[-1] // 2
    placed = F.pad(before.to(mine), (0, size[1] - before.shape[1], 0, size[0] - before.shape[0])).roll((-middle, -middle), (0, 1))
    spectrum = ((u.conj() * y).sum(0) + PULL * mean * torch.fft.rfft2(placed)) / (power + (PULL + FLOOR) * mean)
    found = torch.fft.irfft2(spectrum, s=size).roll((radius, radius), (0, 1))[: 2 * radius + 1, : 2 * radius + 1]
    return _connected(found.double().cpu().clamp(min=0))


def _connected(kernel: torch.Tensor) -> torch.Tensor:
    """Return a kernel (k, k) without what is faint or apart from its largest value, sum 1."""
    support = (kernel >= LEAST * kernel.max()).double()
    reached = torch.zeros_like(kernel)
    reached.view(-1)[kernel.argmax()] = 1
    for _ in range(kernel.numel()):
        grown = F.max_pool2d(reached[None, None], 3, 1, 1)[0, 0] * support
        if torch.equal(grown, reached):
            break
        reached = grown
    kernel = kernel * reached
    return kernel / kernel.sum()


def refine_kernel(
    kernel: torch.Tensor, measurement: torch.Tensor, restore: Callable[[torch.Tensor], torch.Tensor], iterations: int = ITERATIONS
) -> torch.Tensor:
    """Return a kernel that explains a picture better than another, (k, k) float64, its centre of mass in the middle.

    Args:
        kernel: to begin with, (k, k), k odd.
        measurement: (1, 3, H, W) in [-1, 1] units, sides above twice the radius.
        restore: returns what the picture is without a kernel's blur, (1, 3, H, W).
        iterations: alternations between kernel and image.
    """
    for _ in range(iterations):
        # Two pixels more on each side by being centred, and gradients have a pixel less.
        radius = min(radius_for(kernel), (min(measurement.shape[-2:]) - 4) // 2)
        kernel = centred(estimate_kernel(restore(kernel), measurement, kernel, radius))
    return kernel


def radius_for(kernel: torch.Tensor) -> int:
    """Return the radius of the kernels that are looked for after one (k, k)."""
    return math.ceil(WIDER * kernel_axis(kernel)[0]) + MORE


def centred(kernel: torch.Tensor) -> torch.Tensor:
    """Return a kernel (k, k) moved so that its centre of mass is in the middle, (k + 2, k + 2): a picture is not moved by taking its blur away."""
    middle = len(kernel) // 2
    offsets = torch.arange(-middle, middle + 1, dtype=kernel.dtype)
    kernel = kernel / kernel.sum()
    # Room for the longest move, so that nothing comes in again on the other side.
    moved = F.pad(kernel, (middle + 1,) * 4)
    for dim in (0, 1):
        move = -(kernel.sum(1 - dim) * offsets).sum().item()
        whole = math.floor(move)
        moved = (1 - (move - whole)) * moved.roll(whole, dim) + (move - whole) * moved.roll(whole + 1, dim)
    moved = moved[middle : len(moved) - middle, middle : len(moved) - middle]
    return moved / moved.sum()


def blur_of(kernel: torch.Tensor) -> MotionBlur:
    """Return the operator of a kernel (k, k), described by the straight motion that spreads light as it does."""
    length, angle = kernel_axis(kernel)
    return MotionBlur(kernel[None], {"blur_length": torch.tensor([length]), "blur_angle": torch.tensor([math.degrees(angle)])})


def busiest_window(image: torch.Tensor, multiple: int) -> Tile:
    """Return the window of a picture (1, 3, H, W) that has the most gradient, of sides of at most MOST_SIDE.

    Its sides and its position are multiples of `multiple`, as the picture's sides are.
    """
    height, width = (min(side, MOST_SIDE // multiple * multiple) for side in image.shape[-2:])
    strength = F.pad(gradients(image.float()).abs().sum(0), (0, 1, 0, 1))
    sums = F.avg_pool2d(strength[None, None], (height, width), stride=multiple)[0, 0]
    row, column = divmod(int(sums.argmax()), sums.shape[1])
    return Tile(row * multiple, column * multiple, height, width)
