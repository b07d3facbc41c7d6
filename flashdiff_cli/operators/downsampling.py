"""Fewer pixels: low-pass filter and every n-th sample, so that nothing aliases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators.base import Operator
from flashdiff_cli.operators.padding import Margins, fold, pad
from flashdiff_cli.operators.registry import OPERATORS
from flashdiff_cli.parameters import OPERATOR_OPTIONS


@OPERATORS.add
class Downsampling(Operator):
    """Reduction by an integer factor, the same for all samples; reflect padding.

    A measured pixel stands for the middle of a block of factor x factor pixels. Sides that are no multiple of the
    factor are filled up to one by mirroring.

    Args:
        factor: n.
        size: (H, W) of the images; the measurement is (ceil(H / n), ceil(W / n)).
        filter: "bicubic" (Keys, a = -0.5, widened by n) or "box" (the mean of the block).

    Raises:
        UsageError: the factor differs between samples.
    """

    name = "downsampling"
    help = "fewer pixels, by an integer factor"
    options = OPERATOR_OPTIONS["downsampling"]

    def __init__(self, factor: int | torch.Tensor, size: tuple[int, int], filter: str = "bicubic"):
        factors = torch.as_tensor(factor).reshape(-1)
        if bool((factors != factors[0]).any()):
            raise UsageError("`factor` must be the same for all pictures of a batch: their measurements would differ in size")
        self.factor, self.size, self.filter = int(factors[0]), (int(size[0]), int(size[1])), filter
        n = self.factor
        middle = (n - 1) / 2
        reach = 2 * n if filter == "bicubic" else n / 2
        first, last = math.ceil(middle - reach), math.floor(middle + reach)
        distance = (torch.arange(first, last + 1, dtype=torch.float64) - middle) / n
        taps = _keys(distance) if filter == "bicubic" else torch.ones_like(distance)
        self._taps = taps / taps.sum()
        self._before, self._length = -first, len(taps)

    @classmethod
    def make(cls, size: tuple[int, int], generator: torch.Generator, **values: Any) -> Downsampling:
        return cls(size=size, **values)

    @classmethod
    def image_size(cls, measured: tuple[int, int], values: dict[str, Any]) -> tuple[int, int]:
        factor = cls.options[0].parse(values.get("factor"))
        return (measured[0] * factor, measured[1] * factor)

    def measured_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return (-(-size[0] // self.factor), -(-size[1] // self.factor))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._check(x, self.size, "images")
        padded = pad(x, self._margins())
        taps = self._taps.to(x)[None, None]
        rows = F.conv2d(padded.flatten(0, 1)[:, None], taps[..., None], stride=(self.factor, 1))
        return F.conv2d(rows, taps[:, :, None], stride=(1, self.factor)).reshape(*x.shape[:2], *self.measured_size(self.size))

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        self._check(y, self.measured_size(self.size), "measurements")
        taps = self._taps.to(y)[None, None]
        columns = F.conv_transpose2d(y.flatten(0, 1)[:, None], taps[:, :, None], stride=(1, self.factor))
        spread = F.conv_transpose2d(columns, taps[..., None], stride=(self.factor, 1))
        return fold(spread.reshape(*y.shape[:2], *spread.shape[2:]), self._margins())

    def _margins(self) -> Margins:
        """Return margins such that the filter fits at the first and the last measured pixel."""
        ends = [(m - 1) * self.factor + self._length - self._before for m in self.measured_size(self.size)]
        return Margins(self._before, ends[0] - self.size[0], self._before, ends[1] - self.size[1])

    def resize_to_image(self, y: torch.Tensor) -> torch.Tensor:
        """Enlarge (B, 3, H', W') to (B, 3, H, W) bicubically."""
        self._check(y, self.measured_size(self.size), "measurements")
        large = F.interpolate(y, scale_factor=float(self.factor), mode="bicubic", antialias=True)
        return large[..., : self.size[0], : self.size[1]]

    def extend(self, size: tuple[int, int]) -> Downsampling:
        if size[0] < self.size[0] or size[1] < self.size[1]:
            raise UsageError(f"downsampling of {self.size[1]} x {self.size[0]} pixels cannot be extended to {size[1]} x {size[0]}")
        return Downsampling(self.factor, size, self.filter)

    @property
    def stride(self) -> int:
        return self.factor

    def window(self, top: int, left: int, height: int, width: int) -> Downsampling:
        return Downsampling(self.factor, (height, width), self.filter)

    def _check(self, tensor: torch.Tensor, size: tuple[int, int], what: str) -> None:
        if tuple(tensor.shape[-2:]) != size:
            height, width = tensor.shape[-2:]
            raise UsageError(f"downsampling was built for {what} of {size[1]} x {size[0]} pixels, not {width} x {height}; build it for that size")

    def describe(self, index: int = 0) -> dict[str, Any]:
        return {"factor": self.factor, "filter": self.filter}

    def subset(self, active: torch.Tensor) -> Downsampling:
        return self

    @classmethod
    def _stack(cls, operators: Sequence[Downsampling]) -> Downsampling:
        if len({(operator.factor, operator.size, operator.filter) for operator in operators}) > 1:
            raise cls._unstackable("different factors, sizes or filters")
        return operators[0]


def _keys(distance: torch.Tensor) -> torch.Tensor:
    """Return Keys' cubic convolution kernel with a = -1/2."""
    d = distance.abs()
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return torch.where(d < 1, near, torch.where(d < 2, far, 0.0))
