"""The last step: a small network that takes noise and compression out of a picture, and the exact data term in turns.

A first stage loses detail that the measurement still has, and a solver's guidance stops short of the data. Each round solves the data
term exactly around the present image (`Operator.proximal`), which brings the detail back and noise with it, and lets the network take
the noise out (half-quadratic splitting with a learned denoiser: Zhang et al., DPIR, eq. 6a and 6b). The network is told how much of it to
expect, so one set of weights serves every operator and every round. The module path is part of saved models; it must not move.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from flashdiff_cli.broadcast import shaped
from flashdiff_cli.operators import Identity, Jpeg, Operator

PLANES = 5
"""Input channels: the image, and maps of the standard deviations of noise and of what rounding in a JPEG has left."""

NOISE_SCALE = 5.0
"""Of these maps, so that common values are near 1."""

ROUNDS, FIRST, LAST = 8, 0.38, 0.012
"""How often data term and network alternate; standard deviation of the error, on the scale of [-1, 1], that the first round expects at the
least, and the last."""

HOLES = 4, 0.03
"""The first two where pixels are missing: there the sampler has put what the network, which only takes noise out, would make smooth. On 4
pictures each, random pixels of which 30 % are left and boxes: 0.5 to 2.3 dB above the rounds of the other operators."""

COMPRESSED = 6, 0.2
"""The first two behind a JPEG, where a blur is often found too wide: the rounds of the others made that worse (20 grey faces, blind: 0.4 dB)."""

WEIGHT, WEIGHT_AT, WEIGHTS = 0.2, 0.035, (0.1, 0.4)
"""The share of the network's noise variance that the data term is weighed against (DPIR's lambda): for missing pixels, and for an operator that
lets WEIGHT_AT of white noise's power pass; for others growing with the cube root of that, within WEIGHTS. On 5 faces and 5 photographs,
against 0.2 for all and six rounds from 0.2: blur of 0.8 pixels +0.6 and +0.3 dB, 1.5 -0.1, 2.5 and 4 pixels +0.3 to +0.5, shakes of 9 and
15 pixels +0.3 to +0.5."""

TURNS = (0, 2, 5, 7)
"""Orientations, of the eight of `turn`, whose results are averaged where the network is asked once (geometric self-ensemble: Timofte et al.
2016); rounds take one each, in turn, as DPIR does. On 6 pictures each, noise of 0.05 and 0.10: +0.2 dB; blurs: +0.1 dB."""


def turn(image: torch.Tensor, number: int) -> torch.Tensor:
    """Return (B, C, H, W) in one of its eight orientations: turned by quarters, from 4 on mirrored before."""
    return torch.rot90(image.flip(-1) if number >= 4 else image, number % 4, (-2, -1))


def turn_back(image: torch.Tensor, number: int) -> torch.Tensor:
    """Return what `turn` was given."""
    image = torch.rot90(image, -(number % 4), (-2, -1))
    return image.flip(-1) if number >= 4 else image


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) -> the same."""
        return x + self.second(F.relu(self.first(x)))


