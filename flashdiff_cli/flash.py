"""Flash-Diffusion: where a measurement's reverse process starts (paper section 3.2). Knows nothing of solvers.

Each function makes one kind of `Start`; only `matched` needs the estimate of a severity encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from flashdiff_cli.broadcast import select, shaped
from flashdiff_cli.errors import UsageError
from flashdiff_cli.parameters import START_MODES as START_MODES
from flashdiff_cli.parameters import STARTS as STARTS
from flashdiff_cli.schedule import Schedule
from flashdiff_cli.severity import SeverityEstimate

NOISE_RULES = ("variance", "level")

NoisePredictor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(z, timesteps) -> eps."""


@dataclass(frozen=True)
class Start:
    """Where the reverse process begins, sample by sample."""

    latent: torch.Tensor
    """(B, C, h, w) at the noise of `level`."""
    level: torch.Tensor
    """(B,) start steps, 0 to len(schedule)."""
    network_evaluations: torch.Tensor
    """(B,) UNet passes that the start itself cost (DDIM inversion)."""


def draw(shape: torch.Size, generators: Sequence[torch.Generator], like: torch.Tensor) -> torch.Tensor:
    """Draw standard normal noise, one CPU generator a sample, so that a batch draws what single runs draw."""
    return torch.stack([torch.randn(shape[1:], generator=g, dtype=torch.float32) for g in generators]).to(like)


def noise_corrected(latent: torch.Tensor, variance: torch.Tensor, noise: torch.Tensor, correction: float) -> torch.Tensor:
    """Compute z_start = sqrt(1 - c var) z_hat + sqrt(c var) eps (paper eq. 9); c var is capped at 1, where only noise is left.

    Args:
        latent, noise: (B, C, h, w).
        variance: (B,).
        correction: c.
    """
    share = (correction * variance.detach().cpu().double()).clamp(0, 1)
    return shaped((1 - share).sqrt(), latent) * latent + shaped(share.sqrt(), latent) * noise


@torch.no_grad()
def invert(latent: torch.Tensor, level: torch.Tensor, schedule: Schedule, predict_noise: NoisePredictor) -> torch.Tensor:
    """Run DDIM backwards from the clean end up to `level` (B,), without noise; samples that have arrived wait.

    Each level's noise is predicted from the latent below it (paper section 3.2), one network evaluation a level.
    """
    z = latent
    for j in range(1, int(level.max()) + 1):
        active = (level >= j).to(z.device)
        here = torch.full((int(active.sum()),), j)
        part = z[active]
        eps = predict_noise(part, schedule.timestep(here).to(z.device))
        z = z.clone()
        z[active] = schedule.add_noise(schedule.estimate_clean(part, eps, here - 1), eps, here)
    return z


def inverted(latent: torch.Tensor, level: torch.Tensor, schedule: Schedule, predict_noise: NoisePredictor) -> Start:
    """Start from a latent (B, C, h, w) taken to start steps `level` (B,) by DDIM inversion, which costs as many evaluations."""
    return Start(invert(latent, level, schedule, predict_noise), level, level.clone())


def matched(
    estimate: SeverityEstimate,
    schedule: Schedule,
    generators: Sequence[torch.Generator],
    correction: float = 1.0,
    variance_multiplier: float = 1.0,
    noise: torch.Tensor | None = None,
    noise_rule: str = "variance",
) -> Start:
    """Start where the signal-to-noise ratio is that of the estimate, from the estimate with noise added.

    Args:
        estimate: latent (B, C, h, w) and variance (B,).
        schedule: the grid in use.
        generators: one a sample.
        correction: c of eq. 9; scales the injected noise, not the start step. What the estimate is wrong by is noise too: a step chosen for m
            times its variance, m > 1, lacks only about c = 1 - 1 / m of that step's noise, and more makes the result rough.
        variance_multiplier: m, applied to the estimated variance before anything else.
        noise: (B, C, h, w) standard normal to use instead of a draw, so that tiles can share theirs.
        noise_rule: share of the start latent's variance that is noise: "variance", c times the estimated variance (paper eq. 9); or
            "level", c times 1 - abar of the start step, which is what the network expects there. SNR matching makes abar =
            1 / (1 + variance), so the two agree for small variances, and the first injects (1 + variance) times too much for large ones.

    Raises:
        UsageError: an unknown rule, or a correction or multiplier that is negative or not finite.
    """
    if noise_rule not in NOISE_RULES:
        raise UsageError(f"unknown noise rule {noise_rule!r}; choose from {', '.join(NOISE_RULES)}")
    _check_factor("`variance_multiplier`", variance_multiplier)
    variance = estimate.variance * variance_multiplier
    level = schedule.start_level(variance)
    share = variance if noise_rule == "variance" else 1 - schedule.levels[level]
    return _noised(estimate.latent, level, share, correction, _or_draw(noise, estimate.latent, generators))


def fixed(
    latent: torch.Tensor,
    level: torch.Tensor,
    schedule: Schedule,
    generators: Sequence[torch.Generator],
    correction: float = 1.0,
    noise: torch.Tensor | None = None,
) -> Start:
    """Start at given steps, from a latent with the noise of those steps; at the schedule's last, from pure noise.

    Args:
        latent: (B, C, h, w), whoever estimated it.
        level: (B,) start steps.
        schedule, generators, correction, noise: as for `matched`.

    Raises:
        UsageError: a correction that is negative or not finite.
    """
    fresh = _or_draw(noise, latent, generators)
    begin = _noised(latent, level, 1 - schedule.levels[level.cpu()], correction, fresh)
    # The last level still holds some signal; a run from there is meant to know nothing of the latent.
    return replace(begin, latent=select(begin.level == len(schedule), fresh, begin.latent))


def from_noise(
    shape: torch.Size,
    schedule: Schedule,
    generators: Sequence[torch.Generator],
    like: torch.Tensor,
    noise: torch.Tensor | None = None,
) -> Start:
    """Start from pure noise at the schedule's last level, the baseline of every solver.

    Args:
        shape: (B, C, h, w) of the latent.
        schedule: the grid in use.
        generators: one a sample.
        like: a tensor of the type and on the device wanted.
        noise: as for `matched`.
    """
    level = torch.full((shape[0],), len(schedule))
    return Start(draw(shape, generators, like) if noise is None else noise.to(like), level, torch.zeros_like(level))


def come_closer(
    code: torch.Tensor,
    level: torch.Tensor,
    schedule: Schedule,
    generators: Sequence[torch.Generator],
    noise: torch.Tensor | None = None,
) -> Start:
    """Start from a measurement's own latent, diffused to given steps (Come-Closer-Diffuse-Faster, Chung et al. 2022).

    Args:
        code: (B, C, h, w): the measurement, encoded by the first stage.
        level: (B,) start steps.
        schedule, generators, noise: as for `matched`.
    """
    return Start(schedule.add_noise(code, _or_draw(noise, code, generators), level), level.cpu(), torch.zeros_like(level.cpu()))


def _or_draw(noise: torch.Tensor | None, latent: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
    return draw(latent.shape, generators, latent) if noise is None else noise.to(latent)


def _noised(latent: torch.Tensor, level: torch.Tensor, share: torch.Tensor, correction: float, noise: torch.Tensor) -> Start:
    """Add noise by eq. 9; where the level is 0 the latent stays as it is."""
    _check_factor("`noise_correction`", correction)
    level = level.cpu()
    noised = noise_corrected(latent, share, noise, correction)
    return Start(select(level == 0, latent, noised), level, torch.zeros_like(level))


def _check_factor(flag: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise UsageError(f"{flag} {value} is out of range; give a number of at least 0")
