"""Which degradation a picture shows: a small network over statistics that degradations leave in it, and over the picture itself.

Each kind has a mark of its own. Blur bends the power spectrum down, camera shake does so along one direction and leaves zeros, noise
lies under it as a floor, enlargement cuts it off, and JPEG empties the cosine coefficients of its own grid of 8 x 8 blocks but not
those of a shifted one. The statistics are fixed formulas; what they mean is learned. Convolutions over the picture see where it is smooth
and where its edges are: noise and rounding show in the one, blur in the other. The module path is part of saved models; it must not move.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from flashdiff_cli.cosines import cosine_basis
from flashdiff_cli.grey import luma_of, with_colour_noise
from flashdiff_cli.operators.padding import Margins, pad

KINDS = ("none", "gaussian-blur", "motion-blur", "noise", "jpeg", "downsampling")
PARAMETERS = ("noise_std", "blur_std", "blur_length", "cosine", "sine", "jpeg_quality", "enlarged")
"""What is estimated besides: logarithms, but cosine and sine of twice the angle of a motion, and quality / 100."""

LARGE, SMALL, COLOUR, GRID = 64, 32, 16, 8
FLOOR = 1e-7
"""Added to powers on the scale of -1 to 1: a tenth of what rounding to 8 bits leaves."""
HALF = GRID // 2
LEAST_SIDE = LARGE + GRID
"""In pixels, of what statistics are taken from: a window of the spectrum, and a block for the shifted grid."""


class Degradation(NamedTuple):
    """What the classifier says of B measurements."""

    probabilities: torch.Tensor
    """(B, 6), in the order of KINDS."""
    parameters: torch.Tensor
    """(B, 7), in the order of PARAMETERS."""

    def value(self, name: str) -> torch.Tensor:
        """Return (B,): noise_std on intensities in [0, 1]; blur_std and blur_length in pixels; jpeg_quality 1 to 100; enlarged, a factor."""
        raw = self.parameters[:, PARAMETERS.index(name)].float()
        return (100 * raw).clamp(1, 100) if name == "jpeg_quality" else raw.clamp(-9, 6).exp()

    @property
    def angle(self) -> torch.Tensor:
        """(B,): direction of a motion in radians, from the horizontal downwards, -pi/2 to pi/2."""
        cosine, sine = (self.parameters[:, PARAMETERS.index(name)].float() for name in ("cosine", "sine"))
        return 0.5 * torch.atan2(sine, cosine)


def spectrum(plane: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Welch's estimate of the power spectrum of (B, H, W) >= side: mean of the powers, and mean of their logarithms.

    Returns:
        two of (B, side * (side // 2 + 1)), logarithms both; windows of `side` pixels with a Hann taper, half of which overlap.
    """
    taper = torch.hann_window(side, periodic=False, dtype=plane.dtype, device=plane.device)
    taper = taper[:, None] * taper
    taper = taper / taper.square().sum().sqrt()
    windows = plane.unfold(1, side, side // 2).unfold(2, side, side // 2).flatten(1, 2)
    windows = windows - windows.mean((2, 3), keepdim=True)
    power = torch.fft.rfft2(windows * taper).abs().square() + FLOOR
    return power.mean(1).log().flatten(1), power.log().mean(1).flatten(1)


def grid_marks(luma: torch.Tensor) -> torch.Tensor:
    """Return (B, 64 + 8): how the cosine coefficients of the grid of 8 x 8 blocks differ from those of one shifted by half a block, and how
    strongly steps between neighbours recur every 8 pixels, wherever that grid begins."""
    basis = cosine_basis(GRID).to(luma)
    here, there = (F.conv2d(part[:, None], basis, stride=GRID).abs() for part in (luma, luma[:, HALF:-HALF, HALF:-HALF]))
    marks = [(here + 1e-3).log().mean((2, 3)) - (there + 1e-3).log().mean((2, 3))]
    for axis in (1, 2):
        steps = (luma.narrow(axis, 1, luma.shape[axis] - 1) - luma.narrow(axis, 0, luma.shape[axis] - 1)).abs()
        steps = steps.clamp(max=0.1).mean(3 - axis)
        steps = steps[:, : steps.shape[1] // GRID * GRID].unflatten(1, (-1, GRID)).mean(1) + 1e-4
        turns = torch.fft.rfft((steps / steps.mean(1, keepdim=True)).log()).abs()
        marks.append(turns[:, 1:])
    return torch.cat(marks, 1)


def large_enough(measurement: torch.Tensor) -> torch.Tensor:
    """Return pictures (B, 3, H, W) in float32 with sides of at least LEAST_SIDE: smaller ones are mirrored."""
    short = [max(0, LEAST_SIDE - side) for side in measurement.shape[-2:]]
    x = measurement.float()
    # By whole blocks: constant borders would fill blocks of the picture's own grid and look like compression.
    return pad(x, Margins(0, short[0], 0, short[1])) if any(short) else x


def statistics(measurement: torch.Tensor) -> torch.Tensor:
    """Return what the classifier looks at, of pictures (B, 3, H, W) in [-1, 1] of any size: (B, FEATURES)."""
    x = with_colour_noise(large_enough(measurement))
    luma = luma_of(x)
    colours = (x[:, 0] - x[:, 1], x[:, 2] - x[:, 1])
    second = (luma[:, 1:-1, 2:] - 2 * luma[:, 1:-1, 1:-1] + luma[:, 1:-1, :-2]).abs().flatten(1)
    levels = torch.quantile(second[:, :: max(1, second.shape[1] // 20000)], second.new_tensor([0.1, 0.25, 0.5, 0.75, 0.9]), dim=1).T
    extremes = torch.stack([(luma < -0.99).float().mean((1, 2)), (luma > 0.99).float().mean((1, 2)), luma.std((1, 2)).log().clamp(min=-7)], 1)
    parts = [spectrum(luma, LARGE)[0], spectrum(luma, SMALL)[1], *(spectrum(colour, COLOUR)[0] for colour in colours)]
    return torch.cat([*parts, grid_marks(luma), (levels + 1e-3).log(), extremes], 1)


FEATURES = LARGE * (LARGE // 2 + 1) + SMALL * (SMALL // 2 + 1) + 2 * COLOUR * (COLOUR // 2 + 1) + GRID * GRID + GRID + 8


FINE = 8.0
"""Times the difference between a pixel and the mean of its neighbours that the convolutions see, before it is limited to -1 to 1."""


def views(measurement: torch.Tensor) -> torch.Tensor:
    """Return what convolutions see of pictures (B, 3, H, W) in [-1, 1]: luma and two colours, and the finest differences of each, (B, 6, H, W)."""
    x = with_colour_noise(large_enough(measurement))
    planes = torch.stack([luma_of(x), x[:, 0] - x[:, 1], x[:, 2] - x[:, 1]], 1)
    around = F.avg_pool2d(F.pad(planes, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return torch.cat([planes, (FINE * (planes - around)).tanh()], 1)


def convolutions(channels: tuple[int, int, int], blocks: int) -> nn.Sequential:
    """Return layers that halve the sides three times, with residual ones at the least size."""
    a, b, c = channels
    first = [nn.Conv2d(6, a, 5, stride=2, padding=2), nn.SiLU(), nn.Conv2d(a, b, 3, stride=2, padding=1), nn.SiLU()]
    return nn.Sequential(*first, nn.Conv2d(b, c, 3, stride=2, padding=1), nn.SiLU(), *(Residual(c) for _ in range(blocks)))


class Residual(nn.Module):
    """A convolution with a bypass."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + F.silu(self.conv(x))


class DegradationClassifier(ModelMixin, ConfigMixin):
    """Kind and parameters of what degraded a picture, from `statistics` and `views`.

    Args:
        width: of the hidden layers.
        dropout: share of hidden units that are left out in training.
        channels: of the convolutions over the picture at a half, a quarter and an eighth of its size; None: statistics alone.
        blocks: residual convolutions at an eighth.
        degradations: what it was trained on, for people.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        width: int = 192,
        dropout: float = 0.2,
        channels: tuple[int, int, int] | None = None,
        blocks: int = 2,
        degradations: list[dict] | None = None,
    ):
        super().__init__()
        self.norm = nn.BatchNorm1d(FEATURES, momentum=0.02, affine=False)
        self.picture = None if channels is None else convolutions(channels, blocks)
        pooled = 0 if channels is None else 2 * channels[2]
        self.hidden = nn.Sequential(
            nn.Linear(FEATURES + pooled, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, width), nn.SiLU(), nn.Dropout(dropout)
        )
        self.kind = nn.Linear(width, len(KINDS))
        self.value = nn.Linear(width, len(PARAMETERS))
        nn.init.zeros_(self.value.weight)

    def forward(self, measurement: torch.Tensor) -> Degradation:
        """Say what degraded each measurement (B, 3, H, W), nominally in [-1, 1]."""
        # Differences of logarithms tell one kind from another: never in half precision.
        with torch.no_grad(), torch.autocast(measurement.device.type, enabled=False):
            seen = statistics(measurement)
        dtype = self.kind.weight.dtype
        features = self.norm(seen.to(dtype)).clamp(-6, 6)
        if self.picture is not None:
            flat = self.picture(views(measurement).to(dtype)).flatten(2)
            features = torch.cat([features, flat.mean(2), flat.var(2, correction=0).add(1e-6).sqrt()], 1)
        hidden = self.hidden(features)
        return Degradation(self.kind(hidden).float().softmax(1), self.value(hidden).float())
