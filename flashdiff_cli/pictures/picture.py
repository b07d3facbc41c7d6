"""An image and what its file said besides: transparency, scale, metadata and compression are kept."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from flashdiff_cli.pictures import high_bit_depth, jpeg
from flashdiff_cli.pictures.fill import fill_smoothly
from flashdiff_cli.pictures.metadata import Metadata, find_orientation, read_metadata
from flashdiff_cli.pictures.scale import Scale, find_scale
from flashdiff_cli.pictures.structure import Refused

HIDDEN = 0.01
"""Opacity below which a pixel's colour is hidden: it cannot be seen on any ground."""
OTHER_COLOURS = {"CMYK": "CMYK became RGB", "LAB": "Lab colours became RGB", "HSV": "HSV became RGB"}
"""Pillow's modes that are not written, and the notes on them."""
FULL = Scale("uint16", 65535.0)


@dataclass
class Picture:
    """An image and what its file said besides."""

    image: torch.Tensor
    """(1, 3, H, W) float32 in [-1, 1], upright; where a pixel's colour is hidden, filled from those around it."""
    digest: bytes = b""
    """SHA-256 of the file, from which the picture's seed derives."""
    grey: bool = False
    deep: bool = False
    """More than 8 bits a channel."""
    scale: Scale | None = None
    """How a deep picture was stored, where that is not the whole range of 16 bits."""
    excess: np.ndarray | None = None
    """(H, W, C) float32, C = 1 or 3: by what intensities lie below 0, black, or above 1, white; given back."""
    alpha: np.ndarray | None = None
    """(H, W) opacity: uint8, or uint16 of a deep picture."""
    hidden: torch.Tensor | None = None
    """(3, N): the colours that the file has where `hides`, in [-1, 1], row by row; they are written back."""
    metadata: Metadata = field(default_factory=Metadata)
    jpeg_tables: list[list[int]] | None = None
    """Of a JPEG file: the 64 divisors, row by row, by which it quantised brightness and, where there are, colours."""
    subsampling: str | None = None
    """Of a colour JPEG file: "444", "422" or "420"; None if it is of another kind, or another ratio."""
    notes: list[str] = field(default_factory=list)
    """What was assumed, changed or dropped in reading, for people."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.image.shape[-2], self.image.shape[-1]

    def with_image(self, image: torch.Tensor) -> Picture:
        """Return the same surroundings around another image; transparency and excess are scaled to its size."""
        if tuple(image.shape[-2:]) == self.size:
            return replace(self, image=image)
        scaled = {"alpha": self.alpha, "excess": self.excess}
        for name, values in scaled.items():
            if values is not None:
                planes = torch.from_numpy(values.astype(np.float32).reshape(*self.size, -1)).permute(2, 0, 1)[None]
                larger = F.interpolate(planes, image.shape[-2:], mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
                scaled[name] = larger.round().astype(values.dtype)[..., 0] if values.ndim == 2 else larger
        return replace(self, image=image, hidden=None, **scaled)

    def hides(self) -> np.ndarray:
        """Return (H, W) bool: where colours cannot be seen."""
        if self.alpha is None:
            return np.zeros(self.size, bool)
        return self.alpha <= np.iinfo(self.alpha.dtype).max * HIDDEN

    def without_hidden(self) -> Picture:
        """Return the same picture with what is hidden filled from around it, and kept aside; if all is hidden, as it is."""
        hidden = torch.from_numpy(self.hides())
        if not bool(hidden.any()) or bool(hidden.all()):
            return self
        return replace(self, image=fill_smoothly(self.image, hidden), hidden=self.image[0][:, hidden].clone())

    def to_samples(self, scale: Scale = FULL) -> np.ndarray:
        """Return (H, W, C) as a scale stores them: grey or RGB, then the opacity where there is one."""
        shares = self._shown(1.0).numpy()
        # What lies outside black and white is only to be had back where it was, in numbers that can hold it.
        if self.excess is not None and scale == self.scale:
            shares = shares + self.excess
        values = scale.stored(shares)
        if self.alpha is None:
            return values
        alpha = self.alpha / np.float32(np.iinfo(self.alpha.dtype).max)
        return np.concatenate([values, replace(scale, black=0.0, white=scale.opaque or scale.white).stored(alpha[..., None])], -1)

    def to_pil(self) -> Image.Image:
        """Return a Pillow picture of mode L, LA, RGB, RGBA or, of 16 bits, I;16; Pillow has no other mode of 16 bits."""
        if self.deep and self.grey and self.alpha is None:
            return Image.fromarray(self.to_samples()[..., 0])
        values = self._shown(255.0).round_().byte().numpy()
        picture = Image.fromarray(values[..., 0] if self.grey else values)
        if self.alpha is not None:
            deep = self.alpha.dtype == np.uint16
            picture.putalpha(Image.fromarray((self.alpha / 257).round().astype(np.uint8) if deep else self.alpha))
        return picture

    def _shown(self, top: float) -> torch.Tensor:
        """Return (H, W, 1 or 3) from 0 to `top`, the file's own colours where they are hidden."""
        values = self.image[0].detach().float().cpu().clamp(-1, 1)
        if self.hidden is not None and self.alpha is not None:
            values[:, torch.from_numpy(self.hides())] = self.hidden
        values = values.mean(0, keepdim=True) if self.grey else values
        # In place, so that a large picture is held once more and not thrice.
        return values.add_(1).mul_(top / 2).permute(1, 2, 0).contiguous()

    def to_rgb(self) -> Image.Image:
        """Return the picture for looking at: 8 bits, three channels, transparency on white."""
        shown = replace(self, deep=False).to_pil()
        if self.alpha is not None:
            ground = Image.new("RGBA", shown.size, "white")
            shown = Image.alpha_composite(ground, shown.convert("RGBA"))
        return shown.convert("RGB")


