"""JPEG compression: cosine coefficients of 8 x 8 blocks rounded to multiples of a table (ITU-T T.81, annex A and K)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from flashdiff_cli.cosines import cosine_order, cosine_rows
from flashdiff_cli.operators.base import Operator, choose, per_sample
from flashdiff_cli.operators.registry import OPERATORS
from flashdiff_cli.parameters import OPERATOR_OPTIONS

BLOCK = 8
MIDDLE = (2, 6)
"""Of `Jpeg.noise_std`: lowest and highest u + v."""

LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *[(99,) * 8] * 4,
)
"""T.81 annex K, as every common encoder scales them by its quality."""

TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""JFIF: Y, Cb, Cr from R, G, B; without the offset of 128, which is added to no coefficient but the mean."""


def quantisation_table(quality: torch.Tensor, base: tuple[tuple[int, ...], ...]) -> torch.Tensor:
    """Return the steps of the coefficients on the scale of 0 to 255: (B, 8, 8) for qualities (B,), as libjpeg scales them."""
    quality = quality.double().round().clamp(1, 100)
    scale = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    table = torch.tensor(base, dtype=torch.float64)
    return ((table * scale.view(-1, 1, 1) + 50) / 100).floor().clamp(1, 255)


def _straight(values: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    """Return `rounded` going forward, the identity going backward."""
    return values + (rounded - values).detach()


@OPERATORS.add
class Jpeg(Operator):
    """Compression by a JPEG encoder of a quality, and decoding. Rounding passes gradients straight through.

    The block grid begins at the top left corner. Of libjpeg's arithmetic only the rounding to whole intensities is left out.

    Args:
        jpeg_quality: 1 to 100, a number or (B,).
        chroma: "420" (colour at half resolution, what cameras and programs write) or "444".
    """

    name = "jpeg"
    help = "JPEG compression"
    linear = False
    options = OPERATOR_OPTIONS["jpeg"]

    def __init__(self, jpeg_quality: float | torch.Tensor, chroma: str = "420"):
        self.jpeg_quality, self.chroma = per_sample(jpeg_quality), chroma
        self._tables = [quantisation_table(self.jpeg_quality, base) for base in (LUMA_TABLE, CHROMA_TABLE)]

    @classmethod
    def of_file(cls, tables: Sequence[Sequence[int]], subsampling: str | None) -> Jpeg:
        """Build the operator that a JPEG file says it went through.

        Args:
            tables: its quantisation tables of luma and, where it has colour, of the colour differences: 64 divisors each, row by row.
            subsampling: "444", "422" or "420"; None for grey.

        Returns:
            one whose `jpeg_quality` is that of the standard tables that come nearest; the tables are the file's own.
        """
        own = [torch.tensor(table, dtype=torch.float64).clamp(min=1).view(1, BLOCK, BLOCK) for table in (tables[0], tables[-1])]
        standard = quantisation_table(torch.arange(1, 101), LUMA_TABLE)
        quality = 1 + (standard.log() - own[0].log()).abs().mean((1, 2)).argmin().item()
        found = cls(float(quality), "444" if subsampling in (None, "444") else "420")
        found._tables = own
        return found

    def _table(self, plane: int, x: torch.Tensor) -> torch.Tensor:
        """Return (B or 1, 1, 1, 8, 8) on the scale of intensities from 0 to 1."""
        return (self._tables[min(plane, 1)] / 255).to(x)[:, None, None]

    def coefficients(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the cosine coefficients of the luma plane and of both colour differences of (B, 3, H, W): (B, h, w, 8, 8) each."""
        whole = 2 * BLOCK
        pad = (0, -x.shape[3] % whole, 0, -x.shape[2] % whole)
        padded = F.pad(x, pad, mode="replicate") if any(pad) else x
        ycc = torch.einsum("ij,bjhw->bihw", torch.tensor(TO_YCC).to(x), padded)
        planes = [ycc[:, 0] - 128 / 255, ycc[:, 1], ycc[:, 2]]
        if self.chroma == "420":
            planes[1:] = [F.avg_pool2d(plane, 2) for plane in planes[1:]]
        c = cosine_rows(BLOCK).to(x)
        return [torch.einsum("ui,bhiwj,vj->bhwuv", c, plane.unflatten(2, (-1, BLOCK)).unflatten(1, (-1, BLOCK)), c) for plane in planes]

    @staticmethod
    def _plane(coefficients: torch.Tensor) -> torch.Tensor:
        """Turn coefficients (B, h, w, 8, 8) into planes (B, 8 h, 8 w), without the offset of the mean."""
        c = cosine_rows(BLOCK).to(coefficients)
        return torch.einsum("ui,bhwuv,vj->bhiwj", c, coefficients, c).flatten(3, 4).flatten(1, 2)

    def picture(self, coefficients: list[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """Return the image (B, 3, H, W) of coefficients: the way back of `coefficients`."""
        planes = [self._plane(part) for part in coefficients]
        planes[0] = planes[0] + 128 / 255
        if self.chroma == "420":
            # Linear between the centres of the larger pixels: what decoders call fancy upsampling.
            planes[1:] = [F.interpolate(p[:, None], scale_factor=2.0, mode="bilinear")[:, 0] for p in planes[1:]]
        back = torch.linalg.inv(torch.tensor(TO_YCC, dtype=torch.float64)).to(planes[0])
        return torch.einsum("ij,bjhw->bihw", back, torch.stack(planes, 1))[..., : size[0], : size[1]]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # In half precision a coefficient would often be rounded to the wrong step.
        exact = x if x.dtype == torch.float64 else x.float()
        rounded = []
        for plane, values in enumerate(self.coefficients(exact)):
            table = self._table(plane, exact)
            rounded.append(_straight(values, (values / table).round() * table))
        decoded = self.picture(rounded, (x.shape[-2], x.shape[-1]))
        return _straight(decoded, decoded.clamp(0, 1)).to(x)

    def noise_std(self) -> torch.Tensor:
        """Return the standard deviation of what rounding adds, (B,) or (1,) on intensities in [0, 1], from the middle steps of the luma table.

        The cosines are orthonormal, so an even error of a step's width in all coefficients is as large in every pixel. Finer coefficients
        are mostly 0 before and after; of those between, a blur leaves as much as a step can hide.
        """
        middle = (cosine_order(BLOCK) >= MIDDLE[0]) & (cosine_order(BLOCK) <= MIDDLE[1])
        return (self._tables[0].flatten(1)[:, middle].mean(1) / 255 / 12**0.5).float()

    def project(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return x with its luma brought to the nearest that compresses to y's: every coefficient is held within its rounding.

        Colour stays as it is: at half resolution a decoder's enlargement hides what was rounded.

        Args:
            x, y: (B, 3, H, W) in [0, 1]; y a compressed image.
        """
        mine, seen = (self.coefficients(part)[0] for part in (x, y))
        table = self._table(0, x)
        middle = (seen / table).round() * table
        off = mine.clamp(middle - table / 2, middle + table / 2) - mine
        return x + self._plane(off)[:, None, : x.shape[2], : x.shape[3]]

    def describe(self, index: int = 0) -> dict[str, Any]:
        return {"jpeg_quality": round(self.jpeg_quality[index % len(self.jpeg_quality)].item(), 2), "chroma": self.chroma}

    def subset(self, active: torch.Tensor) -> Jpeg:
        found = Jpeg(choose(self.jpeg_quality, active), self.chroma)
        found._tables = [choose(table, active) for table in self._tables]
        return found

    @classmethod
    def _stack(cls, operators: Sequence[Jpeg]) -> Jpeg:
        if len({operator.chroma for operator in operators}) != 1:
            raise cls._unstackable("colour at different resolutions")
        found = cls(torch.cat([operator.jpeg_quality for operator in operators]), operators[0].chroma)
        found._tables = [torch.cat(parts) for parts in zip(*(operator._tables for operator in operators), strict=True)]
        return found
