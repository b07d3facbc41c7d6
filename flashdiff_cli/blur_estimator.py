"""Which blur a picture has gone through: a small network that sees its luma and the power spectrum of it.

A blur multiplies the spectrum, whatever the picture shows: that tells how wide it is, how long and in which direction. The spectrum does
not know a path from the same path run backwards; edges and points of the picture do. The module path is part of saved models; it must
not move.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from flashdiff_cli.classifier import LARGE, Residual, large_enough, spectrum
from flashdiff_cli.grey import luma_of

SURE = 0.5, 0.7
"""Widths in pixels between which the severity encoder begins to tell blurs from sharp pictures."""

HEARD, WIDER = 0.5, 0.2
"""How much the severity encoder is heard beside this network, and the logarithm of the ratio by which the width may then lie above what it says. A
picture that was soft before it was blurred looks to this network as if it was blurred more, and a blur taken too wide costs far more than one taken
too narrow: rings. The encoder takes sharp photographs for less blurred than they are. On 99 pictures from four sets the last step lost 0.78 dB
against the true width by the encoder alone, 1.01 by this network, and 0.56 by both."""

HEARD_BEHIND_JPEG = 0.2
"""The same behind a JPEG, which has taken the noise that an estimate lives by: 32 pictures, 1.24 dB, 0.58 and 0.51 with no limit."""

UNSURE, BROAD, DOUBT = (0.1, 0.15), (1.2, 1.5), 0.75
"""Deviations between which a width begins to be unsure, and widths between which that matters; and how much of the deviation above the first is
then taken from the lesser of both estimates. What is soft by nature, out of focus or hardly textured is told from a wide blur least well, and
there a width taken too wide rings worst: of 135 such pictures that it was not chosen on, 11 were below their input and 5 are, and the mean gain is
2.28 dB in place of 2.14."""


class Blur(NamedTuple):
    """What the estimator says of B measurements."""

    kernel: torch.Tensor
    """(B, k, k): sum 1, centre of mass about the middle; of any blur, a camera's path above all. No blind restoration begins with it: on 15
    shaken pictures a straight path as the classifier sees it led to paths that restore 0.5 dB better, though this one is as near to the truth."""
    log_width: torch.Tensor
    """(B,): logarithm of the standard deviation in pixels of the blur as far as it is Gaussian."""
    log_deviation: torch.Tensor
    """(B,): logarithm of the standard deviation of the error of `log_width`."""

    def width(self, fitted: torch.Tensor, compressed: bool = False) -> torch.Tensor:
        """Return the width in pixels (B,): a weighted geometric mean of both, if the severity encoder sees a blur.

        Args:
            fitted: (B,) width in pixels that explains the severity encoder's estimate.
            compressed: whether the picture was a JPEG.
        """
        sees = rise(fitted, SURE)
        fitted = fitted.clamp(min=1e-3)
        wider = self.log_width - fitted.log()
        if compressed:
            found = fitted.log() + (1 - HEARD_BEHIND_JPEG * sees) * wider
        else:
            limit = (1 - sees) * wider + sees * WIDER
            found = fitted.log() + ((1 - HEARD * sees) * wider).minimum(limit)
        deviation = self.log_deviation.exp()
        doubt = rise(deviation, UNSURE) * rise(found.exp(), BROAD)
        least = self.log_width.minimum(fitted.log()) - DOUBT * (deviation - UNSURE[0])
        return (found + doubt * (least - found).clamp(max=0)).exp()


def rise(value: torch.Tensor, between: tuple[float, float]) -> torch.Tensor:
    """Return a weight that rises from 0 at the first of two values to 1 at the second."""
    low, high = between
    return ((value - low) / (high - low)).clamp(0, 1)


class BlurEstimator(ModelMixin, ConfigMixin):
    """Kernel and Gaussian width of a picture's blur.

    Args:
        channels: of the convolutions over the picture at a half, a quarter and an eighth of its size.
        blocks: residual convolutions at a quarter and at an eighth.
        hidden: width of the layers that join both views.
        radius: of the kernels, in pixels.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(self, channels: tuple[int, int, int] = (32, 64, 128), blocks: tuple[int, int] = (1, 3), hidden: int = 384, radius: int = 15):
        super().__init__()
        a, b, c = channels
        self.picture = nn.Sequential(
            nn.Conv2d(1, a, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv2d(a, b, 3, stride=2, padding=1),
            nn.SiLU(),
            *(Residual(b) for _ in range(blocks[0])),
            nn.Conv2d(b, c, 3, stride=2, padding=1),
            nn.SiLU(),
            *(Residual(c) for _ in range(blocks[1])),
        )
        self.attention = nn.Conv2d(c, 1, 1)
        self.spectrum = nn.Sequential(
            nn.Conv2d(2, 16, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(64 * 8 * 5, hidden),
            nn.SiLU(),
        )
        self.joined = nn.Sequential(nn.Linear(hidden + 3 * c, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.kernel = nn.Linear(hidden, (2 * radius + 1) ** 2)
        self.width = nn.Linear(hidden, 2)

    @torch.no_grad()
    def look(self, measurement: torch.Tensor) -> Blur:
        """Estimate the blur of measurements as they are, on whatever device; see `forward`.

        Width and deviation are means over four views, mirrored and turned by a right angle, for a Gaussian blur is the same in all of them.
        """
        y = measurement.to(self.device)
        turned = y.rot90(1, (2, 3))
        kernel, *widths = self(y)
        others = [self(view)[1:] for view in (y.flip(3), turned, turned.flip(3))]
        width, deviation = (torch.stack(part).mean(0) for part in zip(widths, *others, strict=True))
        return Blur(kernel, width, deviation)

    def forward(self, measurement: torch.Tensor) -> Blur:
        """Estimate the blur of each measurement (B, 3, H, W), nominally in [-1, 1], of any size."""
        with torch.no_grad(), torch.autocast(measurement.device.type, enabled=False):
            luma, powers = self._views(measurement)
        features = self.picture(luma.to(self.kernel.weight.dtype))
        where = self.attention(features).flatten(2).softmax(2)
        flat = features.flatten(2)
        pooled = [flat.mean(2), flat.var(2, correction=0).add(1e-6).sqrt(), (flat * where).sum(2)]
        hidden = self.joined(torch.cat([self.spectrum(powers.to(flat.dtype)), *pooled], 1))
        side = 2 * self.config["radius"] + 1
        width, deviation = self.width(hidden).float().unbind(1)
        return Blur(self.kernel(hidden).float().softmax(1).view(-1, side, side), width, deviation.clamp(-5, 2))

    @staticmethod
    def _views(measurement: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the luma (B, 1, H, W) on a common scale, and its logarithmic power spectra (B, 2, 64, 33) with frequency 0 in the middle row."""
        luma = luma_of(large_enough(measurement))
        powers = torch.stack([part.view(len(luma), LARGE, LARGE // 2 + 1).roll(LARGE // 2, 1) for part in spectrum(luma, LARGE)], 1)
        spread = luma.std((1, 2), keepdim=True) + 0.05
        return ((luma - luma.mean((1, 2), keepdim=True)) / spread)[:, None], (powers + 6) / 4
