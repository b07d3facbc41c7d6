"""Blur with any kernel: from a file, or along a random camera path. Through the Fourier domain where that is faster."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from flashdiff_cli.broadcast import shaped
from flashdiff_cli.operators.base import Operator, choose, per_sample
from flashdiff_cli.operators.files import read_kernel
from flashdiff_cli.operators.padding import Margins, fold, pad
from flashdiff_cli.operators.proximal import solve
from flashdiff_cli.operators.registry import OPERATORS
from flashdiff_cli.parameters import OPERATOR_OPTIONS

DIRECT_RADIUS = 5
"""Up to this radius a direct convolution is faster than two Fourier transforms (measured at 256 x 256)."""

DAMPING = 0.03
"""Added to the power of a kernel where its inverse preconditions: the image mirrors at its borders and the inverse wraps, so the one hardly
passes what the other may. A quarter fewer conjugate gradient steps where the image is hardly believed."""

HARMONICS = 3
"""Sine terms in the heading and in the speed of a random path: few, so that it is smooth."""

PATH_POINTS = 1024


@OPERATORS.add
class MotionBlur(Operator):
    """Convolution with a kernel that differs from sample to sample, reflect padding.

    Args:
        kernel: (B, k, k) or (1, k, k), k odd; a point at the middle of the image becomes the kernel itself.
        parameters: what the kernels came from, (B,) or (1,) by option name, for records.
        kernel_file: where the kernel was read, for records.
    """

    name = "motion-blur"
    help = "motion blur along a random path, or with a kernel from a file"
    options = OPERATOR_OPTIONS["motion-blur"]

    def __init__(self, kernel: torch.Tensor, parameters: dict[str, torch.Tensor] | None = None, kernel_file: str = ""):
        self.kernel = kernel
        self.parameters = parameters or {}
        self.kernel_file = str(kernel_file)
        self._spectra: dict[tuple, torch.Tensor] = {}

    @classmethod
    def make(cls, size: tuple[int, int], generator: torch.Generator, **values: Any) -> MotionBlur:
        if values["kernel_file"]:
            return cls(read_kernel(values["kernel_file"])[None], kernel_file=values["kernel_file"])
        lengths, shakes = per_sample(values["blur_length"]), per_sample(values["blur_shake"])
        return cls(path_kernels(lengths, shakes, generator), {"blur_length": lengths, "blur_shake": shakes})

    def hides_detail(self) -> torch.Tensor:
        # A path shorter than two pixels leaves most of each pixel where it was.
        return (self.kernel.flatten(1).amax(1) < 0.5).cpu()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        radius = self.kernel.shape[-1] // 2
        padded = pad(x, Margins.all(radius))
        if radius <= DIRECT_RADIUS:
            weights = self._weights(x)
            return F.conv2d(padded.reshape(1, len(weights), *padded.shape[2:]), weights, groups=len(weights)).reshape(x.shape)
        extent, spectrum = self._spectrum(padded)
        full = torch.fft.irfft2(torch.fft.rfft2(padded.to(_real(x)), s=extent) * spectrum, s=extent)
        # The first 2 * radius rows and columns of the circular convolution hold what wrapped around.
        return full[..., 2 * radius : 2 * radius + x.shape[2], 2 * radius : 2 * radius + x.shape[3]].to(x)

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        radius = self.kernel.shape[-1] // 2
        if radius <= DIRECT_RADIUS:
            weights = self._weights(y)
            spread = F.conv_transpose2d(y.reshape(1, len(weights), *y.shape[2:]), weights, groups=len(weights))
            spread = spread.reshape(*y.shape[:2], *spread.shape[2:])
        else:
            placed = F.pad(y.to(_real(y)), (2 * radius, 0, 2 * radius, 0))
            extent, spectrum = self._spectrum(placed)
            spread = torch.fft.irfft2(torch.fft.rfft2(placed, s=extent) * spectrum.conj(), s=extent)
            spread = spread[..., : placed.shape[2], : placed.shape[3]].to(y)
        return fold(spread, Margins.all(radius))

    def proximal(self, x: torch.Tensor, y: torch.Tensor, noise_variance: torch.Tensor, error_variance: torch.Tensor) -> torch.Tensor:
        """Solve as `Operator.proximal` says; the same blur with periodic borders, solved in the Fourier domain, is nearly the inverse sought."""
        exact = x if x.dtype == torch.float64 else x.float()
        t, s = shaped(error_variance, exact), shaped(noise_variance.clamp(min=1e-8), exact)
        size = exact.shape[-2:]
        kernel = self.kernel.to(exact)
        side = kernel.shape[-1]
        if side > min(size):
            return solve(exact, y.to(exact) - self.on_signed(exact), self.forward, self.adjoint, noise_variance, error_variance).to(x)
        power = torch.fft.rfft2(kernel[:, None], s=size).abs().square()

        def precondition(v: torch.Tensor) -> torch.Tensor:
            return torch.fft.irfft2(torch.fft.rfft2(v) / (t * (power + DAMPING) + s), s=size)

        residual = y.to(exact) - self.on_signed(exact)
        return solve(exact, residual, self.forward, self.adjoint, noise_variance, error_variance, precondition).to(x)

    def _weights(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B * C, 1, k, k), turned round: conv2d correlates."""
        kernel = self.kernel.to(x).flip(-1, -2)
        return kernel.expand(len(x), -1, -1).repeat_interleave(x.shape[1], 0)[:, None]

    def _spectrum(self, padded: torch.Tensor) -> tuple[tuple[int, int], torch.Tensor]:
        """Return a size for the transforms, and the kernels' transform (B or 1, 1, ...) at that size."""
        extent = (_fast_length(padded.shape[-2]), _fast_length(padded.shape[-1]))
        key = (padded.device, _real(padded), extent)
        if key not in self._spectra:
            kernel = self.kernel.to(padded.device, _real(padded))
            self._spectra[key] = torch.fft.rfft2(kernel[:, None], s=extent)
        return extent, self._spectra[key]

    def describe(self, index: int = 0) -> dict[str, Any]:
        if self.kernel_file:
            return {"kernel_file": self.kernel_file}
        return {name: round(value[index % len(value)].item(), 4) for name, value in self.parameters.items()}

    def subset(self, active: torch.Tensor) -> MotionBlur:
        parameters = {name: choose(value, active) for name, value in self.parameters.items()}
        return MotionBlur(choose(self.kernel, active), parameters, self.kernel_file)

    @classmethod
    def _stack(cls, operators: Sequence[MotionBlur]) -> MotionBlur:
        if len({operator.kernel_file for operator in operators}) > 1:
            raise cls._unstackable("kernels of different files")
        if len({tuple(operator.parameters) for operator in operators}) > 1:
            raise cls._unstackable("kernels that came from different options")
        radius = max(operator.kernel.shape[-1] // 2 for operator in operators)
        kernels = [F.pad(o.kernel, (radius - o.kernel.shape[-1] // 2,) * 4) for o in operators]
        parameters = {name: torch.cat([o.parameters[name] for o in operators]) for name in operators[0].parameters}
        return cls(torch.cat(kernels), parameters, operators[0].kernel_file)


def path_kernels(lengths: torch.Tensor, shakes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw kernels of a camera that moves along a smooth random path while the shutter is open.

    Heading and logarithm of the speed are short random sine series; the kernel is the time spent at each place, its
    centre of mass in the middle.

    Args:
        lengths: of the paths in pixels, (B,) or (1,).
        shakes: 0 (straight, steady) to 1, (B,) or (1,).
        generator: CPU generator; the number of draws depends on B only.

    Returns:
        (B, k, k) float64, sum 1, k odd and as large as the longest path needs.
    """
    batch = max(len(lengths), len(shakes))
    lengths, shakes = (value.double().expand(batch)[:, None] for value in (lengths, shakes))
    angle = 2 * math.pi * torch.rand(batch, 1, generator=generator, dtype=torch.float64)
    amplitude = torch.randn(2, batch, HARMONICS, 1, generator=generator, dtype=torch.float64)
    phase = 2 * math.pi * torch.rand(2, batch, HARMONICS, 1, generator=generator, dtype=torch.float64)
    time = torch.linspace(0, 1, PATH_POINTS, dtype=torch.float64)
    order = torch.arange(1, HARMONICS + 1, dtype=torch.float64)[:, None]
    heading, speed = (amplitude / order * torch.sin(math.pi * order * time + phase)).sum(2)
    heading = angle + 0.5 * math.pi * shakes * heading
    speed = torch.exp(0.5 * shakes * speed)
    return kernels_along(path_of(heading, speed, lengths))


def path_of(heading: torch.Tensor, speed: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return paths, (2, B, points) down and across in pixels from the middle: of headings in radians and speeds (B, points), and lengths (B, 1)."""
    steps = torch.stack([torch.sin(heading), torch.cos(heading)]) * speed * lengths / speed.sum(1, keepdim=True)
    path = steps.cumsum(-1)
    return path - path.mean(-1, keepdim=True)


def kernels_along(path: torch.Tensor, radius: int | None = None) -> torch.Tensor:
    """Turn places down and across, (2, B, points) in pixels from the middle, into kernels (B, k, k): the share of the time spent at each pixel.

    `radius`: of the kernels, what lies outside does not count; None: as large as the longest path needs.
    """
    batch, points = path.shape[1:]
    radius = int(path.abs().max()) + 1 if radius is None else radius
    width = 2 * radius + 1
    base = path.floor().clamp(-radius, radius - 1)
    kernel = torch.zeros(batch, width * width, dtype=torch.float64)
    for corner_y, corner_x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        corner = base + torch.tensor([corner_y, corner_x], dtype=torch.float64).view(2, 1, 1)
        weight = (1 - (path - corner).abs()).clamp(min=0).prod(0) / points
        index = (corner + radius).long()
        kernel.scatter_add_(1, index[0] * width + index[1], weight)
    return (kernel / kernel.sum(1, keepdim=True).clamp(min=1e-12)).view(batch, width, width)


def kernel_axis(kernel: torch.Tensor) -> tuple[float, float]:
    """Return the straight motion that spreads light as a kernel (k, k) does: its length in pixels, and its direction in radians.

    The length is that of an even straight path of the same variance along the kernel's main axis; the direction is measured from the
    horizontal downwards, -pi/2 to pi/2.
    """
    kernel = kernel.double() / kernel.sum()
    offsets = torch.arange(len(kernel), dtype=torch.float64) - len(kernel) // 2
    down, across = (kernel.sum(1) * offsets).sum(), (kernel.sum(0) * offsets).sum()
    y, x = offsets[:, None] - down, offsets[None] - across
    xx, yy, xy = ((kernel * product).sum().item() for product in (x * x + 0 * y, y * y + 0 * x, x * y))
    main = (xx + yy) / 2 + math.hypot((xx - yy) / 2, xy)
    return math.sqrt(12 * main), 0.5 * math.atan2(2 * xy, xx - yy)


def straight_kernel(length: float, angle: float) -> torch.Tensor:
    """Return the kernel of a steady straight motion: (k, k) float64, sum 1. Directions as in `kernel_axis`."""
    time = (torch.arange(PATH_POINTS, dtype=torch.float64) + 0.5) / PATH_POINTS - 0.5
    path = torch.stack([time * length * math.sin(angle), time * length * math.cos(angle)])[:, None]
    return kernels_along(path)[0]


def _real(x: torch.Tensor) -> torch.dtype:
    """Return the type to transform in: half precisions have no Fourier transform."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _fast_length(least: int) -> int:
    """Return the smallest length from `least` up with no prime factor above 5, which transforms quickly."""
    length = least
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1
