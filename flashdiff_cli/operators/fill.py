"""Missing pixels from their surroundings, without any learning: a smooth surface that follows edges.

The filled picture u minimises, with its kept pixels fixed,

    sum over pixels and over the four directions d of   w_d ( |second difference of u along d|^2 + TENSION |first difference|^2 )

A thin plate under tension, whose stiffness w_d is small where the structure tensor of the picture has a strong gradient along d: it bends across an
edge and stays stiff along it, so that lines and borders are carried through a hole. The weights come from the picture itself, so they
are found in rounds. The linear equations of a round are solved for the missing pixels by conjugate gradients, from the solution at half
the size, which is found in the same way: large holes cost little more than thin ones.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F

DIRECTIONS = ((0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.25), (1, -1, 0.25))
"""Rows down, columns to the right, and the share of the energy: a diagonal step is longer."""
TENSION = 0.05
"""Holds a plate that only one side carries: at the border of the picture, and in large holes."""
EDGE = 0.005
"""Gradient, on intensities in [0, 1], that halves the stiffness."""
SOFTEST = 1e-4
"""Least stiffness, so that the equations stay well conditioned."""
FINE, COARSE = 0.7, 1.5
"""Standard deviations of the structure tensor, in pixels: of the picture, and of the products of its gradients."""
ROUNDS, ITERATIONS, TOLERANCE = 2, 25, 1e-3
SMALLEST = 8
"""Sides below this are not halved."""
BAND, MARGIN = 2**18, 12
"""Pixels that are solved for at once, so that memory stays small, and rows around them that are looked at."""


class _Equations(NamedTuple):
    """A u = right for the missing pixels of one picture."""

    matrix: torch.Tensor
    """(N, N), sparse, symmetric, positive definite."""
    diagonal: torch.Tensor
    """(N, 1)."""
    right: torch.Tensor
    """(N, C)."""


def fill(image: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Fill missing pixels from their border.

    Args:
        image: (B, C, H, W) in [-1, 1]; values of missing pixels are not looked at.
        keep: (B, H, W) or (1, H, W), bool: where pixels are known. A picture of which nothing is becomes mid-grey.

    Returns:
        (B, C, H, W): kept pixels as they were, the others within the range of the kept ones of their channel.
    """
    keep = keep.to(image.device, torch.bool).expand(len(image), *image.shape[-2:])
    if bool(keep.all()):
        return image
    # Sparse matrices have no product in half precision, which a training's autocast would ask for.
    with torch.autocast(image.device.type, enabled=False):
        parts = [_fill(one.float(), where) for one, where in zip(image, keep, strict=True)]
    return torch.where(keep[:, None], image, torch.stack(parts).to(image))


