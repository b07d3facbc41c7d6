"""The orthonormal DCT-II, as a matrix and, in two dimensions, as convolution filters."""

from __future__ import annotations

import math

import torch


def cosine_rows(size: int) -> torch.Tensor:
    """Return the transform of one dimension, (size, size) float64; rows are frequencies."""
    n = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi * (n + 0.5) * n[:, None] / size) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows


def cosine_basis(size: int) -> torch.Tensor:
    """Return the basis as filters, (size * size, 1, size, size), index u * size + v."""
    rows = cosine_rows(size)
    return torch.einsum("ui,vj->uvij", rows, rows).reshape(size * size, 1, size, size).float()


def cosine_order(size: int) -> torch.Tensor:
    """Return u + v of each filter of `cosine_basis`, (size * size,)."""
    n = torch.arange(size)
    return (n[:, None] + n).flatten()
