"""Picture files <-> images: what surrounds the colours of a file (transparency, profile, EXIF) is kept beside them."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence

from flashdiff_cli.errors import FlashdiffError, UsageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""Of the files that a folder is searched for, and that can be written."""

KEPT_EXIF = (0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x8298, 0x8769, 0x8825)
"""Caption, camera, resolution, software, dates, author, copyright, and the Exif and GPS tables. The rest describes how
the old file was laid out (orientation, strips), which no longer holds."""

FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}


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
    """(H, W) uint8 opacity."""
    exif: bytes | None = None
    profile: bytes | None = None
    notes: list[str] = field(default_factory=list)
    """What was changed or dropped in reading, for people."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return tuple(self.image.shape[-2:])

    def with_image(self, image: torch.Tensor) -> Picture:
        """The same surroundings around another image."""
        return replace(self, image=image)

    def to_pil(self) -> Image.Image:
        """A Pillow picture of mode L, LA, RGB, RGBA or I;16."""
        values = self.image.detach().float().cpu().clamp(-1, 1).add(1).div(2)[0]
        if self.grey:
            values = values.mean(0)
            if self.deep and self.alpha is None:
                return Image.fromarray((values.numpy() * 65535).round().astype(np.uint16))
            picture = Image.fromarray(values.mul(255).round().byte().numpy())
        else:
            picture = Image.fromarray(values.mul(255).round().byte().permute(1, 2, 0).contiguous().numpy())
        if self.alpha is not None:
            picture.putalpha(Image.fromarray(self.alpha))
        return picture


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
    if getattr(picture, "n_frames", 1) > 1:
        notes.append(f"first of {picture.n_frames} frames")
        picture = next(ImageSequence.Iterator(picture)).copy()
    exif = picture.getexif()
    profile = picture.info.get("icc_profile")
    picture = ImageOps.exif_transpose(picture)
    for tag in [tag for tag in exif if tag not in KEPT_EXIF]:
        del exif[tag]
    deep, grey, alpha = False, False, None
    if picture.mode in ("I;16", "I;16B", "I;16L", "I;16N", "I", "F"):
        values = np.asarray(picture).astype(np.float32)
        if not np.isfinite(values).all():
            notes.append("values that are not finite became black")
            values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        deep, grey = True, True
        top = values.max(initial=0)
        full = 65535.0 if picture.mode != "F" else (1.0 if top <= 1 else 255.0 if top <= 255 else 65535.0)
        image = torch.from_numpy((values / full).clip(0, 1)).mul_(2).sub_(1).expand(1, 3, *values.shape).contiguous()
    else:
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
    data = exif.tobytes() if len(exif) else None
    return Picture(image, grey=grey, deep=deep, alpha=alpha, exif=data, profile=profile, notes=notes)


def read_picture(path: str | Path) -> Picture:
    """Read a picture file.

    Raises:
        FlashdiffError: it is missing, empty, truncated, no picture, or too large to be one.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise FlashdiffError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise FlashdiffError(f"{path}: a folder, not a picture") from None
    except OSError as error:
        raise FlashdiffError(f"{path}: cannot be read ({error.strerror})") from error
    if not data:
        raise FlashdiffError(f"{path}: the file is empty (0 bytes); copy it again from its source")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as file:
                picture = from_pil(file)
    except FlashdiffError:
        raise
    except Image.DecompressionBombError:
        raise FlashdiffError(f"{path}: its header claims more pixels than a photograph has; if it is one, make it smaller first") from None
    except Image.UnidentifiedImageError:
        raise FlashdiffError(f"{path}: not a picture in a format that can be read; give PNG, JPEG, TIFF, WebP or BMP") from None
    except Exception as error:  # Pillow's decoders raise whatever their formats make them raise
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise FlashdiffError(f"{path}: damaged or truncated picture ({reason}); copy it again from its source") from error
    picture.digest = hashlib.sha256(data).digest()
    return picture


def check_output(path: Path) -> None:
    """Raise a UsageError if a picture cannot be written under this name's ending."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: cannot write {path.suffix or 'a name without an ending'}; end it in {', '.join(SUFFIXES)}")


def write_picture(picture: Picture, path: str | Path, quality: int = 95) -> None:
    """Write a picture file in the format of its ending: first under a temporary name, then moved.

    Args:
        picture: what to write.
        path: its ending chooses the format; folders are made.
        quality: of JPEG and lossy WebP, 1 to 100.

    Raises:
        UsageError: unknown ending.
        FlashdiffError: the disk or the folder refuses.
    """
    path = Path(path)
    check_output(path)
    kind = FORMATS[path.suffix.lower()]
    pil = picture.to_pil()
    if kind in ("JPEG", "BMP") and pil.mode in ("LA", "RGBA"):
        flat = Image.new("RGB", pil.size, "white")
        flat.paste(pil, mask=pil.getchannel("A"))
        pil = flat.convert("L") if picture.grey else flat
    if kind in ("JPEG", "WEBP", "BMP") and pil.mode == "I;16":
        pil = replace(picture, deep=False).to_pil()
    extras = {"exif": picture.exif, "icc_profile": picture.profile}
    extras = {k: v for k, v in extras.items() if v and kind != "BMP"}
    if kind in ("JPEG", "WEBP"):
        extras["quality"] = quality
    if kind == "JPEG":
        extras["subsampling"] = 0
    # One name for each target, so that what a killed run leaves is replaced when its picture is done again.
    name = hashlib.sha256(path.name.encode(errors="surrogateescape")).hexdigest()[:12]
    temporary = path.with_name(f".flashdiff-{name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            pil.save(file, kind, **extras)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FlashdiffError(f"{path}: cannot be written ({reason}); choose another --output") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
