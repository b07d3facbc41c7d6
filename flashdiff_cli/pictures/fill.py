"""Pixels that are not part of a picture (hidden under transparency, lost at a file's end), filled so that nothing shows there.

It takes a moment for any share of any picture, in any range of numbers. Holes that are to be restored are filled by `operators.fill`,
which carries edges through them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def fill_smoothly(image: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
    """Fill what is missing smoothly from its surroundings; every other pixel stays as it is.

    Averages of what is known, over squares of 2, 4, 8, ... pixels, go down until each holds something; back up, what is
    missing takes the next coarser average.

    Args:
        image: (B, C, H, W), of any range; where it is missing it may hold anything, even what is not finite.
        missing: (H, W) or (B, 1, H, W) bool.

    Returns:
        (B, C, H, W); the image itself if nothing is missing, or everything.
    """
    known = ~missing.reshape(-1, 1, *missing.shape[-2:]).to(image.device)
    if bool(known.all()) or not bool(known.any()):
        return image
    known = known.expand(len(image), 1, *known.shape[-2:])
    levels = [(torch.where(known, image, image.new_zeros(())), known)]
    while not bool(levels[-1][1].all()) and max(levels[-1][0].shape[-2:]) > 1:
        values, known = levels[-1]
        share = F.avg_pool2d(known.to(image), 2, ceil_mode=True)
        coarse = F.avg_pool2d(values, 2, ceil_mode=True) / share.clamp(min=1e-6)
        levels.append((coarse, share > 0))
    filled = levels.pop()[0]
    for values, known in reversed(levels):
        finer = F.interpolate(filled, values.shape[-2:], mode="bilinear", align_corners=False)
        filled = torch.where(known, values, finer)
    return filled
