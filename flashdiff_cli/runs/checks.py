"""What a restored picture must be before it is written: numbers, and not one colour all over where the picture was not."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from flashdiff_cli.errors import FlashdiffError

FLAT = 1 / 255
"""Range of a channel, on [-1, 1], below which it has one value in a file of 8 bits."""
APART = 32 / 255
"""How far, on [-1, 1], a part of the picture may lie from a result that is one colour: 16 of 255 levels."""
PARTS, FEWEST = 8, 64
"""Parts of a side that are compared by their mean, and pixels of a picture that is looked at."""
REMEDY = "the model's weights are damaged or do not fit; pull or convert the model again, or choose another `model`"


def check_numbers(*values: torch.Tensor) -> None:
    """Raise a FlashdiffError if any value is not finite."""
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise FlashdiffError(f"the result has values that are no numbers: {REMEDY}")


def check_result(before: torch.Tensor, after: torch.Tensor, filled: bool = False) -> None:
    """Check a restored picture before it is written.

    Args:
        before: (1, 3, H, W), what was read, in [-1, 1].
        after: (1, 3, h, w), the result.
        filled: whether pixels were missing, so that the result may well be one colour.

    Raises:
        FlashdiffError: the result has values that are not finite, or is one colour where the picture is not of that colour.
    """
    check_numbers(after)
    low, high = after.amin((0, 2, 3)), after.amax((0, 2, 3))
    if filled or before[0, 0].numel() < FEWEST or bool((high.clamp(-1, 1) - low.clamp(-1, 1) >= FLAT).any()):
        return
    # Of 8 pixels a side at the least: the mean of fewer is still noise.
    size = (min(PARTS, max(1, before.shape[2] // PARTS)), min(PARTS, max(1, before.shape[3] // PARTS)))
    parts = F.adaptive_avg_pool2d(before, size)
    if bool(((parts - low.clamp(-1, 1)[None, :, None, None]).abs() > APART).any()):
        raise FlashdiffError(f"the result is one colour, which the picture is not: {REMEDY}")
