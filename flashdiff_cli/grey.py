"""Grey and toned pictures, for statistics that were learned on colour.

Blur, noise and enlargement show in the differences of colours, where photographs have little detail of their own. A black-and-white
picture has none of these: not evidence that it is clean, but no evidence at all. It is looked at as if its luma noise were the
noise of three channels.
"""

from __future__ import annotations

import torch

from flashdiff_cli.broadcast import select
from flashdiff_cli.operators.estimate import noise_bands

LUMA = (0.299, 0.587, 0.114)
GREY, COLOURED = 0.03, 0.05
"""Standard deviation, on the scale of [-1, 1], of what of the colours does not follow the luma: below the first a picture counts as grey
or toned, above the second as coloured."""

TEXTURE, WHITE = 0.5, 0.75
"""Noise of the finest band as a share of a coarser one: below the first it is texture, above the second noise."""

READ = 0.6
"""Of the finer bands, what the classifier has to read as noise where a grey picture has noise. Of 14 textures that it took for noise, with a JPEG
and without, it read 0.21 to 0.56 of what the bands hold; of 368 pictures with noise 0.6 or more, but for five (0.4 and more)."""

SMALL, FLAT_SMALL, READ_SMALL, LEAST_SMALL = 112, 0.67, 0.72, 0.02
"""Shorter side, in pixels, of what the classifier was trained on: below, it takes the detail of reduced pictures for noise. There the mean of the
middle and the finest band must be so large a share of the coarse one, and the classifier must read so much of the larger of them, and at least the
last, on intensities in [0, 1]: of 118 clean pictures reduced to 32 to 96 pixels that it took for noisy, one is so; of 593 with noise of 0.03 to 0.12,
501."""

LEAST = 0.004
"""Of the noise, on the scale of [-1, 1]: half a level of 8 bits."""


def luma_of(image: torch.Tensor) -> torch.Tensor:
    """Return the luma of pictures (B, 3, H, W), in float32 at the least: (B, H, W), in their units."""
    x = image if image.dtype == torch.float64 else image.float()
    return torch.einsum("c,bchw->bhw", x.new_tensor(LUMA), x)


def colour_share(image: torch.Tensor) -> torch.Tensor:
    """Return how far pictures (B, 3, H, W) in [-1, 1] are in colour: (B,), 0 grey or toned to 1."""
    x = image.float()
    luma = luma_of(x)
    differences = torch.stack([x[:, 0] - x[:, 1], x[:, 2] - x[:, 1]], 1).flatten(2)
    differences = differences - differences.mean(2, keepdim=True)
    luma = (luma - luma.mean((1, 2), keepdim=True)).flatten(1)[:, None]
    slope = (differences * luma).sum(2, keepdim=True) / luma.square().sum(2, keepdim=True).clamp(min=1e-6)
    spread = (differences - slope * luma).square().mean((1, 2)).sqrt()
    return ((spread - GREY) / (COLOURED - GREY)).clamp(0, 1)


def with_colour_noise(image: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """Add to grey and toned pictures the noise in their colours that their luma shows; coloured ones stay as they are.

    Args:
        image: (B, 3, H, W) in [-1, 1].
        strength: of the noise in each channel, as a multiple of the luma's.

    Returns:
        (B, 3, H, W), the same at every call.
    """
    share = 1 - colour_share(image)
    if not bool((share > 0).any()):
        return image
    luma = luma_of(image)[:, None]
    differences = torch.stack([image[:, 0] - image[:, 1], image[:, 2] - image[:, 1]], 1).float()
    own, between = (2 * noise_bands(part, image).mean(1) for part in (luma, differences))
    # White noise is as strong in the finest band as in a coarser one; fine texture is not.
    white = ((own[:, -1] / own[:, 0].clamp(min=1e-6) - TEXTURE) / (WHITE - TEXTURE)).clamp(0, 1)
    # A difference of two channels has twice the noise variance of one.
    level = strength * ((white * own[:, -1]).clamp(min=LEAST).square() - between[:, -1].square() / 2).clamp(min=0).sqrt()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(image.shape[1:], generator=generator).to(image)
    # Channels keep the luma's noise in their mean, as in a colour picture.
    noise = noise - torch.einsum("c,chw->hw", noise.new_tensor(LUMA), noise)
    return image + (share * level).to(image).view(-1, 1, 1, 1) * noise


def may_be_noise(image: torch.Tensor, noise_std: torch.Tensor) -> torch.Tensor:
    """Tell of pictures (B, 3, H, W) in [-1, 1] whether what looks like noise can be noise: (B,), bool; True in colour, unless they are small.

    Grass, sand and fur in a grey picture have no colours to be known by, and in a picture that was made small everything is as fine as noise; but the
    classifier, which sees more than bands of frequencies, reads little of them as noise.

    Args:
        image: the pictures.
        noise_std: (B,) on intensities in [0, 1]: of the noise that the classifier sees.
    """
    if min(image.shape[-2:]) < SMALL:
        bands = noise_bands(image.float()).mean(1)
        flat = bands[:, 1:].mean(1) >= FLAT_SMALL * bands[:, 0]
        return flat & (noise_std.to(bands) >= (READ_SMALL * bands[:, 1:].amax(1)).clamp(min=LEAST_SMALL))
    luma = luma_of(image)[:, None]
    fine = noise_bands(luma, image)[:, 0, 1:].amax(1)
    return (noise_std.to(fine) >= READ * fine) | (colour_share(image) > 0)


def grey_as(images: torch.Tensor, measurement: torch.Tensor) -> torch.Tensor:
    """Make images (B, 3, H, W) grey where the channels of their measurements (B, 3, h, w) are equal."""
    grey = (measurement - measurement[:, :1]).abs().amax((1, 2, 3)) == 0
    return select(grey, images.mean(1, keepdim=True).expand_as(images), images)
