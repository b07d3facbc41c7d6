"""Degradations as pictures have them: single ones and chains, on colour, grey and toned pictures, stored as files are.

The chains follow the practical models of BSRGAN (Zhang et al. 2021) and Real-ESRGAN (Wang et al. 2021): blur, resizing, sensor noise and
JPEG once or twice, at random strengths, faint ones as often as strong ones.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from flashdiff_cli.grey import LUMA
from flashdiff_cli.operators import Enlargement, GaussianBlur, Identity, MotionBlur, Operator
from flashdiff_cli.operators.motion_blur import path_kernels

WEIGHTS = {
    "clean": 0.05,
    "gaussian-blur": 0.14,
    "motion-blur": 0.08,
    "noise": 0.1,
    "jpeg": 0.1,
    "enlargement": 0.08,
    "phone": 0.15,
    "chain": 0.3,
}
"""How often each kind is drawn."""

GREY, TONED, DRAWINGS = 0.14, 0.04, 0.05
"""Shares of grey pictures, of toned ones, and of drawings in place of photographs."""

SOFT, STAY_SOFT = 0.5, ("clean", "noise", "jpeg", "enlargement", "chain")
"""Share of the pictures of these kinds that are soft already, and are to stay so: what is to be restored is what was lost last."""


@dataclass
class Degraded:
    """One degraded picture."""

    clean: torch.Tensor
    """(3, H, W) in [-1, 1]."""
    measured: torch.Tensor
    """(3, H, W) in [-1, 1], rounded to 8 bits."""
    kind: str


class Draws:
    """Random numbers of one sample, from one CPU generator."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * torch.rand((), generator=self.generator).item()

    def log_uniform(self, low: float, high: float) -> float:
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def chance(self, share: float) -> bool:
        return self.uniform() < share

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator)

    def choose(self, weights: dict[str, float]) -> str:
        names = list(weights)
        return names[int(torch.multinomial(torch.tensor(list(weights.values())), 1, generator=self.generator))]


def drawing(size: tuple[int, int], draws: Draws) -> torch.Tensor:
    """Draw flat areas, lines and letters, (3, H, W): what screenshots, charts and line art are made of."""

    def colour() -> tuple[int, ...]:
        return tuple(int(draws.uniform(0, 256)) for _ in range(3))

    height, width = size
    white = draws.chance(0.5)
    picture = Image.new("RGB", (width, height), (255, 255, 255) if white else colour())
    pen = ImageDraw.Draw(picture)
    for _ in range(int(draws.uniform(0, 5))):
        left, top = draws.uniform(-10, width), draws.uniform(-10, height)
        box = (left, top, left + draws.uniform(3, width), top + draws.uniform(3, height))
        (pen.ellipse if draws.chance(0.3) else pen.rectangle)(box, fill=colour(), outline=colour() if draws.chance(0.5) else None)
    for _ in range(int(draws.uniform(0, 6))):
        ends = [draws.uniform(-5, side + 5) for side in (width, height, width, height)]
        pen.line(ends, fill=(0, 0, 0) if draws.chance(0.5) else colour(), width=int(draws.uniform(1, 4)))
    for _ in range(int(draws.uniform(0, 7))):
        word = "".join(chr(int(draws.uniform(33, 123))) for _ in range(int(draws.uniform(2, 14))))
        font = ImageFont.load_default(draws.uniform(8, 26))
        where = (draws.uniform(-10, width * 0.8), draws.uniform(-5, height))
        pen.text(where, word, fill=(0, 0, 0) if draws.chance(0.6) else colour(), font=font)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return pixels.float() / 127.5 - 1


def part_of(x: torch.Tensor, side: int, draws: Draws) -> torch.Tensor:
    """Return a square of (3, H, W) anywhere in it: borders of operators are left out, and what is stored begins a grid of its own."""
    top, left = (int(draws.uniform(0, length - side + 1)) for length in x.shape[1:])
    return x[:, top : top + side, left : left + side]


