"""Values of single samples against tensors of whole batches."""

from __future__ import annotations

import torch


def shaped(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Shape (B,) so that it multiplies `like` (B, ...) sample by sample, in its type and on its device."""
    # The type first: some devices have no float64.
    return values.to(like.dtype).to(like.device).view(-1, *[1] * (like.ndim - 1))


def select(mask: torch.Tensor, chosen: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Take whole samples of `chosen` (B, ...) where `mask` (B,) is true, and those of `other` elsewhere."""
    return torch.where(mask.to(chosen.device).view(-1, *[1] * (chosen.ndim - 1)), chosen, other)
