"""Pictures as users of diffusers have them, for the pipeline's call: in, padded to what the model works on, and out again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.utils.outputs import BaseOutput
from PIL import Image

from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators import Operator
from flashdiff_cli.operators.padding import Margins, pad
from flashdiff_cli.restoration import Restoration

OUTPUT_TYPES = ("pil", "np", "pt")
ImageInput = Image.Image | np.ndarray | torch.Tensor | Sequence[Any]
"""One picture or several of one size: Pillow pictures; arrays (H, W, 3) or (B, H, W, 3); tensors (3, H, W) or (B, 3, H, W); or a list of them."""


@dataclass
class ImageOutput(BaseOutput):
    """What the pipeline's call returns for pictures that were given as `image`."""

    images: Any
    """A list of Pillow pictures, an array (B, H, W, 3), or a tensor (B, 3, H, W); values from 0 to 1."""
    restoration: Restoration
    """All that was found and done; its images are padded, in [-1, 1]."""


def as_tensor(image: ImageInput) -> torch.Tensor:
    """Return pictures as one tensor (B, 3, H, W) in [-1, 1].

    Args:
        image: see `ImageInput`; arrays of uint8 from 0 to 255, all others from 0 to 1.

    Raises:
        UsageError: it is none of these, or the pictures differ in size.
    """
    if isinstance(image, (list, tuple)):
        if not image:
            raise UsageError("`image` is an empty list; give at least one picture")
        parts = [as_tensor(one) for one in image]
        if len({part.shape[1:] for part in parts}) > 1:
            raise UsageError("the pictures of `image` differ in size; give those of one size together, the others by themselves")
        return torch.cat(parts)
    if isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    if isinstance(image, np.ndarray):
        found = torch.tensor(image[None] if image.ndim == 3 else image)
        if found.ndim != 4 or found.shape[3] != 3:
            raise UsageError(f"an array of `image` must be (H, W, 3) or (B, H, W, 3), not {image.shape}")
        found = found.permute(0, 3, 1, 2)
    elif isinstance(image, torch.Tensor):
        found = image[None] if image.ndim == 3 else image
        if found.ndim != 4 or found.shape[1] != 3:
            raise UsageError(f"a tensor of `image` must be (3, H, W) or (B, 3, H, W), not {tuple(image.shape)}")
    else:
        raise UsageError(f"`image` of type {type(image).__name__}: give Pillow pictures, arrays or tensors")
    if found.dtype == torch.uint8:
        found = found.float() / 255
    elif not found.is_floating_point():
        raise UsageError(f"`image` of {found.dtype}: give uint8 from 0 to 255, or floating point from 0 to 1")
    return found.float() * 2 - 1


def as_output(images: torch.Tensor, output_type: str) -> Any:
    """Return restored images (B, 3, H, W) in [-1, 1] as an output type says; see `ImageOutput`."""
    shares = (images.float().clamp(-1, 1) + 1) / 2
    if output_type == "pt":
        return shares
    arrays = shares.cpu().permute(0, 2, 3, 1).numpy()
    if output_type == "np":
        return arrays
    return [Image.fromarray((one * 255).round().astype(np.uint8)) for one in arrays]


def check_output_type(output_type: str) -> None:
    """Raise a UsageError for one that there is not."""
    if output_type not in OUTPUT_TYPES:
        raise UsageError(f"`output_type` {output_type!r} is unknown; choose from {', '.join(OUTPUT_TYPES)}")


def restore_images(
    call: Callable[..., Restoration], size_multiple: int, image: ImageInput, operator: Operator | None, output_type: str, **given: Any
) -> ImageOutput:
    """Restore pictures of any size as a pipeline restores measurements.

    Args:
        call: of the pipeline, on tensors.
        size_multiple: of the pipeline.
        image: see `ImageInput`: what an operator has made, so smaller than the result where it makes pictures smaller.
        operator: as for the pipeline.
        output_type: "pil", "np" or "pt".
        given: the rest of the call.

    Raises:
        UsageError: pictures or an output type that are not understood.
    """
    check_output_type(output_type)
    measurement = as_tensor(image)
    stride = 1 if operator is None else operator.stride
    height, width = (side * stride for side in measurement.shape[2:])
    whole = tuple(-(-side // size_multiple) * size_multiple for side in (height, width))
    if operator is not None:
        operator = operator.extend((whole[0], whole[1]))
    target = whole if operator is None else operator.measured_size((whole[0], whole[1]))
    bottom, right = (t - s for t, s in zip(target, measurement.shape[2:], strict=True))
    restoration = call(pad(measurement, Margins(0, bottom, 0, right)), operator, **given)
    return ImageOutput(as_output(restoration.images[..., :height, :width], output_type), restoration)