def from_pil(picture: Image.Image, data: bytes | None = None) -> Picture:
    """Return any Pillow picture, upright, as a Picture; of an animation the current frame.

    Args:
        picture: of any mode.
        data: the file that it was opened from, for what Pillow does not tell of it.

    Raises:
        ValueError, OSError: Pillow cannot decode it.
    """
    picture.load()
    orientation = find_orientation(picture)
    notes = frames_note(picture)
    metadata = read_metadata(picture, data, notes, orientation in (5, 6, 7, 8)).turned(orientation)
    tables, subsampling = jpeg.compression(picture, orientation)
    kept = {"metadata": metadata, "jpeg_tables": tables, "subsampling": subsampling}
    if picture.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        tags = dict(getattr(picture, "tag_v2", {}))
        bits = tags.get(258, (None,))
        bits = bits[0] if isinstance(bits, tuple) else bits
        values = _wide(picture, tags)
        if tags.get(262) == 0:  # TIFF: white is 0, which Pillow sees to in 8 bits only
            values = high_bit_depth.from_white(values, bits or 8 * values.dtype.itemsize)
        values = high_bit_depth.upright(values[..., None], orientation)
        made = from_samples(values, picture.info.get("transparency"), notes, tags, bits)
        return replace(made, **kept)
    return replace(_of_bytes(picture, orientation, notes), **kept).without_hidden()


def frames_note(picture: Image.Image) -> list[str]:
    """Return a note, if a file has more frames than the one that is taken."""
    try:
        frames = int(getattr(picture, "n_frames", 1))
    except Exception:  # frames after the first may be damaged
        return ["first of several frames; the others were left out"]
    return [f"first of {frames} frames; the others were left out"] if frames > 1 else []


def _wide(picture: Image.Image, tags: dict) -> np.ndarray:
    """Return (H, W) of the number type that a file has, of a picture in one of Pillow's modes of more than 8 bits."""
    values = np.asarray(picture)
    bits, sign = (np.ravel(tags.get(tag, default))[0] for tag, default in ((258, 0), (339, 1)))
    if picture.mode == "F":
        return values.astype({16: np.float16, 64: np.float64}.get(int(bits), np.float32))
    if picture.mode != "I":
        return values.astype(np.uint16)
    if picture.format == "TIFF" and sign == 2:
        return values.astype(np.int16 if bits == 16 else np.int32)
    if picture.format == "TIFF" and bits == 32:
        return values.view(np.uint32)
    # PNG's 16 bits, and what Pillow was given by a program.
    return values.clip(0, 65535).astype(np.uint16)


