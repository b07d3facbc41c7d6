"""Mirrored borders of any extent, and the adjoint of adding them."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F


class Margins(NamedTuple):
    """Pixels added at each side."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def all(cls, width: int) -> Margins:
        return cls(width, width, width, width)


def mirror_index(length: int, before: int, after: int, repeat_edge: bool = False) -> torch.Tensor:
    """Return (before + length + after,) positions in 0 .. length - 1 that mirrored borders copy.

    Args:
        length: of the axis.
        before, after: pixels added; any number, the picture is mirrored again and again if need be.
        repeat_edge: whether the outermost pixel is mirrored too (...1 0 | 0 1...) or not (...2 1 | 0 1 2...).
    """
    positions = torch.arange(-before, length + after)
    if repeat_edge:
        positions = positions % (2 * length)
        return torch.minimum(positions, 2 * length - 1 - positions)
    period = max(1, 2 * (length - 1))
    positions = positions % period
    return torch.minimum(positions, period - positions)


@lru_cache(maxsize=64)
def _index_on(device: torch.device, length: int, before: int, after: int, repeat_edge: bool = False) -> torch.Tensor:
    """Return `mirror_index` on a device, kept: a step of a solver sends it nothing."""
    return mirror_index(length, before, after, repeat_edge).to(device)


def pad(x: torch.Tensor, margins: Margins) -> torch.Tensor:
    """Add mirrored borders, without the edge pixel: (B, C, H, W) -> (B, C, top + H + bottom, left + W + right)."""
    height, width = x.shape[-2:]
    if max(margins[:2]) < height and max(margins[2:]) < width:
        return F.pad(x, (*margins[2:], *margins[:2]), mode="reflect")
    rows, columns = _index_on(x.device, height, *margins[:2]), _index_on(x.device, width, *margins[2:])
    return x.index_select(-2, rows).index_select(-1, columns)


def fold(y: torch.Tensor, margins: Margins, repeat_edge: bool = False) -> torch.Tensor:
    """Return the adjoint of `pad`: what was copied into the borders is added back where it came from.

    Args:
        y: (B, C, top + H + bottom, left + W + right).
        margins: as in `pad`.
        repeat_edge: the adjoint of mirroring that repeats the edge pixel instead.

    Returns:
        (B, C, H, W).
    """
    height, width = y.shape[-2] - margins.top - margins.bottom, y.shape[-1] - margins.left - margins.right
    rows = _index_on(y.device, height, *margins[:2], repeat_edge)
    columns = _index_on(y.device, width, *margins[2:], repeat_edge)
    y = y.new_zeros(*y.shape[:-2], height, y.shape[-1]).index_add(-2, rows, y)
    return y.new_zeros(*y.shape[:-1], width).index_add(-1, columns, y)
