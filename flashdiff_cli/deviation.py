"""How wrong each number of a latent estimate is: the second half of a `dc` severity encoder."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from flashdiff_cli.cosines import cosine_basis
from flashdiff_cli.grey import with_colour_noise

BANDS = 14
BLOCK, STRIDE = 8, 4
NOISE_BAND = 9
"""From this band on, colour differences hold next to nothing but noise in blurred photographs."""
FINE = ((3, 3), (4, 4), (5, 5), (6, 6), (7, 7), (8, 9), (10, 11), (12, 14))
COLOUR = 6
WHOLE = 1 + BANDS + len(FINE) + COLOUR


def band_average(size: int) -> torch.Tensor:
    """Return weights that average DCT energies over u + v = 1 .. BANDS: (BANDS, size * size, 1, 1)."""
    n = torch.arange(size)
    order = (n[:, None] + n).flatten()
    member = (order == torch.arange(1, BANDS + 1)[:, None]).float()
    return (member / member.sum(1, keepdim=True))[..., None, None]


def log_ratio(energy: torch.Tensor, floor: float) -> torch.Tensor:
    """Return log(signal / noise + floor) from (signal + noise) / noise; below the floor all is noise."""
    return ((energy - 1).clamp(min=-floor / 2) + floor).log()


class DeviationHead(nn.Module):
    """The standard deviation of each number of a latent estimate, from the encoder's features and the measurement.

    How strongly a picture is blurred shows in how fast its spectrum sinks below the noise, and hardly at any single
    position: photographs have a 1/f spectrum, in which learned filters see little but the lowest frequencies. The
    energies of fixed cosine bands over the noise, of the whole picture at two scales, therefore modulate what every
    position says.

    Args:
        features: channels of the encoder's last features, at 1 / `factor` of the measurement's sides.
        factor: of the first stage.
        channels: of the latent.
        width: of the hidden layers.
    """

    def __init__(self, features: int, factor: int, channels: int, width: int = 96):
        super().__init__()
        self.rotation: torch.Tensor
        self.basis: torch.Tensor
        self.average: torch.Tensor
        self.factor, self.width = factor, width
        # Made from formulas, so not among the weights. Rotates R, G, B to grey and two differences, lengths kept. Computed on the CPU even where a
        # network is only outlined: arithmetic on the meta device imports torch's compiler.
        with torch.device("cpu"):
            colours = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
            self.register_buffer("rotation", colours / colours.norm(dim=1, keepdim=True), persistent=False)
            self.register_buffer("basis", cosine_basis(BLOCK), persistent=False)
            self.register_buffer("average", band_average(BLOCK), persistent=False)
        self.norm_features = nn.BatchNorm2d(features, momentum=0.05, affine=False)
        self.norm_bands = nn.BatchNorm2d(BANDS, momentum=0.05, affine=False)
        self.norm_whole = nn.BatchNorm1d(WHOLE, momentum=0.05, affine=False)
        self.local = nn.Conv2d(features + BANDS, width, 3, padding=1)
        self.position = nn.Conv2d(width, width, 3, padding=1)
        self.whole = nn.Sequential(nn.Linear(WHOLE, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 3 * width + channels))
        self.out = nn.Conv2d(width, channels, 1)
        for tensor in (*self.whole[-1].parameters(), *self.out.parameters()):
            nn.init.zeros_(tensor)
        assert self.out.bias is not None
        nn.init.constant_(self.out.bias, math.log(0.25))

    def _bands(self, planes: torch.Tensor) -> torch.Tensor:
        """Return the energies of (B, n, H, W) in bands of cosines: (B, n, BANDS, H / 4, W / 4)."""
        margin = (BLOCK - STRIDE) // 2
        padded = F.pad(planes, (margin,) * 4, mode="reflect").flatten(0, 1)[:, None]
        energy = F.conv2d(padded, self.basis.to(planes), stride=STRIDE).square()
        return F.conv2d(energy, self.average.to(planes)).unflatten(0, planes.shape[:2])

    def statistics(self, measurement: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logarithms of band energies over the noise, around each position and of the whole picture.

        Args:
            measurement: (B, 3, H, W).

        Returns:
            (B, BANDS, H / 4, W / 4) and (B, WHOLE); the second begins with the logarithm of the noise variance.
        """
        measurement = with_colour_noise(measurement)
        planes = torch.einsum("ij,bjhw->bihw", self.rotation.to(measurement), measurement).float()
        fine = self._bands(planes)
        noise = fine[:, 1:, NOISE_BAND - 1 :].mean((1, 2, 3, 4)).clamp(min=1e-5)
        fine = fine / noise.view(-1, 1, 1, 1, 1)
        # A mean of 2 x 2 leaves a quarter of the noise's variance.
        coarse = 4 * self._bands(F.avg_pool2d(planes[:, :1], 2))[:, 0].mean((2, 3)) / noise[:, None]
        around = log_ratio(F.avg_pool2d(fine[:, 0], 3, 1, 1, count_include_pad=False), 0.3)
        mean = fine.mean((3, 4))
        grey = torch.stack([mean[:, 0, low - 1 : high].mean(1) for low, high in FINE], 1)
        colour = mean[:, 1:, :COLOUR].mean(1)
        return around, torch.cat([noise.log()[:, None]] + [log_ratio(x, 0.1) for x in (coarse, grey, colour)], 1)

    def forward(self, features: torch.Tensor, measurement: torch.Tensor) -> torch.Tensor:
        """Predict deviations (B, C, h, w), above 0, from features (B, features, h, w) and measurements (B, 3, H, W)."""
        # Ratios near 1 are what tells a light blur from none: never in half precision.
        with torch.no_grad(), torch.autocast(measurement.device.type, enabled=False):
            around, whole = self.statistics(measurement)
        if self.factor != STRIDE:
            around = F.interpolate(around, size=features.shape[-2:], mode="bilinear", align_corners=False)
        around, whole = self.norm_bands(around.to(features)), self.norm_whole(whole.to(features))
        modulation = self.whole(whole)[..., None, None]
        scale, shift, late, bias = modulation.split([self.width] * 3 + [self.out.out_channels], dim=1)
        hidden = self.local(torch.cat([self.norm_features(features), around], 1)) * (1 + scale) + shift
        hidden = self.position(F.silu(hidden)) + late
        # Fourteen orders of magnitude: any real deviation passes, no input makes the square overflow.
        return (self.out(F.silu(hidden)) + bias).clamp(-16, 16).exp()
