"""Grey pictures that describe an operator: masks and kernels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import ImageOps, UnidentifiedImageError

from flashdiff_cli.bounded import read_bounded, short
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.pictures import limits, unsaid
from flashdiff_cli.pictures.time_limit import TooSlow, in_time

KERNEL_BYTES, HEADER_BYTES = 128 << 20, 4096
KERNEL_SIDE = 2048
"""Pixels along a side of a blur kernel."""
MIXED = 0.05
"""Of what is painted on a transparent mask: the share of black, or white, above which it is meant."""


def read_grey(path: str | Path, flag: str) -> torch.Tensor:
    """Return a picture file as brightness: (H, W) float32, 0 black to 1 white; colour becomes luma, transparency is ignored.

    Args:
        path: of the file.
        flag: the option that names it, for messages.

    Raises:
        UsageError: there is no such file, or it is no picture.
    """
    return torch.from_numpy(_read(path, flag, "L")[..., 0])


def read_mask(path: str | Path, flag: str = "`mask_file`") -> tuple[torch.Tensor, list[str]]:
    """Return a mask picture: (H, W) float32, 1 where pixels are kept, 0 where they are missing; and notes for people on how it was taken.

    What is white is kept: all channels at least half. Where a mask is transparent, what is painted on it marks what is missing, whatever its
    colour; unless it has both black and white, which mean what they always do, or most of it is painted, and white:
    then the transparent rest is missing.

    Raises:
        UsageError: as `read_grey`.
    """
    values = _read(path, flag, "RGBA")
    white = values[..., :-1].min(-1) >= 0.5 if values.shape[-1] > 1 else values[..., 0] >= 0.5
    painted = values[..., -1] >= 0.5 if values.shape[-1] > 1 else np.ones_like(white)
    if painted.all():
        return torch.from_numpy(white.astype(np.float32)), []
    area, light = painted.mean(), white[painted].mean() if painted.any() else 1.0
    if MIXED < light < 1 - MIXED and area > 0:
        kept, said = white | ~painted, "what is painted black"
    elif area > 0.5 and light > 0.5:
        kept, said = painted, "what is transparent"
    else:
        kept, said = ~painted, "what is painted"
    note = f"the mask is painted on transparency: {said}, {share(1 - kept.mean())} of the picture, was taken for missing"
    return torch.from_numpy(kept.astype(np.float32)), [note]


def share(part: float) -> str:
    """Return a share from 0 to 1 in per cent, for people: never 0 or 100 where it is not quite."""
    if 0 < part < 0.01 or 0.99 < part < 1:
        return f"{100 * min(max(part, 1e-4), 0.9999):.2f} %"
    return f"{100 * part:.0f} %"


def _read(path: str | Path, flag: str, mode: str) -> np.ndarray:
    """Return a picture file as (H, W, C) float32 from 0 to 1, upright: C = 1, or 4 where Pillow converts it to `mode` RGBA.

    Raises:
        UsageError: as `read_grey`.
    """
    try:
        return in_time(lambda: _decode(path, mode))
    except FileNotFoundError:
        raise UsageError(f"{flag} {path}: no such file; give the path of a picture") from None
    except UsageError:
        raise
    except TooSlow as error:
        raise UsageError(f"{flag} {path}: {error}") from None
    except FlashdiffError as error:
        raise UsageError(f"{flag} {error}") from None
    except Exception as error:  # decoders raise whatever their formats make them raise
        known = not isinstance(error, UnidentifiedImageError)
        reason = (" ".join(str(error).split())[:120] or type(error).__name__) if known else "of no format that is read"
        raise UsageError(f"{flag} {path}: cannot be read as a picture ({reason}); give a PNG or the like") from error


def _decode(path: str | Path, mode: str) -> np.ndarray:
    data = limits.read_file(path)
    with limits.open_image(data) as picture:
        picture = ImageOps.exif_transpose(picture)
        whole = picture.mode == "F" or picture.mode.startswith("I")
        values = np.array(picture if whole else picture.convert(mode), dtype=np.float32)
        values /= 1.0 if picture.mode == "F" else 65535.0 if whole else 255.0
    values = values if values.ndim == 3 else values[..., None]
    # Black, which is what decoders make of it, would be a hole.
    lost = unsaid.missing(data, 2 * values.transpose(2, 0, 1) - 1)
    if lost is not None and lost.any():
        raise ValueError(f"{share(float(lost.mean()))} of its pixels are not there")
    return values


def read_kernel(path: str | Path, flag: str = "`kernel_file`") -> torch.Tensor:
    """Return a blur kernel from a picture (brightness) or a .npy file: (k, k) float64, k odd, sum 1, zeros added where needed.

    Raises:
        UsageError: as `read_grey`; or the array is not two-dimensional, is empty or all 0, or has values that are
            negative or not finite.
    """
    kernel = torch.from_numpy(_read_array(path, flag).astype(np.float64)) if Path(path).suffix.lower() == ".npy" else read_grey(path, flag).double()
    if max(kernel.shape) > KERNEL_SIDE:
        raise UsageError(f"{flag} {path}: a kernel of {kernel.shape[1]} x {kernel.shape[0]}; at most {KERNEL_SIDE} along a side")
    if kernel.numel() == 0 or not bool(torch.isfinite(kernel).all()) or bool((kernel < 0).any()) or float(kernel.sum()) == 0:
        raise UsageError(f"{flag} {path}: a kernel needs values of at least 0 that are not all 0; check the file")
    return square(kernel) / kernel.sum()


def _read_array(path: str | Path, flag: str) -> np.ndarray:
    """Return the two-dimensional array of numbers in a .npy file; what its header claims is compared with what is there."""
    try:
        file = io.BytesIO(read_bounded(path, KERNEL_BYTES, "a kernel is small"))
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, columns_first, kind = read(file, max_header_size=HEADER_BYTES)
        if len(shape) != 2 or kind.kind not in "fiub" or kind.hasobject:
            raise UsageError(f"{flag} {path}: a kernel is a two-dimensional array of numbers, not {kind} {short(shape)}")
        rest = file.read()
        if shape[0] * shape[1] * kind.itemsize > len(rest):
            raise ValueError("its header claims more numbers than there are")
        return np.frombuffer(rest, kind, shape[0] * shape[1]).reshape(shape, order="F" if columns_first else "C")
    except FileNotFoundError:
        raise UsageError(f"{flag} {path}: no such file; give a picture or a .npy file") from None
    except UsageError:
        raise
    except FlashdiffError as error:
        raise UsageError(f"{flag} {error}") from None
    except Exception as error:  # headers are Python literals, which fail in many ways
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UsageError(f"{flag} {path}: cannot be read as an array ({reason}); save it with numpy.save") from error


def square(kernel: torch.Tensor) -> torch.Tensor:
    """Return the same kernel (h, w) with zeros around it: (k, k), k odd, the centre pixel (h // 2, w // 2) in the middle."""
    height, width = kernel.shape
    radius = max(height // 2, width // 2)
    whole = kernel.new_zeros(2 * radius + 1, 2 * radius + 1)
    top, left = radius - height // 2, radius - width // 2
    whole[top : top + height, left : left + width] = kernel
    return whole
