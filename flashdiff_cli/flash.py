"""Flash-Diffusion: where a measurement's reverse process starts (paper section 3.2). Knows nothing of solvers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from flashdiff_cli.errors import UsageError
from flashdiff_cli.schedule import Schedule
from flashdiff_cli.severity import SeverityEstimate

START_MODES = ("stochastic", "inversion")
NOISE_RULES = ("variance", "level")


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
    """Standard normal noise, one CPU generator a sample, so that a batch draws what single runs draw."""
    return torch.stack([torch.randn(shape[1:], generator=g, dtype=torch.float32) for g in generators]).to(like)


def noise_corrected(
    latent: torch.Tensor, variance: torch.Tensor, noise: torch.Tensor, correction: float
) -> torch.Tensor:
    """z_start = sqrt(1 - c var) z_hat + sqrt(c var) eps (paper eq. 9); c var is capped at 1, where only noise is left.

    Args:
        latent, noise: (B, C, h, w).
        variance: (B,).
        correction: c.
    """
    share = (correction * variance.detach().cpu().double()).clamp(0, 1).view(-1, *[1] * (latent.ndim - 1))
    return (1 - share).sqrt().to(latent.dtype).to(latent.device) * latent + share.sqrt().to(latent.dtype).to(
        latent.device
    ) * noise


def invert(latent: torch.Tensor, level: torch.Tensor, schedule: Schedule, predict_noise: Callable) -> torch.Tensor:
    """DDIM inversion from the clean end up to `level` (B,), without noise; samples that have arrived wait.

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


def from_noise(
    shape: torch.Size, schedule: Schedule, generators: Sequence[torch.Generator], like: torch.Tensor
) -> Start:
    """The start that needs no severity: pure noise at the schedule's last level, the baseline of every solver.

    Args:
        shape: (B, C, h, w) of the latent.
        schedule: the grid in use.
        generators: one a sample.
        like: a tensor of the type and on the device wanted.
    """
    level = torch.full((shape[0],), len(schedule))
    return Start(draw(shape, generators, like), level, torch.zeros_like(level))


def start(
    estimate: SeverityEstimate,
    schedule: Schedule,
    generators: Sequence[torch.Generator],
    correction: float = 1.0,
    variance_multiplier: float = 1.0,
    mode: str = "stochastic",
    predict_noise: Callable | None = None,
    level: torch.Tensor | None = None,
    noise: torch.Tensor | None = None,
    noise_rule: str = "variance",
) -> Start:
    """Choose the start step by SNR matching and make the start latent.

    Args:
        estimate: latent (B, C, h, w) and variance (B,).
        schedule: the grid in use.
        generators: one a sample, for the start noise.
        correction: c of eq. 9; scales the injected noise, not the start step. What the estimate is wrong by is noise too: a step chosen for m
            times its variance, m > 1, lacks only about c = 1 - 1 / m of that step's noise, and more makes the result rough.
        variance_multiplier: applied to the estimated variance before anything else.
        mode: "stochastic" or "inversion".
        predict_noise: (z, timesteps) -> eps; needed by "inversion".
        level: (B,) start steps to use instead of the matched ones (a fixed start); at the schedule's last level the
            stochastic start is pure noise.
        noise: (B, C, h, w) standard normal to use for the start instead of drawing it, so that tiles can share theirs.
        noise_rule: share of the start latent's variance that is noise: "variance", c times the estimated variance (paper eq. 9); or
            "level", c times 1 - abar of the start step, which is what the network expects there. SNR matching makes abar =
            1 / (1 + variance), so the two agree for small variances, and the first injects (1 + variance) times too much for large ones.

    Raises:
        UsageError: an unknown mode, or a correction or multiplier that is negative or not finite.
    """
    if noise_rule not in NOISE_RULES:
        raise UsageError(f"unknown noise rule {noise_rule!r}; choose from {', '.join(NOISE_RULES)}")
    if mode not in START_MODES:
        raise UsageError(f"unknown start mode {mode!r}; choose from {', '.join(START_MODES)}")
    for flag, value in (("--noise-correction", correction), ("--variance-multiplier", variance_multiplier)):
        if not 0 <= value < float("inf"):
            raise UsageError(f"{flag} {value} is out of range; give a number of at least 0")
    variance = estimate.variance * variance_multiplier
    matched = schedule.start_level(variance) if level is None else level.cpu()
    calls = torch.zeros_like(matched)
    if mode == "inversion":
        with torch.no_grad():
            latent = invert(estimate.latent, matched, schedule, predict_noise)
        calls = matched.clone()
    else:
        if level is not None or noise_rule == "level":
            # A fixed start has no estimate of its own: it gets the noise of the step it starts from.
            variance = 1 - schedule.levels[matched]
        fresh = draw(estimate.latent.shape, generators, estimate.latent) if noise is None else noise
        noise = fresh.to(estimate.latent)
        latent = noise_corrected(estimate.latent, variance, noise, correction)
        if level is not None:
            # The last level still holds some signal; a run from there is meant to know nothing of the estimate.
            latent = torch.where(_each(matched == len(schedule), latent), noise, latent)
    return Start(torch.where(_each(matched == 0, latent), estimate.latent, latent), matched, calls)


def _each(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(B,) -> shaped to choose whole samples of `like`."""
    return mask.to(like.device).view(-1, *[1] * (like.ndim - 1))
