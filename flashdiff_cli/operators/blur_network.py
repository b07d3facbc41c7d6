"""The network of the nonlinear blur: an image and a kernel code in, the blurred image out.

It is the generator of "Exploring Image Deblurring via Encoded Blur Kernel Space" (Tran et al., CVPR 2021), which was
trained on the motion blur of real cameras. The class name is part of every converted model; it must not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

FEATURE_SLOPE = 0.1
ADAPTER_SLOPE = 0.2
"""Of the leaky rectifiers in the trunk, and on the way down in the adapter."""


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), 3 x 3, no normalisation."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class BlurNetwork(ModelMixin, ConfigMixin):
    """Features at a quarter of the size, a U-Net that adapts them with the code at its bottom, and back to full size.

    Args:
        in_channels: of the image.
        channels: of the features.
        front_blocks, back_blocks: residual blocks before and after the U-Net.
        code_channels: of the kernel code.
        adapter_channels: outputs of the U-Net's stride-2 convolutions, from the top down.
        expand_channels: of the last layers, at full size.
    """

    config_name = "config.json"

    config: Any
    """Entries by name, made at run time from the arguments."""

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        channels: int = 64,
        front_blocks: int = 10,
        back_blocks: int = 20,
        code_channels: int = 512,
        adapter_channels: Sequence[int] = (64, 128, 256, 512, 512),
        expand_channels: int = 64,
    ):
        super().__init__()
        self.features = nn.ModuleList(
            [nn.Conv2d(in_channels if i == 0 else channels, channels, 3, stride=1 if i == 0 else 2, padding=1) for i in range(3)]
        )
        self.front = nn.Sequential(*(ResidualBlock(channels) for _ in range(front_blocks)))
        inputs = [channels, *adapter_channels[:-1]]
        # The bottom receives the code; every level above receives its own input beside what comes from below.
        joined = [2 * width for width in adapter_channels[:-1]] + [adapter_channels[-1] + code_channels]
        self.down = nn.ModuleList([nn.Conv2d(a, b, 4, stride=2, padding=1, bias=False) for a, b in zip(inputs, adapter_channels, strict=True)])
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, bias=level == 0) for level, (a, b) in enumerate(zip(joined, inputs, strict=True))]
        )
        self.back = nn.Sequential(*(ResidualBlock(channels) for _ in range(back_blocks)))
        self.expand = nn.ModuleList([nn.Conv2d(channels, 4 * channels, 3, padding=1), nn.Conv2d(channels, 4 * expand_channels, 3, padding=1)])
        self.last = nn.ModuleList(
            [
                nn.Conv2d(expand_channels, expand_channels, 3, padding=1),
                nn.Conv2d(expand_channels, in_channels, 3, padding=1),
            ]
        )

    @property
    def size_multiple(self) -> int:
        """Sides of an image must be multiples of this; the code's are those of the image divided by it."""
        return 4 * 2 ** len(self.down)

    def forward(self, image: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        """Blur.

        Args:
            image: (B, C, H, W), intensities in [0, 1], sides multiples of `size_multiple`.
            code: (B, code_channels, H / size_multiple, W / size_multiple).

        Returns:
            (B, C, H, W), nominally in [0, 1], not clipped.
        """
        h = image
        for conv in self.features:
            h = F.leaky_relu(conv(h), FEATURE_SLOPE)
        h = self._adapt(self.front(h), code)
        h = self.back(h)
        for conv in self.expand:
            h = F.leaky_relu(F.pixel_shuffle(conv(h), 2), FEATURE_SLOPE)
        return image + self.last[1](F.leaky_relu(self.last[0](h), FEATURE_SLOPE))

    def _adapt(self, h: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        skips = []
        for level, conv in enumerate(self.down):
            h = conv(h if level == 0 else F.leaky_relu(h, ADAPTER_SLOPE))
            skips.append(h)
        h = torch.cat([skips.pop(), code], 1)
        for level in range(len(self.up) - 1, 0, -1):
            h = torch.cat([self.up[level](F.relu(h)), skips.pop()], 1)
        return torch.tanh(self.up[0](F.relu(h)))
