"""Latent diffusion models of any kind behind one face; `make_prior` finds the adapter that a model's scheduler asks for."""

from __future__ import annotations

from typing import Any

import torch

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.priors.base import Estimate, Prediction, Prior
from flashdiff_cli.priors.epsilon import Epsilon
from flashdiff_cli.priors.flow import RectifiedFlow
from flashdiff_cli.priors.networks import as_called
from flashdiff_cli.priors.sample import Sample
from flashdiff_cli.priors.support import PREDICTIONS
from flashdiff_cli.priors.v_prediction import VPrediction
from flashdiff_cli.prompt import PromptEmbeddings

DISCRETE = dict(zip(PREDICTIONS, (Epsilon, VPrediction, Sample), strict=True))
"""By the `prediction_type` of a scheduler with a table of abar."""


def flow_times(scheduler: Any) -> torch.Tensor | None:
    """Return the times (T,) in (0, 1], rising, of a scheduler of rectified flow; None of any other."""
    if hasattr(scheduler, "alphas_cumprod"):
        return None
    return scheduler.sigmas[: scheduler.config.num_train_timesteps].flip(0)


def make_prior(network: torch.nn.Module, scheduler: Any, prompt: PromptEmbeddings | None = None, pixels: int = 1) -> Prior:
    """Put a network of diffusers behind the face of a prior.

    Args:
        network: UNet2DModel, UNet2DConditionModel, SD3Transformer2DModel or FluxTransformer2DModel.
        scheduler: of diffusers; says what the network predicts, and at which noise.
        prompt: embeddings, of a network that takes them.
        pixels: side in pixels of one position of the latent.

    Raises:
        FlashdiffError: a network, or something predicted, that no adapter knows.
    """
    called = as_called(network, prompt, pixels)
    times = flow_times(scheduler)
    if times is not None:
        return RectifiedFlow(called, times)
    kind = scheduler.config.get("prediction_type", "epsilon")
    if kind not in DISCRETE:
        raise FlashdiffError(f"this model predicts {kind}, which no adapter knows (known: {', '.join(DISCRETE)}, and rectified flow)")
    return DISCRETE[kind](called, scheduler.alphas_cumprod)


__all__ = ["Epsilon", "Estimate", "Prediction", "Prior", "RectifiedFlow", "Sample", "VPrediction", "flow_times", "make_prior"]
