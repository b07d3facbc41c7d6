"""One small pass through a model that was just loaded: parts that do not fit each other, or compute no numbers, show here and not in a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from flashdiff_cli.bounded import in_one_line
from flashdiff_cli.errors import FlashdiffError

REMEDY = "these parts are damaged or do not belong together; download or convert the model again"
MOST_SIZE_MULTIPLE = 512
"""Pixels in whose multiples a model may work."""
MOST_LEVELS = 6
"""Of the last step."""
MOST = 1e6
"""Magnitude of latents, pictures and predictions of a picture that is a grey ramp."""


def _check(found: torch.Tensor, shape: tuple[int, ...], what: str) -> torch.Tensor:
    if tuple(found.shape) != shape:
        raise FlashdiffError(f"{what} gives {tuple(found.shape)} instead of {shape}; {REMEDY}")
    if not bool(torch.isfinite(found).all()) or float(found.abs().max()) > MOST:
        raise FlashdiffError(f"{what} gives numbers that are not finite or far too large; {REMEDY}")
    return found


@torch.no_grad()
def try_model(pipeline: Any, folder: Path) -> None:
    """Send a small grey ramp through every part of a model.

    Nothing is drawn at random. In half precision, which some processors cannot compute with, nothing is tried.

    Args:
        pipeline: a FlashDiffusionPipeline, just loaded.
        folder: of the model, for messages.

    Raises:
        FlashdiffError: a part fails, gives what the next one cannot take, or numbers that are none; the message names it.
    """
    stage, dtype = pipeline.stage, pipeline.unet.dtype
    if not 1e-6 <= abs(stage.scale) <= 1e6:
        raise FlashdiffError(f"{folder}/first_stage: a scaling factor of {stage.scale:g}; {REMEDY}")
    size_multiple = pipeline.size_multiple
    if size_multiple > MOST_SIZE_MULTIPLE:
        raise FlashdiffError(f"{folder}: it works on pictures in steps of {size_multiple:,} pixels, more than {MOST_SIZE_MULTIPLE:,}; {REMEDY}")
    if dtype == torch.float16:
        return
    # Twice the smallest size: where nothing but one number is left of a picture, some normalisations refuse.
    side = 2 * size_multiple
    ramp = torch.linspace(-0.5, 0.5, side * side, device=pipeline.unet.device).reshape(1, 1, side, side).expand(1, 3, -1, -1).to(dtype)
    small = (1, stage.channels, side // stage.size_multiple, side // stage.size_multiple)
    with in_one_line(f"{folder}/first_stage", REMEDY):
        latent = _check(stage.encode(ramp), small, f"{folder}/first_stage: its encoder")
        _check(stage.decode(latent), tuple(ramp.shape), f"{folder}/first_stage: its decoder")
    with in_one_line(f"{folder}/unet", REMEDY):
        for part in pipeline.denoiser.predict(latent, torch.tensor([len(pipeline.denoiser.table) // 2])):
            _check(part, small, f"{folder}/unet")
    for role in pipeline._encoders:
        encoder = getattr(pipeline, role)
        if encoder is not None:
            with in_one_line(f"{folder}/{role}", REMEDY):
                if encoder.ahead is not None and size_multiple % encoder.ahead.size_multiple:
                    raise ValueError(f"pixel_network works in steps of {encoder.ahead.size_multiple} pixels, the model in steps of {size_multiple}")
                for part in encoder.local(ramp.to(encoder.dtype)):  # of some networks a part stays in float32
                    _check(part, small, f"{folder}/{role}")
                for operator in {str(d.get("operator")) for d in encoder.config.degradations or []}:
                    encoder.trained_noise(operator)
    if pipeline.classifier is not None:
        with in_one_line(f"{folder}/classifier", REMEDY):
            seen = pipeline.classifier(ramp)
            _check(seen.probabilities, tuple(seen.probabilities.shape), f"{folder}/classifier")
            _check(seen.parameters, tuple(seen.parameters.shape), f"{folder}/classifier")
    if pipeline.blur_estimator is not None:
        with in_one_line(f"{folder}/blur_estimator", REMEDY):
            blur = pipeline.blur_estimator(ramp)
            for part in blur:
                _check(part, tuple(part.shape), f"{folder}/blur_estimator")
    for role in ("last_step", "last_step_mixed"):
        network = getattr(pipeline, role)
        if network is None:
            continue
        with in_one_line(f"{folder}/{role}", REMEDY):
            if len(network.config.channels) > MOST_LEVELS:
                raise ValueError(f"{len(network.config.channels)} levels")
            size, known = network.size_multiple, torch.full((1,), 0.1, device=latent.device)
            grey = torch.linspace(-0.5, 0.5, size * size, device=latent.device).reshape(1, 1, size, size).expand(1, 3, -1, -1)
            _check(network(grey, known, known), (1, 3, size, size), f"{folder}/{role}")
