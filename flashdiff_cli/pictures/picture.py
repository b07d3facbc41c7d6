"""An image and what its file said besides: transparency, profile, EXIF and depth are kept beside the colours."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, ImageSequence

from flashdiff_cli.pictures import jpeg

KEPT_EXIF = (0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x8298, 0x8769, 0x8825)
"""Caption, camera, resolution, software, dates, author, copyright, and the Exif and GPS tables. The rest describes how
the old file was laid out (orientation, strips), which no longer holds."""


@dataclass
class Picture:
    """An image and what its file said besides."""

    image: torch.Tensor
    """(1, 3, H, W) float32 in [-1, 1], upright."""
    digest: bytes = b""
    """SHA-256 of the file, from which the picture's seed derives."""
    grey: bool = False
    deep: bool = False
    """16 bits a channel."""
    alpha: np.ndarray | None = None
    """(H, W) opacity: uint8, or uint16 of a deep picture."""
    exif: bytes | None = None
    profile: bytes | None = None
    jpeg_tables: list[list[int]] | None = None
    """Of a JPEG file: the 64 divisors, row by row, with which it quantised brightness and, where it has colour, the colours."""
    subsampling: str | None = None
    """Of a colour JPEG file: "444", "422" or "420"; None if it is of another kind, or another ratio."""
    notes: list[str] = field(default_factory=list)
    """What was changed or dropped in reading, for people."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return tuple(self.image.shape[-2:])

    def with_image(self, image: torch.Tensor) -> Picture:
        """The same surroundings around another image; if that is of another size, the transparency is scaled to it."""
        alpha = self.alpha
        if alpha is not None and alpha.shape != tuple(image.shape[-2:]):
            values = torch.from_numpy(alpha.astype(np.float32))[None, None]
            scaled = F.interpolate(values, image.shape[-2:], mode="bilinear", antialias=True)
            alpha = scaled[0, 0].round().numpy().astype(alpha.dtype)
        return replace(self, image=image, alpha=alpha)

    def to_samples(self) -> np.ndarray:
        """(H, W, C) uint16: grey or RGB, then the opacity where there is one."""
        values = self._shown(65535.0).numpy().astype(np.uint16)
        if self.alpha is None:
            return values
        alpha = self.alpha if self.alpha.dtype == np.uint16 else self.alpha * np.uint16(257)
        return np.concatenate([values, alpha[..., None]], -1)

    def to_pil(self) -> Image.Image:
        """A Pillow picture of mode L, LA, RGB, RGBA or, of 16 bits, I;16; Pillow has no other mode of 16 bits."""
        if self.deep and self.grey and self.alpha is None:
            return Image.fromarray(self.to_samples()[..., 0])
        values = self._shown(255.0).byte().numpy()
        picture = Image.fromarray(values[..., 0] if self.grey else values)
        if self.alpha is not None:
            deep = self.alpha.dtype == np.uint16
            picture.putalpha(Image.fromarray((self.alpha / 257).round().astype(np.uint8) if deep else self.alpha))
        return picture

    def _shown(self, top: float) -> torch.Tensor:
        """(H, W, 1 or 3) whole numbers from 0 to `top`."""
        values = self.image[0].detach().float().cpu().clamp(-1, 1)
        values = values.mean(0, keepdim=True) if self.grey else values
        # In place, so that a large picture is held once more and not thrice.
        return values.add_(1).mul_(top / 2).round_().permute(1, 2, 0).contiguous()

    def to_rgb(self) -> Image.Image:
        """For looking at: 8 bits, three channels, transparency on white."""
        shown = replace(self, deep=False).to_pil()
        if self.alpha is not None:
            ground = Image.new("RGBA", shown.size, "white")
            shown = Image.alpha_composite(ground, shown.convert("RGBA"))
        return shown.convert("RGB")


def from_pil(picture: Image.Image) -> Picture:
    """Any Pillow picture, upright, as a Picture; of an animation the current frame.

    Raises:
        ValueError, OSError: Pillow cannot decode it.
    """
    notes = []
    tables, subsampling = jpeg.compression(picture)
    if getattr(picture, "n_frames", 1) > 1:
        notes.append(f"first of {picture.n_frames} frames")
        picture = next(ImageSequence.Iterator(picture)).copy()
    exif = picture.getexif()
    profile = picture.info.get("icc_profile")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        values = np.asarray(picture)
        values = values if picture.mode == "F" else values.clip(0, 65535).astype(np.uint16)
        return from_samples(values[..., None], picture.info.get("transparency"), exif, profile, notes)
    grey, alpha = False, None
    if picture.mode == "CMYK":
        notes.append("CMYK became RGB")
        profile = None
    if "transparency" in picture.info or picture.mode in ("LA", "PA", "La", "RGBa", "RGBA"):
        whole = picture.convert("RGBA")
        alpha = np.array(whole.getchannel("A"))
        grey = picture.mode in ("L", "LA", "1")
        picture = whole.convert("RGB")
    elif picture.mode in ("L", "1"):
        grey = True
    pixels = torch.from_numpy(np.array(picture.convert("RGB")))
    # In place, so that a large picture is held once.
    image = pixels.permute(2, 0, 1)[None].to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1)
    kept = {"exif": _kept(exif), "profile": profile, "jpeg_tables": tables, "subsampling": subsampling}
    return Picture(image, grey=grey, alpha=alpha, notes=notes, **kept)


def from_samples(
    values: np.ndarray,
    clear: int | tuple[int, int, int] | None = None,
    exif: Image.Exif | None = None,
    profile: bytes | None = None,
    notes: list[str] | None = None,
) -> Picture:
    """Values of more than 8 bits as a Picture of 16.

    Args:
        values: (H, W, C), upright, C = 1 grey, 2 grey and opacity, 3 RGB, 4 RGB and opacity; unsigned integers over their
            whole range, or floats whose white is 1, 255 or 65535, whichever is the first that none is above.
        clear: the value or colour that stands for full transparency.
        exif, profile: of the file.
        notes: what was changed so far.
    """
    notes = [] if notes is None else notes
    channels, alpha = values.shape[-1], None
    if channels in (2, 4):
        alpha = (_intensities(values[..., -1], []) * 65535).round().astype(np.uint16)
        values = values[..., :-1]
    elif clear is not None:
        alpha = np.where((values == np.asarray(clear)).all(-1), np.uint16(0), np.uint16(65535))
    image = torch.from_numpy(_intensities(values, notes)).mul_(2).sub_(1).permute(2, 0, 1)[None]
    image = image.expand(1, 3, *image.shape[-2:]).contiguous()
    exif = None if exif is None else _kept(exif)
    return Picture(image, grey=channels < 3, deep=True, alpha=alpha, exif=exif, profile=profile, notes=notes)


def _intensities(values: np.ndarray, notes: list[str]) -> np.ndarray:
    """float32 from 0 to 1."""
    if values.dtype.kind == "u":
        return values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        notes.append("values that are not finite became black")
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    top = values.max(initial=0)
    return (values / np.float32(1 if top <= 1 else 255 if top <= 255 else 65535)).clip(0, 1)


def _kept(exif: Image.Exif) -> bytes | None:
    for tag in [tag for tag in exif if tag not in KEPT_EXIF]:
        del exif[tag]
    return exif.tobytes() if len(exif) else None
