"""A small picture that was enlarged: as many pixels as before, but no detail finer than the small one had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from flashdiff_cli.operators.base import Operator, choose, per_sample
from flashdiff_cli.operators.registry import OPERATORS
from flashdiff_cli.parameters import OPERATOR_OPTIONS


@OPERATORS.add
class Enlargement(Operator):
    """Reduction by a factor, and enlargement back to the size; bicubic with a low-pass filter, as picture programs resize.

    Args:
        enlarged: the factor, at least 1, not necessarily whole; a number or (B,).
    """

    name = "enlargement"
    help = "a small picture, enlarged"
    options = OPERATOR_OPTIONS["enlargement"]

    def __init__(self, enlarged: float | torch.Tensor):
        self.enlarged = per_sample(enlarged)

    def _there_and_back(self, x: torch.Tensor, factors: Sequence[float]) -> torch.Tensor:
        size = tuple(x.shape[-2:])
        parts = []
        # Half precisions have no antialiased resizing.
        exact = x if x.dtype == torch.float64 else x.float()
        for one, factor in zip(exact, factors, strict=True):
            small = tuple(max(1, round(side / factor)) for side in size)
            reduced = F.interpolate(one[None], size=small, mode="bicubic", antialias=True)
            parts.append(F.interpolate(reduced, size=size, mode="bicubic", antialias=True))
        return torch.cat(parts).to(x)

    def _factors(self, x: torch.Tensor) -> list[float]:
        return self.enlarged.expand(len(x)).tolist()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._there_and_back(x, self._factors(x))

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        # The transpose of a linear map is its gradient, and torch 2.6 takes no number from a tensor while it finds that.
        factors = self._factors(y)
        return torch.func.vjp(lambda x: self._there_and_back(x, factors), torch.zeros_like(y))[1](y)[0]

    def describe(self, index: int = 0) -> dict[str, Any]:
        return {"enlarged": round(self.enlarged[index % len(self.enlarged)].item(), 4)}

    def subset(self, active: torch.Tensor) -> Enlargement:
        return Enlargement(choose(self.enlarged, active))

    @classmethod
    def _stack(cls, operators: Sequence[Enlargement]) -> Enlargement:
        return cls(torch.cat([operator.enlarged for operator in operators]))
