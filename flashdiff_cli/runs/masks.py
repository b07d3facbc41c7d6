"""Pictures with holes: masks that are given as files or as the picture's own transparency."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.operators import Operator
from flashdiff_cli.operators.composition import Composition
from flashdiff_cli.operators.inpainting import MaskInpainting
from flashdiff_cli.pictures.picture import Picture

ALPHA = "alpha"
"""Instead of a mask file: what a picture's transparency hides is missing."""


def name_operator(
    operator: str | None, options: dict[str, Any], mask: str | None, kernel: str | None
) -> tuple[str | None, dict[str, Any]]:
    """Operator and options with the short ways spelled out: `mask` for mask-inpainting, `kernel` for motion-blur.

    Raises:
        UsageError: they contradict each other, or what is spelled out beside them.
    """
    if mask is not None and kernel is not None:
        raise UsageError(
            "--mask and --kernel exclude each other; for both give --operator motion-blur+mask-inpainting with --kernel-file and --mask-file"
        )
    for flag, value, name, option in (("--mask", mask, "mask-inpainting", "mask_file"), ("--kernel", kernel, "motion-blur", "kernel_file")):
        if value is None:
            continue
        long = "--" + option.replace("_", "-")
        if operator not in (None, name):
            raise UsageError(f"{flag} means --operator {name} {long}; with --operator {operator} give {long}")
        if options.get(option) not in (None, str(value)):
            raise UsageError(f"{flag} {value} and {long} {options[option]} contradict each other; leave one out")
        operator, options = name, options | {option: str(value)}
    return operator, options


def files_of(options: dict[str, Any]) -> dict[str, Path]:
    """The files that an operator's options name, by option."""
    found = {name: options.get(name) for name in ("mask_file", "kernel_file")}
    return {name: Path(path) for name, path in found.items() if path is not None and (name, path) != ("mask_file", ALPHA)}


def takes_alpha(operator: str | None, options: dict[str, Any]) -> bool:
    """Whether the picture's transparency is the mask."""
    return operator == MaskInpainting.name and options.get("mask_file") == ALPHA


def from_alpha(picture: Picture) -> MaskInpainting:
    """The operator of a picture whose transparency says what is missing: all that is less than half opaque.

    Raises:
        FlashdiffError: there is no transparency, or nothing that is kept.
    """
    if picture.alpha is None:
        raise FlashdiffError("--mask alpha: the picture has no transparency that could say what is missing; give --mask FILE")
    kept = picture.alpha >= np.iinfo(picture.alpha.dtype).max / 2
    if not kept.any():
        raise FlashdiffError("--mask alpha: the picture is transparent all over, so that nothing is left to restore it from")
    return MaskInpainting(torch.from_numpy(kept).float(), ALPHA)


def without_missing(measured: torch.Tensor, operator: Operator | None) -> torch.Tensor:
    """A measurement (1, 3, H, W) with its missing pixels black, whatever the file has there."""
    last = operator.operators[-1] if isinstance(operator, Composition) else operator
    return last.on_signed(measured) if isinstance(last, MaskInpainting) else measured