class LastStep(ModelMixin, ConfigMixin):
    """A residual U-shaped network at half resolution.

    It has no biases, so an image and a noise twice as strong give a result twice as strong: it goes on beyond the levels it was trained on.

    Args:
        channels: of its levels, at 1/2, 1/4, ... of the image's resolution.
        blocks: residual blocks of each level, on the way down and on the way up (once at the lowest).
        degradations: what it was trained on, for people.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(self, channels: Sequence[int] = (48, 96, 128), blocks: Sequence[int] = (2, 2, 3), degradations: str | None = None):
        super().__init__()
        self.enter = nn.Conv2d(4 * PLANES, channels[0], 3, padding=1, bias=False)
        self.down = nn.ModuleList(nn.Sequential(*(ResidualBlock(c) for _ in range(n))) for c, n in zip(channels, blocks, strict=True))
        self.up = nn.ModuleList(nn.Sequential(*(ResidualBlock(c) for _ in range(n))) for c, n in zip(channels[:-1], blocks[:-1], strict=True))
        self.reduce = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2, bias=False) for a, b in itertools.pairwise(channels))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2, bias=False) for a, b in itertools.pairwise(channels))
        self.leave = nn.Conv2d(channels[0], 12, 3, padding=1, bias=False)
        nn.init.zeros_(self.leave.weight)

    @property
    def size_multiple(self) -> int:
        """The sides of an image must be multiples of this."""
        return 2 ** len(self.down)

    def forward(self, image: torch.Tensor, noise_std: torch.Tensor, rounding_std: torch.Tensor) -> torch.Tensor:
        """Return images without their noise, (B, 3, H, W) on the scale of [-1, 1], not clipped.

        Args:
            image: (B, 3, H, W), sides multiples of `size_multiple`.
            noise_std: of white noise, (B,), on the scale of [-1, 1].
            rounding_std: of what a JPEG's rounding has left, (B,), on the scale of [-1, 1].
        """
        maps = [NOISE_SCALE * shaped(value.to(image), image).expand_as(image[:, :1]) for value in (noise_std, rounding_std)]
        return self.with_maps(image, torch.cat(maps, 1))

    def with_maps(self, image: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """Return what the network makes of images (B, 3, H, W) and of two maps of what is known of their pixels (B, 2, H, W)."""
        x = self.enter(F.pixel_unshuffle(torch.cat([image, maps], 1).to(self.dtype), 2))
        kept = []
        for level, blocks in enumerate(self.down):
            x = blocks(x)
            if level < len(self.reduce):
                kept.append(x)
                x = self.reduce[level](x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](self.enlarge[level](x) + kept[level])
        return image + F.pixel_shuffle(self.leave(x), 2).to(image)

    @staticmethod
    def needs_no_result(operator: Operator | None) -> bool:
        """Tell whether `restore` makes its picture of the measurement alone, so that no step of a sampler can change it."""
        return operator is None or isinstance(operator, (Identity, Jpeg))

    def restore(
        self,
        image: torch.Tensor,
        measurement: torch.Tensor,
        operator: Operator | None,
        noise_std: torch.Tensor,
        rounding_std: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return pictures (B, 3, H, W) in [-1, 1].

        Args:
            image: the decoded result, (B, 3, H, W) in [-1, 1]; sides multiples of `size_multiple`.
            measurement: y in [-1, 1] units, of the image's size where the operator is not linear or None.
            operator: A; None: what degraded the picture besides noise is not known.
            noise_std: (B,) or (1,) on intensities in [0, 1].
            rounding_std: of what a JPEG's rounding has left in the measurement, as `noise_std`; None: nothing. `Jpeg` says it by itself.
        """
        image = image.float()
        y = measurement.to(image)
        noise, rounding = (self._told(value, len(image)) for value in (noise_std, rounding_std))
        if isinstance(operator, Jpeg):
            found = self._averaged(y, noise, self._told(operator.noise_std(), len(image)))
            return 2 * operator.project((found.clamp(-1, 1) + 1) / 2, (y + 1) / 2).clamp(0, 1) - 1
        if operator is None or self.needs_no_result(operator):
            return self._averaged(y, noise, rounding).clamp(-1, 1)
        if not operator.linear:
            return image
        rounds, weight = HOLES, torch.full_like(noise, WEIGHT)
        if operator.kept() is None and bool((rounding > 0).any()):
            rounds = COMPRESSED
        elif operator.kept() is None:
            rounds, weight = (ROUNDS, FIRST), weight_of(operator, image)
        for number, level in enumerate(levels(noise, *rounds)):
            consistent = operator.proximal(image, y, noise.square() + rounding.square(), level.square() / weight)
            image = self._turned(consistent.clamp(-1.5, 1.5), level, rounding, number % 8).clamp(-1, 1)
        return image

    def _turned(self, image: torch.Tensor, noise_std: torch.Tensor, rounding_std: torch.Tensor, number: int) -> torch.Tensor:
        """Return what the network makes of an image in one of its orientations, turned back."""
        return turn_back(self(turn(image, number), noise_std, rounding_std), number)

    def _averaged(self, image: torch.Tensor, noise_std: torch.Tensor, rounding_std: torch.Tensor) -> torch.Tensor:
        """Return the mean of what the network makes of the orientations TURNS."""
        total = torch.zeros_like(image)
        for number in TURNS:
            total += self._turned(image, noise_std, rounding_std, number)
        return total / len(TURNS)

    def _told(self, value: torch.Tensor | None, batch: int) -> torch.Tensor:
        """Return a standard deviation on intensities for each of a batch, on the scale of [-1, 1]."""
        value = torch.zeros(1) if value is None else value
        return (2 * value.float()).to(self.device).expand(batch)


def passing_power(operator: Operator, image: torch.Tensor) -> torch.Tensor:
    """Return the share (B,) of white noise's power that a linear operator lets pass, on images of the shape of `image` (B, 3, H, W)."""
    noise = torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(0)).to(image).expand_as(image)
    return operator.forward(noise).square().flatten(1).sum(1) / noise.square().flatten(1).sum(1)


def levels(noise: torch.Tensor, rounds: int = ROUNDS, first: float = FIRST) -> list[torch.Tensor]:
    """Return the standard deviations (B,) of the error that each round expects: falling by equal factors to the noise of the measurement (B,)."""
    last = noise.clamp(min=LAST)
    begin = last.clamp(min=first)
    return [begin * (last / begin) ** (number / (rounds - 1)) for number in range(rounds)]


def weight_of(operator: Operator, image: torch.Tensor) -> torch.Tensor:
    """Return what the data term of a linear operator is weighed against, (B,), on images of the shape of `image`; see WEIGHT."""
    return (WEIGHT * (passing_power(operator, image) / WEIGHT_AT) ** (1 / 3)).clamp(*WEIGHTS)