def _fill(image: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Return `fill` of one picture (C, H, W) with `keep` (H, W)."""
    if bool(keep.all()):
        return image
    if not bool(keep.any()):
        return torch.zeros_like(image)
    image, known = torch.where(keep, image, 0.0), image[:, keep]
    low, high = known.amin(1)[:, None, None], known.amax(1)[:, None, None]
    filled = torch.where(keep, image, _from_half(image, keep))
    height, width = keep.shape
    rows = max(BAND // width, 1)
    for _ in range(ROUNDS):
        for top in range(0, height, rows):
            low_row, bottom = max(top - MARGIN, 0), min(top + rows, height)
            fixed = keep[low_row : bottom + MARGIN].clone()
            fixed[: top - low_row] = True
            fixed[bottom - low_row :] = True
            if not bool(fixed.all()):
                window = filled[:, low_row : bottom + MARGIN]
                window.copy_(_relax(window, fixed).clamp(low, high))
    return filled


def _from_half(image: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Return a first guess at missing pixels (C, H, W): the picture of half the size, filled and enlarged."""
    if min(keep.shape) < SMALLEST:
        return image[:, keep].mean(1)[:, None, None].expand_as(image)
    weight = keep.to(image)[None]
    share = F.avg_pool2d(weight[None], 2, ceil_mode=True)[0]
    mean = F.avg_pool2d((image * weight)[None], 2, ceil_mode=True)[0] / share.clamp(min=1e-6)
    half = _fill(mean, share[0] > 0)
    return F.interpolate(half[None], keep.shape, mode="bilinear", align_corners=False)[0]


def _relax(image: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    """Return one round: stiffness from the picture (C, H, W), then a few steps of conjugate gradients for the pixels that are not `fixed` (H, W)."""
    places = (~fixed).flatten().nonzero()[:, 0]
    flat = image.flatten(1).clone()
    flat[:, places] = _solve(_equations(image, fixed, places), flat[:, places].T.contiguous()).T
    return flat.view_as(image)


def _solve(equations: _Equations, u: torch.Tensor) -> torch.Tensor:
    """Solve by conjugate gradients, preconditioned by the diagonal, from `u` (N, C); all channels at once, each with its own step."""
    residual = equations.right - equations.matrix @ u
    direction = scaled = residual / equations.diagonal
    power = (residual * scaled).sum(0)
    enough = TOLERANCE**2 * (equations.right * equations.right / equations.diagonal).sum(0)
    for _ in range(ITERATIONS):
        if bool((power <= enough).all()):
            break
        image = equations.matrix @ direction
        step = power / (direction * image).sum(0).clamp(min=1e-30)
        u = u + step * direction
        residual = residual - step * image
        scaled = residual / equations.diagonal
        now = (residual * scaled).sum(0)
        direction = scaled + now / power.clamp(min=1e-30) * direction
        power = now
    return u


def _equations(image: torch.Tensor, fixed: torch.Tensor, places: torch.Tensor) -> _Equations:
    """Return the equations of the missing pixels, whose numbers in the flattened picture (C, H, W) are `places` (N,)."""
    wide = fixed.shape[1] + 4
    # Numbers in the picture with a border of two pixels, in which every neighbour has one.
    at = (places // fixed.shape[1] + 2) * wide + places % fixed.shape[1] + 2
    column = torch.full(((fixed.shape[0] + 4) * wide,), -1, dtype=torch.int32, device=image.device)
    column[at] = torch.arange(len(at), dtype=torch.int32, device=image.device)
    offsets, values = _stencil(_stiffness(image), at, wide)
    known = F.pad(torch.where(fixed, image, 0.0), (2, 2, 2, 2)).flatten(1).T.contiguous()
    columns, right = [], torch.zeros(len(at), len(image), device=image.device)
    for index, offset in enumerate(offsets):
        neighbour = at + offset
        columns.append(column.index_select(0, neighbour))
        right.addcmul_(values[:, index, None], known.index_select(0, neighbour), value=-1)
    columns = torch.stack(columns, 1)
    inside = columns >= 0
    starts = F.pad(inside.sum(1, dtype=torch.int32).cumsum(0, dtype=torch.int32), (1, 0))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse")
        matrix = torch.sparse_csr_tensor(starts, columns[inside], values[inside], (len(at), len(at)), check_invariants=False)
    return _Equations(matrix, values[:, len(offsets) // 2, None], right)


def _stencil(stiffness: torch.Tensor, at: torch.Tensor, wide: int) -> tuple[list[int], torch.Tensor]:
    """Return the coefficients of the neighbours of missing pixels.

    Args:
        stiffness: (4, H, W), by direction.
        at: (N,) numbers of the pixels in a picture with a border of two.
        wide: its width.

    Returns:
        17 differences of numbers, rising, the middle one 0; and (N, 17) coefficients.
    """
    found: dict[int, torch.Tensor] = {0: torch.zeros(len(at), device=stiffness.device)}
    for (down, right, share), weight in zip(DIRECTIONS, stiffness, strict=True):
        step = down * wide + right
        # Second differences exist where both neighbours do, first ones where the next does.
        bend = F.pad(share * _inner(weight, down, abs(right), abs(right)), (2, 2, 2, 2)).flatten()
        pull = F.pad(share * TENSION * _inner(weight, 0, max(-right, 0), max(right, 0), down), (2, 2, 2, 2)).flatten()
        before, here, after = (bend.index_select(0, place) for place in (at - step, at, at + step))
        pulled, pulls = pull.index_select(0, at - step), pull.index_select(0, at)
        found[0] = found[0] + before + 4 * here + after + pulled + pulls
        found[step], found[-step] = -2 * (here + after) - pulls, -2 * (here + before) - pulled
        found[2 * step], found[-2 * step] = after, before
    offsets = sorted(found)
    return offsets, torch.stack([found[offset] for offset in offsets], 1)


def _inner(values: torch.Tensor, top: int, left: int, right: int, bottom: int | None = None) -> torch.Tensor:
    """Return (H, W) with zeros in so many rows and columns at its sides; `bottom` is as `top` if it is not given."""
    bottom = top if bottom is None else bottom
    inner = torch.zeros_like(values)
    height, width = values.shape
    rows, columns = slice(top, height - bottom), slice(left, width - right)
    inner[rows, columns] = values[rows, columns]
    return inner


def _stiffness(image: torch.Tensor) -> torch.Tensor:
    """Return (4, H, W): by direction, 1 where the picture (C, H, W) in [-1, 1] is even along it, less across an edge."""
    smooth = _blurred(image / 2, FINE)
    down, across = torch.gradient(smooth, dim=(1, 2)) if min(image.shape[1:]) > 1 else (torch.zeros_like(smooth),) * 2
    products = torch.stack([(down * down).sum(0), (down * across).sum(0), (across * across).sum(0)])
    yy, yx, xx = _blurred(products, COARSE)
    along = torch.stack([(r * r * yy + 2 * r * c * yx + c * c * xx) / (r * r + c * c) for r, c, _ in DIRECTIONS])
    return (1 / (1 + along.clamp(min=0) / EDGE**2)).clamp(min=SOFTEST)


def _blurred(planes: torch.Tensor, std: float) -> torch.Tensor:
    """Return (C, H, W) through a Gaussian, borders repeated."""
    radius = int(4 * std + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=planes.device) / std) ** 2)
    kernel = (kernel / kernel.sum()).to(planes)
    wide = F.pad(planes[:, None], (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(wide, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[:, 0]