def recolour(x: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Turn some pictures (3, H, W) grey or toned, as scans and old photographs are."""
    what = draws.uniform()
    if what >= GREY + TONED:
        return x
    luma = torch.einsum("c,chw->hw", torch.tensor(LUMA), x).expand(3, -1, -1).contiguous()
    if what < GREY:
        return luma
    paper = torch.tensor([1.0, draws.uniform(0.85, 0.97), draws.uniform(0.65, 0.9)])
    return ((luma + 1) * paper.view(3, 1, 1) - 1).clamp(-1, 1)


def is_grey(x: torch.Tensor) -> bool:
    """Tell whether the channels of (3, H, W) are equal."""
    return bool((x[0] - x[1]).abs().max() < 1e-6) and bool((x[1] - x[2]).abs().max() < 1e-6)


def add_noise(x: torch.Tensor, level: float, draws: Draws, grey: bool, simple: bool = False) -> torch.Tensor:
    """Add noise of standard deviation `level` on intensities to (3, H, W): white, growing with intensity, of one colour, or correlated."""
    one = grey or (not simple and draws.chance(0.15))
    noise = draws.normal(1 if one else 3, *x.shape[1:]).expand(3, -1, -1)
    if not simple and draws.chance(0.3):
        # Photon noise has a variance in proportion to the intensity; the mean level stays about the same.
        noise = noise * (0.3 + 1.4 * (x + 1).clamp(0, 2) / 2).sqrt()
    if not simple and draws.chance(0.2):
        soft = F.avg_pool2d(F.pad(noise[None], (1, 1, 1, 1), mode="reflect"), 3, 1)[0]
        share = draws.uniform(0.3, 0.8)
        noise = (1 - share) * noise + share * soft
        noise = noise / noise.std().clamp(min=1e-6)
    return x + 2 * level * noise


def compress(x: torch.Tensor, quality: float, chroma: str, grey: bool) -> torch.Tensor:
    """Store (3, H, W) as a JPEG and read it again."""
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    picture, file = Image.fromarray(pixels[..., 0] if grey else np.ascontiguousarray(pixels)), io.BytesIO()
    picture.save(file, "JPEG", quality=round(quality), subsampling=2 if chroma == "420" else 0)
    found = np.asarray(Image.open(file, formats=("JPEG",)).convert("RGB"), dtype=np.float32)
    return torch.from_numpy(found / 127.5 - 1).permute(2, 0, 1)


def blur_of(draws: Draws, strongest: float = 3.5) -> Operator:
    """Draw a blur, as often below a pixel and a half as above: Gaussian, Gaussian of two widths, or out of focus."""
    what, width = draws.uniform(), draws.log_uniform(0.45, strongest)
    if what < 0.6:
        return GaussianBlur(width)
    radius = 2 + math.ceil(3 * width)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    if what < 0.8:
        angle, ratio = draws.uniform(0, math.pi), draws.uniform(0.3, 1.0)
        along = math.cos(angle) * offsets[:, None] + math.sin(angle) * offsets
        across = math.cos(angle) * offsets - math.sin(angle) * offsets[:, None]
        kernel = torch.exp(-0.5 * ((along / width).square() + (across / (ratio * width)).square()))
    else:
        # The disc of the same variance, with a soft rim of one pixel.
        distance = (offsets[:, None].square() + offsets.square()).sqrt()
        kernel = (2 * width - distance + 0.5).clamp(0, 1)
    return MotionBlur((kernel / kernel.sum())[None])


def shake_of(draws: Draws, longest: float = 20.0, straight: float = 0.0) -> MotionBlur:
    """Draw a camera's path of 3 to `longest` pixels, a share of them straight and steady."""
    length = draws.uniform(3.0, longest)
    shake = 0.0 if straight and draws.chance(straight) else draws.uniform(0.0, 0.6)
    return MotionBlur(path_kernels(torch.tensor([length]), torch.tensor([shake]), draws.generator))


def stored(x: torch.Tensor) -> torch.Tensor:
    """Clip and round (3, H, W) to 8 bits."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def apply(operator: Operator, x: torch.Tensor) -> torch.Tensor:
    """Apply an operator to one picture (3, H, W)."""
    return operator.on_signed(x[None])[0]


def linear(operator: Callable[[Draws], Operator], low: float, high: float) -> Callable[[torch.Tensor, Draws, bool], torch.Tensor]:
    """Return a kind: an operator, then noise."""

    def degrade(x: torch.Tensor, draws: Draws, grey: bool) -> torch.Tensor:
        return add_noise(apply(operator(draws), x), draws.log_uniform(low, high), draws, grey, simple=draws.chance(0.6))

    return degrade


def clean(x: torch.Tensor, draws: Draws, grey: bool) -> torch.Tensor:
    """Leave a picture as it is, or store it as a good JPEG."""
    return compress(x, draws.uniform(94, 99), "444", grey) if draws.chance(0.4) else add_noise(x, draws.uniform(0, 0.002), draws, grey)


def jpeg(x: torch.Tensor, draws: Draws, grey: bool) -> torch.Tensor:
    """Compress once, or twice."""
    chroma = "420" if draws.chance(0.65) else "444"
    if draws.chance(0.2):
        x = compress(x, draws.uniform(30, 90), chroma, grey)
    return compress(x, draws.uniform(6, 95), chroma, grey)


def phone(x: torch.Tensor, draws: Draws, grey: bool) -> torch.Tensor:
    """Blur, sensor noise and a good JPEG: what a telephone stores."""
    y = add_noise(apply(blur_of(draws, 2.8), x), draws.log_uniform(0.003, 0.035), draws, grey)
    return compress(y, draws.uniform(75, 97), "420" if draws.chance(0.6) else "444", grey)


def resized(x: torch.Tensor, size: tuple[int, int], draws: Draws) -> torch.Tensor:
    """Resize (3, H, W) by a filter drawn at random."""
    mode = ("area", "bilinear", "bicubic")[int(draws.uniform(0, 3))]
    smooth = {} if mode == "area" else {"antialias": draws.chance(0.8), "align_corners": False}
    return F.interpolate(x[None], size=size, mode=mode, **smooth)[0]


def specks(x: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Set a few pixels of (3, H, W) to black or white: impulse noise."""
    share, dark = draws.log_uniform(0.001, 0.02), draws.uniform()
    hit, value = (torch.rand(1, *x.shape[1:], generator=draws.generator) for _ in range(2))
    return torch.where(hit < share, torch.where(value < dark, -1.0, 1.0), x)


def chain(x: torch.Tensor, draws: Draws, grey: bool) -> torch.Tensor:
    """Degrade by a chain of blur, resizing, noise and JPEG, the second half at random."""
    size, y = (x.shape[1], x.shape[2]), x
    if draws.chance(0.7):
        y = apply(blur_of(draws, 2.5) if draws.chance(0.8) else shake_of(draws), y)
    if draws.chance(0.65):
        factor = draws.uniform(1.0, 3.0)
        y = resized(y, (max(16, round(size[0] / factor)), max(16, round(size[1] / factor))), draws)
    if draws.chance(0.8):
        y = add_noise(y, draws.log_uniform(0.004, 0.1), draws, grey)
    if draws.chance(0.04):
        y = specks(y, draws)
    if draws.chance(0.6):
        y = compress(y, draws.uniform(30, 95), "420" if draws.chance(0.6) else "444", grey)
    y = resized(y, size, draws) if tuple(y.shape[1:]) != size else y
    if draws.chance(0.35):
        y = compress(y, draws.uniform(40, 95), "420" if draws.chance(0.6) else "444", grey)
    return y


KINDS = {
    "clean": clean,
    "gaussian-blur": linear(blur_of, 0.002, 0.1),
    "motion-blur": linear(shake_of, 0.002, 0.05),
    "noise": linear(lambda draws: Identity(), 0.005, 0.16),
    "jpeg": jpeg,
    "enlargement": linear(lambda draws: Enlargement(draws.uniform(1.3, 4.5)), 0.0005, 0.02),
    "phone": phone,
    "chain": chain,
}


def degrade(x: torch.Tensor, generator: torch.Generator, kind: str | None = None) -> Degraded:
    """Degrade one clean picture.

    Args:
        x: (3, H, W) in [-1, 1].
        generator: CPU generator of every draw.
        kind: of WEIGHTS; None draws one.
    """
    draws = Draws(generator)
    x = drawing((x.shape[1], x.shape[2]), draws) if draws.chance(DRAWINGS) else x
    x = stored(recolour(x, draws))
    kind = kind or draws.choose(WEIGHTS)
    if kind in STAY_SOFT and draws.chance(SOFT):
        x = stored(apply(GaussianBlur(draws.log_uniform(0.4, 2.5)), x))
    return Degraded(x, stored(KINDS[kind](x, draws, is_grey(x))), kind)
