"""No degradation but the noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from flashdiff_cli.operators.base import Operator
from flashdiff_cli.operators.registry import OPERATORS


@OPERATORS.add
class Identity(Operator):
    """A(x) = x: the measurement is the image plus noise, and the task is denoising."""

    name = "identity"
    help = "nothing but noise"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return y

    def describe(self, index: int = 0) -> dict[str, Any]:
        return {}

    def subset(self, active: torch.Tensor) -> Identity:
        return self

    @classmethod
    def _stack(cls, operators: Sequence[Identity]) -> Identity:
        return operators[0]
