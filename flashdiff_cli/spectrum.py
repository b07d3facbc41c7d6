"""Which camera path explains the power spectrum of a shaken picture.

The power of a photograph falls smoothly with frequency; that of a path does not: it has zeros, whose places tell its length, its direction and its
bends. Under the model power = gain * |kernel|^2 + noise, where the logarithm of the gain is a smooth function of frequency and direction with six
coefficients, the periodogram's likelihood is Whittle's, and the coefficients are its maximum for each kernel. Phases are not looked at, so a
kernel and the same turned by half a circle explain a spectrum equally well, and no sharp picture needs to be known.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from flashdiff_cli.grey import LUMA, colour_share, luma_of
from flashdiff_cli.operators.motion_blur import HARMONICS, kernels_along, path_of

BLOCK = 64
"""Side of the squares, in pixels, that a periodogram is averaged over, for paths of up to half of it."""

LUMA_NOISE = sum(weight**2 for weight in LUMA)
"""Share of the variance of independent noise in three channels that their luma has; of noise that is the same in all, as in grey pictures, all."""

LEAST_NOISE = 1e-3
"""Standard deviation on intensities, below which there is the rounding to 8 bits."""

LOWEST, HIGHEST = 2.5, 0.5
"""Frequencies that are looked at: from so many cycles a square to so many a pixel."""

RINGS, HEADROOM = 8, 1.7
"""Of as many frequencies each, whose quietest bounds what noise there can be; and how many times its power is still believed where a path is looked
for: more noise than there is leaves out of account what a kernel lets pass least of, which a smooth gain does not describe well either. On eight
shaken photographs the gain was 5.5 dB so and 3.3 at the power itself, by which a path is told from other blurs better."""

SLOPE = -2.4
"""Of the power of photographs over frequency, where the search for the gain begins."""

FEWEST = 200
"""Frequencies without which a spectrum does not say enough."""

SPREADS = (0.55, 0.25)
"""Standard deviations of the coefficients of heading (radians) and speed: what paths are likely."""

STEPS = torch.tensor([0.25, 0.25] + [0.5] * (2 * HARMONICS) + [0.3] * (2 * HARMONICS))
"""Standard deviations of a first step of the search, by parameter; later ones are smaller by SHRINK each."""

SHRINK = 0.6
OVERLAP = 0.4
"""Of how many independent squares one is worth: neighbours share half of their pixels."""

DRAWN, KEPT, GENERATIONS, RESTARTS = 1500, 30, 7, 3
"""Paths that are drawn, those that are gone on from, how often, and how often all of it is begun anew: a likelihood has many maxima."""

POINTS = 256
"""Of a path."""

AT_ONCE = 300
"""Kernels, which bounds memory."""

SHORTEST = 2.0
"""Path in pixels that is looked for."""

ALIKE = (0.999, 0.9995)
"""Cosines between amplitudes from which two kernels are one, in the first generations and in later ones."""


class PictureSpectrum:
    """The power spectrum of one picture, against which kernels are held.

    Args:
        picture: (1, 3, H, W) in [-1, 1].
        noise_std: of its noise, on intensities in [0, 1].
        block: side of the squares that are averaged over, at most the picture's sides.
        headroom: how many times the power of the quietest frequencies noise may have.
    """

    def __init__(self, picture: torch.Tensor, noise_std: float, block: int = BLOCK, headroom: float = HEADROOM):
        luma = luma_of(picture).float().cpu()[0]
        self.block = side = min(block, *luma.shape)
        line = torch.hann_window(side + 2, periodic=False)[1:-1]
        window = line[:, None] * line
        squares = torch.stack([luma[i : i + side, j : j + side] for i in _starts(luma.shape[0], side) for j in _starts(luma.shape[1], side)])
        squares = (squares - (squares * window).sum((1, 2), keepdim=True) / window.sum()) * window
        power = torch.fft.rfft2(squares).abs().square().mean(0) / window.square().sum()
        down, across = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)[None]
        frequency, direction = (down.square() + across.square()).sqrt(), torch.atan2(down, across)
        self.used = (frequency > LOWEST / side) & (frequency < HIGHEST)
        self.power = power[self.used].clamp(min=1e-12)
        self.log_frequency, angle = frequency[self.used].log(), direction[self.used]
        noise = (2 * max(noise_std, LEAST_NOISE)) ** 2 * (1 - (1 - LUMA_NOISE) * colour_share(picture).item())
        self.noise = min(noise, headroom * self._least_power())
        smooth = [torch.ones_like(angle), self.log_frequency]
        self.terms = torch.stack(smooth + [wave(n * angle) for n in (2, 4) for wave in (torch.cos, torch.sin)], 1)
        self.pairs = (self.terms[:, :, None] * self.terms[:, None]).flatten(1)
        self.weight = len(squares) * OVERLAP * len(self.power)

    def _least_power(self) -> float:
        """Return the mean power of the quietest ring of frequencies, above which no noise is that is the same at all of them."""
        rings = self.power[self.log_frequency.argsort()].chunk(RINGS)
        return min(ring.mean().item() for ring in rings)

    def passed(self, kernels: torch.Tensor) -> torch.Tensor:
        """Return the power (B, n) that kernels (B, k, k), k at most the block, let pass at each of the n frequencies."""
        rest = self.block - kernels.shape[-1]
        return torch.fft.rfft2(F.pad(kernels.float(), (0, rest, 0, rest))).abs().square()[:, self.used]

    def misfit(self, kernels: torch.Tensor) -> torch.Tensor:
        """Return the negative log-likelihood a frequency (B,) of the power under kernels (B, k, k), each with the gain that suits it best."""
        return torch.cat([self._misfit(self.passed(some)) for some in kernels.split(AT_ONCE)])

    def _misfit(self, passed: torch.Tensor, rounds: int = 6) -> torch.Tensor:
        found = torch.zeros(len(passed), self.terms.shape[1])
        found[:, 1] = SLOPE
        found[:, 0] = (self.power.mean() / (passed * (SLOPE * self.log_frequency).exp()).mean(1).clamp(min=1e-20)).log()
        ridge = 1e-4 * len(self.power) * torch.eye(self.terms.shape[1])
        for _ in range(rounds):
            # Fisher scoring: the expected curvature in place of the true one.
            expected = self._expected(found, passed)
            share = 1 - self.noise / expected
            slope = (share * (self.power / expected - 1)) @ self.terms
            curvature = (share.square() @ self.pairs).unflatten(1, (-1, self.terms.shape[1])) + ridge
            found = found + torch.linalg.solve(curvature, slope).clamp(-1, 1)
        expected = self._expected(found, passed)
        return (expected.log() + self.power / expected).mean(1)

    def _expected(self, found: torch.Tensor, passed: torch.Tensor) -> torch.Tensor:
        return (found @ self.terms.T).clamp(-40, 30).exp() * passed + self.noise


def _starts(length: int, side: int) -> list[int]:
    """Return where squares of a side begin that cover a length with halves in common."""
    count = math.ceil(2 * (length - side) / side)
    return [round(number * (length - side) / max(count, 1)) for number in range(count + 1)]


def paths(parameters: torch.Tensor) -> torch.Tensor:
    """Return camera paths as `kernels_along` takes them, (2, B, points), from their parameters (B, 2 + 4 HARMONICS).

    The logarithm of the length in pixels, the direction in radians, and the coefficients of sines and cosines of half a period and its multiples
    for the heading and for the logarithm of the speed.
    """
    p = parameters.double()
    time, order = torch.linspace(0, 1, POINTS, dtype=torch.float64), torch.arange(1, HARMONICS + 1, dtype=torch.float64)[:, None]
    waves = torch.cat([torch.sin(math.pi * order * time) / order, torch.cos(math.pi * order * time) / order])
    heading, speed = p[:, 1:2] + p[:, 2 : 2 + 2 * HARMONICS] @ waves, (p[:, 2 + 2 * HARMONICS :] @ waves).exp()
    return path_of(heading, speed, p[:, :1].exp())


class _Search:
    """One search for the parameters of a path that a spectrum is likely under: random ones, then ever smaller changes of the best."""

    def __init__(self, spectrum: PictureSpectrum, longest: float, radius: int, generator: torch.Generator):
        self.spectrum, self.longest, self.radius, self.generator = spectrum, longest, radius, generator
        self.spread = torch.tensor([SPREADS[0]] * (2 * HARMONICS) + [SPREADS[1]] * (2 * HARMONICS))

    def draw(self) -> torch.Tensor:
        bends = torch.randn(DRAWN, len(STEPS) - 2, generator=self.generator) * torch.rand(DRAWN, 1, generator=self.generator) * 1.3 * self.spread
        length = math.log(3) + math.log(self.longest / 3) * torch.rand(DRAWN, 1, generator=self.generator)
        return torch.cat([length, math.pi * torch.rand(DRAWN, 1, generator=self.generator), bends], 1)

    def change(self, kept: torch.Tensor, scale: float) -> torch.Tensor:
        count = DRAWN // 3
        chosen = kept[torch.randint(len(kept), (count,), generator=self.generator)]
        some = torch.rand(chosen.shape, generator=self.generator) < 0.5
        changed = chosen + scale * STEPS * some * torch.randn(chosen.shape, generator=self.generator)
        changed[:, 0] = changed[:, 0].clamp(math.log(SHORTEST), math.log(self.longest))
        return changed

    def judge(self, parameters: torch.Tensor) -> torch.Tensor:
        """Return the misfit (B,), with what the bends are unlikely by."""
        unlikely = (parameters[:, 2:] / self.spread).square().sum(1) / (2 * self.spectrum.weight)
        return self.spectrum.misfit(kernels_along(paths(parameters), self.radius)) + unlikely

    def best(self) -> torch.Tensor:
        """Return the kernel (k, k) that was found."""
        found = self.draw()
        misfit = self.judge(found)
        for number in range(GENERATIONS):
            found, misfit = self._apart(found, misfit, ALIKE[number > 3])
            new = self.change(found, 0.8 * SHRINK**number)
            found, misfit = torch.cat([found, new]), torch.cat([misfit, self.judge(new)])
        return kernels_along(paths(found[misfit.argmin()][None]), self.radius)[0]

    def _apart(self, found: torch.Tensor, misfit: torch.Tensor, alike: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the KEPT best whose kernels differ from one another."""
        best = misfit.argsort()[: 6 * KEPT]
        amplitude = F.normalize(self.spectrum.passed(kernels_along(paths(found[best]), self.radius)).sqrt())
        same = amplitude @ amplitude.T >= alike
        chosen: list[int] = []
        for number in range(len(best)):
            if not same[number, chosen].any():
                chosen.append(number)
            if len(chosen) == KEPT:
                break
        return found[best[chosen]], misfit[best[chosen]]


def explaining_kernel(
    picture: torch.Tensor, noise_std: float, length: float, headroom: float = HEADROOM
) -> tuple[torch.Tensor, PictureSpectrum] | None:
    """Return the kernel of the camera path that explains a picture's power spectrum best, up to a turn by half a circle.

    Args:
        picture: (1, 3, H, W) in [-1, 1].
        noise_std: on intensities in [0, 1].
        length: of a straight path that was seen, in pixels; longer ones are looked for, up to half more.
        headroom: see `PictureSpectrum`.

    Returns:
        (k, k) float64, sum 1, k odd, and the spectrum; None where the picture is too small for such a path.
    """
    longest = max(24.0, 1.5 * length)
    radius = math.ceil(longest / 2) + 2
    spectrum = PictureSpectrum(picture, noise_std, max(BLOCK, 4 * radius), headroom)
    if spectrum.block < 2 * radius + 2 or len(spectrum.power) < FEWEST:
        return None
    generator = torch.Generator().manual_seed(0)
    found = torch.stack([_Search(spectrum, longest, radius, generator).best() for _ in range(RESTARTS)])
    return found[spectrum.misfit(found).argmin()], spectrum
