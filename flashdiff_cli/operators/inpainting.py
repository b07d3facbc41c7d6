"""Missing pixels: the image times a mask (paper section 4). Dropped pixels are 0 on intensities in [0, 1].

A severity encoder, and whatever else looks at a measurement, sees it with its holes filled (`fill`): black ones would be taken for content, and
their edges for noise. All masks are drawn when the operator is built, one for each sample, so that no encoder can learn a mask by heart.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators.base import Operator, choose, per_sample
from flashdiff_cli.operators.files import read_mask
from flashdiff_cli.operators.fill import fill
from flashdiff_cli.operators.padding import mirror_index
from flashdiff_cli.operators.registry import OPERATORS
from flashdiff_cli.parameters import OPERATOR_OPTIONS

KNOWN = 0.5
"""Where a mask is at least this, a pixel counts as kept; a dimmed one is brightened before it is looked at."""


class Inpainting(Operator):
    """A(x) = mask * x, its own adjoint.

    Args:
        mask: (B, H, W) or (1, H, W), 1 where a pixel is kept, 0 where it is dropped, between for one that is dimmed.
        parameters: what the mask came from, (B,) or (1,) by option name, for records.
    """

    encoder_fallback = "random-inpainting"
    looks_like = "identity"

    def __init__(self, mask: torch.Tensor, **parameters: torch.Tensor):
        self.mask = mask[:, None]
        self.parameters = parameters
        self._moved: dict[tuple, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-2:] != self.mask.shape[-2:]:
            sizes = [f"{w} x {h}" for h, w in (self.mask.shape[-2:], x.shape[-2:])]
            raise UsageError(f"the mask of {self.name} is {sizes[0]} pixels and the image {sizes[1]}; build it for that size")
        key = (x.device, x.dtype)
        if key not in self._moved:
            self._moved[key] = self.mask.to(x)
        return x * self._moved[key]

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self.forward(y)

    def kept(self) -> torch.Tensor:
        return self.mask[:, 0] >= KNOWN

    def seen(self, y: torch.Tensor) -> torch.Tensor:
        mask = self.mask.to(y.device, torch.float32)
        whole = torch.where(mask < 1, (y.float() + 1) / mask.clamp(min=KNOWN) - 1, y.float())
        return fill(whole, self.kept()).to(y)

    def describe(self, index: int = 0) -> dict[str, Any]:
        return {name: round(value[index % len(value)].item(), 4) for name, value in self.parameters.items()}

    def subset(self, active: torch.Tensor) -> Inpainting:
        return self._with(choose(self.mask, active), {k: choose(v, active) for k, v in self.parameters.items()})

    @classmethod
    def _stack(cls, operators: Sequence[Inpainting]) -> Inpainting:
        if len({operator.mask.shape for operator in operators}) > 1:
            raise cls._unstackable("masks of different sizes")
        names = operators[0].parameters
        parameters = {name: torch.cat([operator.parameters[name] for operator in operators]) for name in names}
        return operators[0]._with(torch.cat([operator.mask for operator in operators]), parameters)

    def extend(self, size: tuple[int, int]) -> Inpainting:
        after = [new - old for new, old in zip(size, self.mask.shape[-2:], strict=True)]
        if min(after) < 0:
            raise UsageError(f"the mask of {self.name} is larger than {size[1]} x {size[0]} pixels; it can only be extended")
        rows, columns = (mirror_index(old, 0, more) for old, more in zip(self.mask.shape[-2:], after, strict=True))
        mask = self.mask.index_select(-2, rows.to(self.mask.device)).index_select(-1, columns.to(self.mask.device))
        return self._with(mask, self.parameters)

    def window(self, top: int, left: int, height: int, width: int) -> Inpainting:
        return self._with(self.mask[..., top : top + height, left : left + width], self.parameters)

    def _with(self, mask: torch.Tensor, parameters: dict[str, torch.Tensor]) -> Inpainting:
        other = copy.copy(self)
        other.mask, other.parameters, other._moved = mask, parameters, {}
        return other


def missing(operator: Operator) -> torch.Tensor | None:
    """Return where an operator drops pixels, (B, H, W) or (1, H, W), bool; None for one that drops none."""
    kept = operator.kept()
    return None if kept is None else ~kept


@OPERATORS.add
class RandomInpainting(Inpainting):
    """Pixels dropped independently: kept where a uniform threshold is below `kept_fraction`.

    With the thresholds of seed 0 these are the reference's masks; a larger fraction keeps what a smaller one kept.

    Args:
        kept_fraction: expected share of kept pixels, 0 to 1; a number or (B,).
        thresholds: uniform in [0, 1), (B, H, W) or (1, H, W).
    """

    name = "random-inpainting"
    help = "pixels dropped at random"
    options = OPERATOR_OPTIONS["random-inpainting"]

    def __init__(self, kept_fraction: float | torch.Tensor, thresholds: torch.Tensor):
        kept_fraction = per_sample(kept_fraction)
        super().__init__((thresholds < kept_fraction.view(-1, 1, 1)).float(), kept_fraction=kept_fraction)

    @classmethod
    def make(cls, size: tuple[int, int], generator: torch.Generator, **values: Any) -> RandomInpainting:
        kept_fraction = per_sample(values["kept_fraction"])
        return cls(kept_fraction, torch.rand(len(kept_fraction), *size, generator=generator))


@OPERATORS.add
class BoxInpainting(Inpainting):
    """A square in the middle is dropped.

    Args:
        box_fraction: its side, as a share of the image's shorter side, rounded to pixels; a number or (B,).
        size: (H, W).
    """

    name = "box-inpainting"
    help = "a square in the middle dropped"
    options = OPERATOR_OPTIONS["box-inpainting"]

    def __init__(self, box_fraction: float | torch.Tensor, size: tuple[int, int]):
        box_fraction = per_sample(box_fraction)
        side = (box_fraction.double() * min(size) + 0.5).floor().long()
        top, left = ((extent - side).div(2, rounding_mode="floor") for extent in size)
        super().__init__(_without_box(size, top, left, side, side), box_fraction=box_fraction)

    @classmethod
    def make(cls, size: tuple[int, int], generator: torch.Generator, **values: Any) -> BoxInpainting:
        return cls(size=size, **values)


@OPERATORS.add
class RandomBoxInpainting(Inpainting):
    """A rectangle anywhere is dropped; its sides are as 1 : 1 to 1 : 2, lying or standing, if there is room.

    Args:
        box_area: share of the image's area that it covers, 0 to 1; a number or (B,). Its sides grow with the root.
        draws: uniform in [0, 1), (B, 4) or (1, 4): aspect, lying or standing, and place down and across.
        size: (H, W).
    """

    name = "random-box-inpainting"
    help = "a rectangle somewhere dropped"
    options = OPERATOR_OPTIONS["random-box-inpainting"]

    def __init__(self, box_area: float | torch.Tensor, draws: torch.Tensor, size: tuple[int, int]):
        box_area = per_sample(box_area)
        shape, turn, down, across = draws.double().unbind(1)
        aspect = 0.5 + 0.5 * shape
        area = box_area.double() * size[0] * size[1]
        height = (area * torch.where(turn < 0.5, aspect, 1 / aspect)).sqrt().clamp(1e-6, size[0])
        width = (area / height).clamp(max=size[1])
        height = (area / width.clamp(min=1e-6)).clamp(max=size[0])
        height, width = ((side + 0.5).floor().long() for side in (height, width))
        top, left = (down * (size[0] - height + 1)).long(), (across * (size[1] - width + 1)).long()
        super().__init__(_without_box(size, top, left, height, width), box_area=box_area)

    @classmethod
    def make(cls, size: tuple[int, int], generator: torch.Generator, **values: Any) -> RandomBoxInpainting:
        box_area = per_sample(values["box_area"])
        return cls(box_area, torch.rand(len(box_area), 4, generator=generator), size)


@OPERATORS.add
class GaussianInpainting(Inpainting):
    """The image fades to black towards its middle: mask = (1 - exp(-r^2 / (2 s^2)))^p at distance r from it.

    Args:
        mask_std: s in pixels, a number or (B,); 0 drops nothing.
        size: (H, W); the middle is the pixel (H // 2, W // 2).
        mask_power: p, a number or (B,).
    """

    name = "gaussian-inpainting"
    help = "a soft round hole in the middle"
    options = OPERATOR_OPTIONS["gaussian-inpainting"]

    def __init__(self, mask_std: float | torch.Tensor, size: tuple[int, int], mask_power: float | torch.Tensor = 4.0):
        mask_std, mask_power = per_sample(mask_std), per_sample(mask_power)
        rows, columns = (torch.arange(extent, dtype=torch.float64) - extent // 2 for extent in size)
        distance = rows[:, None].square() + columns.square()
        std = mask_std.double().view(-1, 1, 1)
        hole = torch.where(std > 0, torch.exp(-0.5 * distance / std.clamp(min=1e-6).square()), 0.0)
        mask = (1 - hole) ** mask_power.double().view(-1, 1, 1)
        super().__init__(mask.float(), mask_std=mask_std, mask_power=mask_power)

    @classmethod
    def make(cls, size: tuple[int, int], generator: torch.Generator, **values: Any) -> GaussianInpainting:
        return cls(size=size, **values)


@OPERATORS.add
class MaskInpainting(Inpainting):
    """Pixels dropped where a picture says so.

    Args:
        mask: (H, W) for all samples, or (B, H, W); 1 where a pixel is kept.
        mask_file: where it was read, for records.
        inverted: whether that file marks in white what is missing; `mask` does not.
        notes: how the file was read, for people.
    """

    name = "mask-inpainting"
    help = "pixels dropped where a mask picture is black"
    options = OPERATOR_OPTIONS["mask-inpainting"]

    def __init__(self, mask: torch.Tensor, mask_file: str = "", inverted: bool = False, notes: Sequence[str] = ()):
        super().__init__(mask.reshape(-1, *mask.shape[-2:]))
        self.mask_file, self.inverted, self.notes = str(mask_file), inverted, tuple(notes)

    @classmethod
    def make(cls, size: tuple[int, int], generator: torch.Generator, **values: Any) -> MaskInpainting:
        mask, notes = read_mask(values["mask_file"])
        if tuple(mask.shape) != tuple(size):
            height, width = mask.shape
            raise UsageError(
                f"`mask_file` {values['mask_file']} is {width} x {height} pixels and the image {size[1]} x {size[0]}; give a mask of the image's size"
            )
        inverted = values.get("invert_mask", False)
        return cls(1 - mask if inverted else mask, values["mask_file"], inverted, notes)

    def describe(self, index: int = 0) -> dict[str, Any]:
        return {"mask_file": self.mask_file} | ({"invert_mask": True} if self.inverted else {})

    @classmethod
    def _stack(cls, operators: Sequence[MaskInpainting]) -> Inpainting:
        if len({(operator.mask_file, operator.inverted) for operator in operators}) > 1:
            raise cls._unstackable("masks of different files")
        return super()._stack(operators)


def _without_box(size: tuple[int, int], top: torch.Tensor, left: torch.Tensor, height: torch.Tensor, width: torch.Tensor) -> torch.Tensor:
    """Return (B, H, W): 1 outside the box of `height` rows from `top` and `width` columns from `left`, (B,) each; 0 inside."""
    rows, columns = (torch.arange(extent) for extent in size)
    in_rows = (rows >= top[:, None]) & (rows < (top + height)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + width)[:, None])
    return 1.0 - (in_rows[:, :, None] & in_columns[:, None, :]).float()
