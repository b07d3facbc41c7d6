"""From a decoded result and its measurement to a picture: a small learned network around the exact data term.

A first stage loses detail that the measurement still has, and a solver's guidance stops short of the data. Each round solves the data
term exactly around the present image (`Operator.proximal`) for two strengths and lets one network, the same in all rounds, weigh what
it sees: the measurement, the image, both solutions, and maps of the noise and of how far the image is trusted (half-quadratic
splitting with a learned denoiser: Zhang et al., DPIR and USRNet). Trained on images and degradations of every kind, it returns
the measurement where nothing is wrong with it. The module path is part of saved models; it must not move.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from flashdiff_cli.data_consistency import mean_gain
from flashdiff_cli.operators import Jpeg, Operator
from flashdiff_cli.operators.inpainting import Inpainting

PLANES = 16
"""Input channels: measurement, image and two data solutions (12), noise, error, trust in the operator, kept pixels."""

STRONGER = 4.0
"""Error standard deviation of the second data solution, as a multiple of the first's."""

LEAST_ERROR = 0.01
"""Of an image, on the scale of [-1, 1]: below it a data solution says nothing new."""

NOISE_SCALE = 5.0
"""Of the maps of noise and error, so that common values are near 1."""


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) -> the same."""
        return x + self.second(F.relu(self.first(x)))


class LastStep(ModelMixin, ConfigMixin):
    """A residual U-shaped network at half resolution over the planes of `planes`.

    Args:
        channels: of its levels, at 1/2, 1/4, ... of the image's resolution.
        blocks: residual blocks of each level, on the way down and on the way up (once at the lowest).
        rounds: how often data solution and network alternate.
        degradations: what it was trained on, for people.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(self, channels: Sequence[int] = (48, 96, 128), blocks: Sequence[int] = (2, 2, 3), rounds: int = 2, degradations: str | None = None):
        super().__init__()
        self.enter = nn.Conv2d(4 * PLANES, channels[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Sequential(*(ResidualBlock(c) for _ in range(n))) for c, n in zip(channels, blocks, strict=True))
        self.up = nn.ModuleList(nn.Sequential(*(ResidualBlock(c) for _ in range(n))) for c, n in zip(channels[:-1], blocks[:-1], strict=True))
        self.reduce = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in itertools.pairwise(channels))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in itertools.pairwise(channels))
        self.leave = nn.Conv2d(channels[0], 24, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    @property
    def size_multiple(self) -> int:
        """The sides of an image must be multiples of this."""
        return 2 ** len(self.down)

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        """Return pictures (B, 3, H, W) on the scale of [-1, 1], not clipped, from planes (B, 16, H, W).

        Of the first data solution, moved towards measurement, image and second solution by weights of each pixel, and a residual.
        """
        x = self.enter(F.pixel_unshuffle(planes.to(self.dtype), 2))
        kept = []
        for level, blocks in enumerate(self.down):
            x = blocks(x)
            if level < len(self.reduce):
                kept.append(x)
                x = self.reduce[level](x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](self.enlarge[level](x) + kept[level])
        residual, weights = F.pixel_shuffle(self.leave(x), 2).float().split(3, 1)
        measured, image, first, second = planes[:, :12].float().split(3, 1)
        moved = (w * (part - first) for w, part in zip(weights.split(1, 1), (measured, image, second), strict=True))
        return first + residual + sum(moved)

    def restore(
        self,
        image: torch.Tensor,
        measurement: torch.Tensor,
        operator: Operator | None,
        noise_std: torch.Tensor,
        rounds: int | None = None,
    ) -> torch.Tensor:
        """Return pictures (B, 3, H, W), clipped to [-1, 1].

        Args:
            image: the decoded result, (B, 3, H, W) in [-1, 1]; sides multiples of `size_multiple`.
            measurement: y in [-1, 1] units, of the image's size where the operator is not linear or None.
            operator: A; None: what degraded the picture is not known, or cannot be trusted.
            noise_std: (B,) or (1,) on intensities in [0, 1].
            rounds: instead of the configured number.
        """
        for number in range(self.config.rounds if rounds is None else rounds):
            image = self(planes(image, measurement, operator, noise_std, number)).clamp(-1, 1)
        return image


def error_variance(image: torch.Tensor, measurement: torch.Tensor, operator: Operator, noise_variance: torch.Tensor, number: int) -> torch.Tensor:
    """Estimate the variance (B,) of an image's error from what its residual has beyond the noise; halved in deviation every round.

    E|y - A x|^2 = s^2 + t^2 a, where a is the mean square gain of A. The estimate is bounded from below: in a late round the residual
    is explained, and the error hides where the operator does not look.
    """
    residual = (measurement - operator.on_signed(image)).square().flatten(1).mean(1)
    gain = mean_gain(operator, image)
    found = ((residual - noise_variance) / gain.clamp(min=1e-8)).clamp(min=0) / 4**number
    return torch.maximum(found, (noise_variance / 4).clamp(min=LEAST_ERROR**2))


def planes(image: torch.Tensor, measurement: torch.Tensor, operator: Operator | None, noise_std: torch.Tensor, number: int = 0) -> torch.Tensor:
    """Return what the network sees in a round, (B, 16, H, W).

    Args:
        image: (B, 3, H, W) in [-1, 1].
        measurement: as for `LastStep.restore`.
        operator: A or None.
        noise_std: (B,) or (1,) on intensities in [0, 1].
        number: of the round, from 0.
    """
    image = image.float()
    batch, _, height, width = image.shape
    measured = measurement.to(image)
    noise = (2 * noise_std.to(image)).square().reshape(-1).expand(batch)
    shown = measured if operator is None else operator.lift(measured)
    kept = image.new_ones(batch, 1, height, width)
    error, trust = torch.zeros_like(noise), 0.0
    if operator is None:
        solutions = (shown, shown)
    elif isinstance(operator, Jpeg):
        solutions, trust = (2 * operator.agree((image + 1) / 2, (shown + 1) / 2).clamp(0, 1) - 1, shown), 0.5
        noise = operator.noise_std().to(image).mul(2).square().expand(batch)
    elif not operator.linear:
        solutions = (image, shown)
    else:
        trust = 1.0
        error = error_variance(image, measured, operator, noise, number)
        solutions = tuple(operator.proximal(image, measured, noise, t).clamp(-1.5, 1.5) for t in (error, STRONGER**2 * error))
    if isinstance(operator, Inpainting):
        kept = operator.mask.to(image).expand(batch, 1, height, width)
        shown = shown * kept + image * (1 - kept)
    maps = [NOISE_SCALE * value.sqrt().view(-1, 1, 1, 1).expand(batch, 1, height, width) for value in (noise, error)]
    known = torch.full_like(kept, trust)
    return torch.cat([shown, image, *solutions, *maps, known, kept], 1)
