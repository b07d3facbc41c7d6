"""deepinv's physics as operators, and restorations as its reconstructors; needs deepinv (pip install "flashdiff[deepinv]").

deepinv works on images in [0, 1], as operators do; its measurements are degraded intensities.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.operators.base import Operator
from flashdiff_cli.restoration import Restoration


def _deepinv() -> Any:
    try:
        return import_module("deepinv")
    except ImportError as error:
        raise FlashdiffError(f'deepinv is not installed ({error}); pip install "flashdiff[deepinv]"') from error


class PhysicsOperator(Operator):
    """A `deepinv.physics.LinearPhysics` whose measurements are pictures: blurs, masks, downsampling.

    Args:
        physics: the same for every sample of a batch.
        size: (H, W) of the images that it was made for.

    Raises:
        FlashdiffError: deepinv is not installed.
        UsageError: it is not linear, differs from sample to sample, or what it measures is no picture of as many channels.
    """

    name = "deepinv"
    help = "a LinearPhysics of deepinv"

    def __init__(self, physics: Any, size: tuple[int, int]):
        if not isinstance(physics, _deepinv().physics.LinearPhysics):
            raise UsageError(f"{type(physics).__name__} is no LinearPhysics; wrap one, or write an Operator (CONTRIBUTING.md)")
        self.physics, self.size = physics, size
        with torch.no_grad():
            measured = physics.A(torch.zeros(1, 3, *size))
        if isinstance(measured, torch.Tensor) and len(measured) > 1:
            raise UsageError(f"{type(physics).__name__} is of {len(measured)} different samples; wrap the physics of each, and restore one by one")
        if not isinstance(measured, torch.Tensor) or measured.ndim != 4 or measured.shape[1] != 3:
            raise UsageError(f"{type(physics).__name__} does not measure pictures of three channels")
        self.measured = (measured.shape[2], measured.shape[3])
        if any(s % m for s, m in zip(size, self.measured, strict=True)) or size[0] * self.measured[1] != size[1] * self.measured[0]:
            raise UsageError(f"{type(physics).__name__} makes {self.measured} of {size}; the sides must be divided by one whole number")
        self.stride = size[0] // self.measured[0]

    @property
    def noise_std(self) -> torch.Tensor | None:
        """(1,) or (B,) standard deviation of its Gaussian noise on intensities in [0, 1]; None if its noise is of another kind."""
        known, model = _deepinv().physics, self.physics.noise_model
        if isinstance(model, known.ZeroNoise):
            return torch.zeros(1)
        return torch.as_tensor(model.sigma).detach().cpu().float().flatten() if isinstance(model, known.GaussianNoise) else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.physics.to(x.device).A(x)

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self.physics.to(y.device).A_adjoint(y)

    def describe(self, index: int = 0) -> dict[str, Any]:
        return {"physics": type(self.physics).__name__}

    def subset(self, active: torch.Tensor) -> PhysicsOperator:
        return self

    @classmethod
    def _stack(cls, operators: Any) -> PhysicsOperator:
        if any(operator.physics is not operators[0].physics for operator in operators):
            raise cls._unstackable("different physics")
        return operators[0]

    def measured_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return size[0] // self.stride, size[1] // self.stride

    def resize_to_image(self, y: torch.Tensor) -> torch.Tensor:
        if self.stride == 1:
            return y
        return torch.nn.functional.interpolate(y, scale_factor=self.stride, mode="bicubic", antialias=False)


def make_reconstructor(pipeline: Callable[..., Restoration], **choices: Any) -> Any:
    """Return a pipeline as a `deepinv.models.Reconstructor`: model(y, physics) gives images (B, 3, H, W) in [0, 1].

    Args:
        pipeline: a `FlashDiffusionPipeline`.
        choices: for every call of it, e.g. steps=50, solver="ldps", generator=torch.Generator().manual_seed(0).

    Raises:
        FlashdiffError: deepinv is not installed.
    """
    base: Any = _deepinv().models.Reconstructor

    class FlashReconstructor(base):
        """Flash-Diffusion behind deepinv's face."""

        def forward(self, y: torch.Tensor, physics: Any, **more: Any) -> torch.Tensor:
            """Restore measurements (B, 3, H', W') of intensities in [0, 1] that `physics`, linear, has made.

            The sides of its images must be multiples of the model's: most physics are bound to the size that they were made for.
            """
            height, width = physics.A_adjoint(y).shape[-2:]
            operator = PhysicsOperator(physics, (height, width))
            found = pipeline(2 * y - 1, operator, operator.noise_std, **choices, **more)
            return (found.images + 1) / 2

    return FlashReconstructor()
