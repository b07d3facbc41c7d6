"""Blur with a Gaussian kernel whose width differs from sample to sample (paper section 4, "varying Gaussian blur")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from flashdiff_cli.broadcast import shaped
from flashdiff_cli.operators.base import Operator, choose, per_sample
from flashdiff_cli.operators.padding import Margins, fold, pad
from flashdiff_cli.operators.proximal import inverse_mirrored_cosines, mirrored_cosines
from flashdiff_cli.operators.registry import OPERATORS
from flashdiff_cli.parameters import OPERATOR_OPTIONS

KERNEL_SIZE = 61
"""The reference's kernel is 61 x 61; taps beyond six standard deviations are below float32 and are left out."""

LEAST_BLUR = 0.3
"""Pixels, from which on fine detail is taken away: the narrowest that this was tried on."""


@OPERATORS.add
class GaussianBlur(Operator):
    """Separable Gaussian blur, reflect padding.

    Args:
        blur_std: standard deviation in pixels, above 0; a number or (B,).
        adjoint_rule: "exact"; or "reference", which repeats what the paper's code takes for the adjoint: it folds the
            borders back one pixel too far out, as if the edge pixel had been mirrored too.
    """

    name = "gaussian-blur"
    help = "Gaussian blur"
    options = OPERATOR_OPTIONS["gaussian-blur"]

    def __init__(self, blur_std: float | torch.Tensor, adjoint_rule: str = "exact"):
        self.blur_std = per_sample(blur_std)
        self.adjoint_rule = adjoint_rule
        self._kernels: dict[tuple, torch.Tensor] = {}

    def hides_detail(self) -> torch.Tensor:
        return (self.blur_std >= LEAST_BLUR).cpu()

    def _kernel(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B or 1, taps), normalised; built once per device and type."""
        key = (x.device, x.dtype)
        if key not in self._kernels:
            std = self.blur_std.double()
            radius = min(KERNEL_SIZE // 2, max(1, math.ceil(6 * std.max().item())))
            offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
            kernel = torch.exp(-0.5 * (offsets / std[:, None]) ** 2)
            self._kernels[key] = (kernel / kernel.sum(1, keepdim=True)).to(x)
        return self._kernels[key]

    def _weights(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        kernel = self._kernel(x)
        rows = kernel.expand(x.shape[0], -1).repeat_interleave(x.shape[1], 0)
        return rows[:, None], kernel.shape[1] // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, radius = self._weights(x)
        groups = weights.shape[0]
        padded = pad(x, Margins.all(radius)).reshape(1, groups, x.shape[2] + 2 * radius, -1)
        blurred = F.conv2d(padded, weights[..., None], groups=groups)
        return F.conv2d(blurred, weights[:, :, None], groups=groups).reshape(x.shape)

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        weights, radius = self._weights(y)
        groups = weights.shape[0]
        flat = y.reshape(1, groups, *y.shape[2:])
        spread = F.conv_transpose2d(flat, weights[:, :, None], groups=groups)
        spread = F.conv_transpose2d(spread, weights[..., None], groups=groups)
        spread = spread.reshape(*y.shape[:2], *spread.shape[2:])
        return fold(spread, Margins.all(radius), repeat_edge=self.adjoint_rule == "reference")

    def proximal(self, x: torch.Tensor, y: torch.Tensor, noise_variance: torch.Tensor, error_variance: torch.Tensor) -> torch.Tensor:
        """Solve as `Operator.proximal` says, in closed form: mirrored borders make the blur diagonal in cosines (DCT-I).

        The norms give border pixels half the weight of the others, in which the blur is its own adjoint.
        """
        exact = x if x.dtype == torch.float64 else x.float()
        t, s = shaped(error_variance, exact), shaped(noise_variance.clamp(min=1e-8), exact)
        gain = self._response(exact)
        residual = mirrored_cosines(y.to(exact) - self.on_signed(exact))
        return (exact + inverse_mirrored_cosines(t * gain / (t * gain.square() + s) * residual)).to(x)

    def _response(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B or 1, 1, H, W): what the blur makes of each cosine."""
        kernel = self._kernel(x)
        radius = kernel.shape[1] // 2
        offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=torch.float64)
        rows, columns = (kernel @ torch.cos(math.pi * offsets[:, None] * torch.arange(n, device=x.device) / (n - 1)).to(x) for n in x.shape[-2:])
        return (rows[:, :, None] * columns[:, None])[:, None]

    def describe(self, index: int = 0) -> dict[str, Any]:
        rule = {} if self.adjoint_rule == "exact" else {"adjoint_rule": self.adjoint_rule}
        return {"blur_std": round(self.blur_std[index % len(self.blur_std)].item(), 4)} | rule

    def subset(self, active: torch.Tensor) -> GaussianBlur:
        return GaussianBlur(choose(self.blur_std, active), self.adjoint_rule)

    @classmethod
    def _stack(cls, operators: Sequence[GaussianBlur]) -> GaussianBlur:
        if len({operator.adjoint_rule for operator in operators}) > 1:
            raise cls._unstackable("different adjoint rules")
        return cls(torch.cat([operator.blur_std for operator in operators]), operators[0].adjoint_rule)
