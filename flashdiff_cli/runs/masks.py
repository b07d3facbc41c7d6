"""Pictures with holes: masks that are given as files or as the picture's own transparency."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.operators import Operator
from flashdiff_cli.operators.composition import Composition
from flashdiff_cli.operators.files import share
from flashdiff_cli.operators.fill import fill
from flashdiff_cli.operators.inpainting import Inpainting, MaskInpainting
from flashdiff_cli.pictures.picture import Picture
from flashdiff_cli.runs.naming import ALPHA

MANY, NEARLY_ALL = 0.6, 0.95
"""Shares of missing pixels above which a mask may be inverted, if they lie far from kept ones, and is taken for it; both only
if the picture has anything to show there."""
EVEN, SAMPLED = 0.03, 100_000
"""Spread, in [-1, 1] units, below which pixels count as of one colour; and how many are looked at."""
FOUND = 0.02
"""Noise, on intensities, above which kept pixels are restored too: sparse pixels of clean pictures show up to 0.015 (`kept_noise`)."""
THIN, DEEP = 4, 12
"""Distances from kept pixels, in pixels: up to the first, holes are filled from around them; from the second on, by the model."""


def from_alpha(picture: Picture, invert: bool = False) -> MaskInpainting:
    """Return the operator of a picture whose transparency says what is missing: all that is less than half opaque; what is opaque, to `invert` it.

    Raises:
        FlashdiffError: there is no transparency.
    """
    if picture.alpha is None:
        raise FlashdiffError("--mask alpha: the picture has no transparency that could say what is missing; give --mask FILE")
    kept = (picture.alpha >= np.iinfo(picture.alpha.dtype).max / 2) != invert
    return MaskInpainting(torch.from_numpy(kept).float(), ALPHA, invert)


def mask_of(operator: Operator | None) -> Inpainting | None:
    """Return the part of an operator that drops pixels at the end; None if there is none."""
    last = operator.operators[-1] if isinstance(operator, Composition) else operator
    return last if isinstance(last, Inpainting) else None


def without_missing(measured: torch.Tensor, operator: Operator | None) -> torch.Tensor:
    """Return a measurement (1, 3, H, W) with its missing pixels black, whatever the file has there."""
    last = mask_of(operator)
    return last.on_signed(measured) if isinstance(last, MaskInpainting) else measured


def look_at_mask(image: torch.Tensor, operator: Operator | None, options: dict[str, Any]) -> list[str]:
    """Return whether a mask that a person has given makes sense with the picture.

    Args:
        image: (1, 3, H, W), as the file has it.
        operator: of that size, or larger.
        options: of the operator, as given: `invert_mask` that is given, true or not, says that the mask is known to be right.

    Returns:
        notes for the record.

    Raises:
        FlashdiffError: nothing is kept; or nearly nothing, where the picture looks as if the mask were inverted.
    """
    mask = mask_of(operator)
    if not isinstance(mask, MaskInpainting):
        return []
    missing = ~mask.kept()[0, : image.shape[2], : image.shape[3]]
    part, name = missing.float().mean().item(), "--mask alpha" if mask.mask_file == ALPHA else f"mask {mask.mask_file}"
    notes, sure = list(mask.notes), options.get("invert_mask") is not None
    turn = "--no-invert-mask" if mask.inverted else "--invert-mask"
    if part == 1:
        raise FlashdiffError(f"{name}: all of the picture is missing, so that nothing is left to restore it from; is it inverted ({turn})?")
    if part == 0:
        kind = "as transparent" if mask.mask_file == ALPHA else "white" if mask.inverted else "black"
        return [*notes, f"{name} marks nothing: no pixel of it counts {kind}, so nothing was missing; is it the right file?"]
    hidden, shown = _even(image, missing), _even(image, ~missing)
    if part > NEARLY_ALL and not sure and not hidden:
        raise FlashdiffError(
            f"{name}: {share(part)} of the picture is missing, and white is kept: is it inverted? "
            "Pass --invert-mask, or --no-invert-mask if it is right"
        )
    if part > NEARLY_ALL:
        notes.append(f"{name}: {share(part)} of the picture was missing")
    elif shown and not hidden and not sure:
        notes.append(f"{name}: what it keeps, {share(1 - part)} of the picture, is all of one colour; if the mask is inverted, pass {turn}")
    elif part > MANY and not hidden and not sure and model_share(~missing[None])[0][missing].mean() > 0.5:
        notes.append(f"{name}: {share(part)} of the picture was missing, in large holes; if the mask is inverted, pass {turn}")
    return notes


def _even(image: torch.Tensor, where: torch.Tensor) -> bool:
    """Return whether nine tenths of the pixels (1, 3, H, W) where (H, W) are of one colour, nearly."""
    values = image[0, :, where]
    values = values[:, :: max(1, values.shape[1] // SAMPLED)]
    return bool((values.quantile(0.95, 1) - values.quantile(0.05, 1) < EVEN).all())


def has_noise(assumed: float | None, found: float) -> bool:
    """Return whether kept pixels are to be restored too: noise was assumed, or what was found is more than fine texture shows.

    Args:
        assumed: on intensities in [0, 1], None where nothing was said.
        found: on the same scale.
    """
    return assumed > 0 if assumed is not None else found > FOUND


def finish_holes(
    restored: torch.Tensor, image: torch.Tensor, operator: Operator | None, assumed: float | None, found: float
) -> tuple[torch.Tensor, list[str]]:
    """Return a restored picture with what was kept as it was, and its thin holes continued from around them.

    Args:
        restored: (1, 3, H, W).
        image: as the file has it, of the same size.
        operator: that was undone; one that changes kept pixels, or drops none, leaves all as it is.
        assumed, found: see `has_noise`.

    Returns:
        (1, 3, H, W), and notes for the record.
    """
    if not isinstance(operator, Inpainting):
        return restored, []
    height, width = restored.shape[-2:]
    noisy, keep = has_noise(assumed, found), operator.kept()[:, :height, :width]
    whole = operator.mask[:, :, :height, :width] == 1
    if not noisy:
        restored = torch.where(whole, image, restored)
    trust = model_share(keep)[:, None]
    restored = torch.where(keep[:, None], restored, torch.lerp(fill(restored, keep), restored, trust))
    if not isinstance(operator, MaskInpainting):
        return restored, []
    if noisy:
        said = f"noise of {found:.3f} was " + ("told" if assumed is not None else "found in what the mask keeps")
        return restored, [f"{said}, so kept pixels were restored too"]
    return restored, ["kept pixels are as they were"]


def model_share(keep: torch.Tensor) -> torch.Tensor:
    """Return how much of the model's result is taken, (B, H, W) from 0 to 1: none near kept pixels, where the fill is nearer to the truth.

    Args:
        keep: (B, H, W), bool.
    """
    near, depth = keep[:, None].float(), torch.zeros_like(keep[:, None], dtype=torch.float32)
    for _ in range(DEEP):
        depth += 1 - near
        near = F.max_pool2d(near, 3, 1, 1)
    return ((depth - THIN) / (DEEP - THIN)).clamp(0, 1)[:, 0]


def only_thin(operator: Operator | None) -> bool:
    """Return whether an operator drops pixels and no hole is so deep that anything of the model's result would be taken."""
    return isinstance(operator, Inpainting) and not bool((model_share(operator.kept()) > 0).any())
