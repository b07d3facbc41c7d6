"""Where the runs of a plan start: the one kind of `flash.Start` that the plan asks for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from flashdiff_cli import flash
from flashdiff_cli.denoiser import Denoiser
from flashdiff_cli.diagnosis import Analysis
from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.first_stage import FirstStage
from flashdiff_cli.plan import NO_ENCODER, SamplingPlan


def make_start(
    plan: SamplingPlan,
    stage: FirstStage,
    denoiser: Denoiser,
    image: torch.Tensor,
    analysis: Analysis | None,
    generators: Sequence[torch.Generator],
    noise: torch.Tensor | None = None,
) -> flash.Start:
    """Start the reverse process as a plan says: from the severity encoder's estimate, from noise, or from the encoded measurement.

    Args:
        plan: what the run will do.
        stage, denoiser: of the model.
        image: (B, 3, H, W) in [-1, 1]: the measurements at the size of their images.
        analysis: what the plan's severity encoder says of them; None where it was not asked.
        generators: one CPU generator a sample.
        noise: (B, C, h, w) standard normal instead of a draw.

    Raises:
        FlashdiffError: the start step is to be matched, and the model has no severity encoder.
    """
    schedule = plan.schedule
    if plan.start == "noise":
        shape = torch.Size([len(image), stage.channels, image.shape[2] // stage.size_multiple, image.shape[3] // stage.size_multiple])
        return flash.from_noise(shape, schedule, generators, image, noise)
    if analysis is not None and plan.start == "stochastic" and plan.start_step is None:
        correction, multiplier = plan.noise_correction, plan.variance_multiplier
        return flash.matched(analysis.estimate, schedule, generators, correction, multiplier, noise, plan.noise_rule)
    latent = stage.encode(image.clamp(-1, 1)) if analysis is None else analysis.latent
    if plan.start_step is not None:
        level = plan.start_step.expand(len(latent))
    elif analysis is not None:
        level = plan.matched_step(analysis.variance)
    else:
        raise FlashdiffError(NO_ENCODER)
    if plan.start == "come-closer":
        return flash.come_closer(latent, level, schedule, generators, noise)
    if plan.start == "inversion":
        return flash.inverted(latent, level, schedule, lambda z, timesteps: denoiser(z, timesteps).sample)
    return flash.fixed(latent, level, schedule, generators, plan.noise_correction, noise)


__all__ = ["make_start"]