def _of_bytes(picture: Image.Image, orientation: int, notes: list[str]) -> Picture:
    """Return a picture of 8 bits a channel or fewer."""
    grey, alpha = picture.mode in ("L", "LA", "1"), None
    if picture.mode in OTHER_COLOURS:
        notes.append(OTHER_COLOURS[picture.mode])
    elif picture.mode == "YCbCr" and picture.format == "TIFF":
        notes.append("YCbCr became RGB")
    elif picture.mode in ("P", "PA"):
        notes.append("the palette became colours of 8 bits a channel")
    elif picture.mode == "1":
        notes.append("1 bit became 8")
    if "transparency" in picture.info or picture.mode in ("LA", "PA", "La", "RGBa", "RGBA"):
        whole = np.array(picture.convert("RGBA"))
        alpha, values = whole[..., 3], whole[..., :3]
    else:
        values = np.array(picture.convert("RGB"))
    pixels = torch.from_numpy(np.ascontiguousarray(high_bit_depth.upright(values, orientation)))
    # In place, so that a large picture is held once.
    image = pixels.permute(2, 0, 1)[None].to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1)
    if alpha is not None:
        alpha = np.ascontiguousarray(high_bit_depth.upright(alpha[..., None], orientation)[..., 0])
    return Picture(image, grey=grey, alpha=alpha, notes=notes)


def from_samples(
    values: np.ndarray,
    clear: int | tuple[int, int, int] | None = None,
    notes: list[str] | None = None,
    tags: dict | None = None,
    bits: int | None = None,
) -> Picture:
    """Return values of more than 8 bits as a Picture of 16.

    Args:
        values: (H, W, C), upright, C = 1 grey, 2 grey and opacity, 3 RGB, 4 RGB and opacity; of any real number type.
        clear: the value or colour that stands for full transparency.
        notes: what was changed so far.
        tags: of a TIFF file, by number, for what they say of black and white.
        bits: that each sample has in its file, where they are fewer than its type's.
    """
    notes = [] if notes is None else notes
    channels, opacity = values.shape[-1], None
    colours = values[..., :-1] if channels in (2, 4) else values
    scale, note = find_scale(colours, tags, bits)
    notes += [] if note is None else [note]
    if channels in (2, 4):
        opacity, scale = _opacity(values[..., -1], scale)
    elif clear is not None:
        opacity = np.where((values == np.asarray(clear)).all(-1), np.uint16(0), np.uint16(65535))
    shares = scale.shares(colours)
    odd = ~np.isfinite(shares) if values.dtype.kind == "f" else np.zeros((1, 1, 1), bool)
    if odd.any(-1).all():
        raise Refused("none of its pixels is made of finite numbers; export it again, as whole numbers")
    shares[np.broadcast_to(odd, shares.shape)] = 0
    excess = None
    if shares.min(initial=0) < 0 or shares.max(initial=0) > 1:
        inside = shares.clip(0, 1)
        excess, shares = shares - inside, inside
    image = torch.from_numpy(shares).mul_(2).sub_(1).permute(2, 0, 1)[None]
    if odd.any():
        missing = odd.any(-1)
        notes.append(f"{int(missing.sum()):,} pixels that are not finite numbers were filled from those around them")
        image = torch.where(torch.from_numpy(odd).permute(2, 0, 1)[None], fill_smoothly(image, torch.from_numpy(missing)), image)
    image = image.expand(1, 3, *image.shape[-2:]).contiguous()
    kept = None if scale.plain else scale
    return Picture(image, grey=channels < 3, deep=True, scale=kept, excess=excess, alpha=opacity, notes=notes).without_hidden()


def _opacity(values: np.ndarray, scale: Scale) -> tuple[np.ndarray, Scale]:
    """Return (H, W) uint16, and the scale with what is opaque on it."""
    top = 1.0 if values.dtype.kind == "f" else float(np.iinfo(values.dtype).max)
    known = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=top, neginf=0.0)
    # Colours from 0 to 255, or of 12 bits, have an opacity like them.
    largest = float(known.max(initial=0.0))
    opaque = scale.white if scale.white != top and (largest > top * 1.05 if top == 1 else largest <= scale.white) else top
    shares = (known / np.float32(opaque)).clip(0, 1)
    return (shares * 65535).round().astype(np.uint16), replace(scale, opaque=opaque)
