"""Arguments that users of diffusers give its pipelines, and what they mean here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from flashdiff_cli.errors import UsageError
from flashdiff_cli.schedule import Schedule

StepEnd = Callable[[Any, int, int, dict[str, Any]], dict[str, Any] | None]
"""(pipeline, step, timestep, {"latents": z}) -> {"latents": z}, as `callback_on_step_end` of diffusers."""
DEFAULTS = {"use_safetensors": (None, True), "low_cpu_mem_usage": (None, True, False), "trust_remote_code": (None, False), "token": (None,)}
"""Values with which an argument of diffusers changes nothing: weights are safetensors, and no code comes with a model."""


def check_loading(torch_dtype: torch.dtype | str | None, more: dict[str, Any]) -> tuple[torch.dtype, torch.device | None]:
    """Read what `from_pretrained` of diffusers takes besides.

    Args:
        torch_dtype: as given; "auto" and None: float32.
        more: `dtype`, another name of it; `device_map`: one device ("cuda", "cuda:1", "cpu", "mps"), for all parts; and those of DEFAULTS.

    Returns:
        the type of the weights, and the device to move to, if any.

    Raises:
        UsageError: an argument that there is not, or that cannot be followed; with the reason.
    """
    more = dict(more)
    newer = more.pop("dtype", None)
    dtype = newer if torch_dtype is None else torch_dtype
    if isinstance(dtype, str):
        dtype = None if dtype == "auto" else getattr(torch, dtype, dtype)
    dtype = torch.float32 if dtype is None else dtype
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise UsageError(f"torch_dtype {dtype!r} is unknown; give torch.float32, torch.bfloat16 or torch.float16")
    place = more.pop("device_map", None)
    device = None
    if place is not None:
        try:
            device = torch.device(place)
        except (RuntimeError, TypeError):
            raise UsageError(
                f"device_map {place!r} cannot be followed: a guided step's gradient runs through network and decoder at once; give one device"
            ) from None
    for name, value in more.items():
        if name not in DEFAULTS:
            raise UsageError(f"unknown argument {name!r}; from_pretrained takes torch_dtype, variant, device_map, revision, prompt and cache_dir")
        if not any(value is known for known in DEFAULTS[name]):
            raise UsageError(
                f"{name}={value!r} cannot be followed: weights are read from safetensors only, and no code is run that comes with a model"
            )
    return dtype, device


def one_each(generators: Sequence[torch.Generator] | torch.Generator | None, batch: int) -> Sequence[torch.Generator]:
    """Return one generator a sample; a single one, as diffusers has it, serves all in turn, and none given are seeded with 0.

    Raises:
        UsageError: there are more or fewer than samples.
    """
    if isinstance(generators, torch.Generator):
        return [generators] * batch
    generators = generators or [torch.Generator().manual_seed(0) for _ in range(batch)]
    if len(generators) != batch:
        raise UsageError(f"{batch} measurements need {batch} generators, not {len(generators)}")
    return generators


def call_step_end(pipeline: Any, schedule: Schedule, callback: StepEnd, done: int, level: int, z: torch.Tensor) -> torch.Tensor:
    """Call a callback of diffusers' kind after a step from a level; return the latents to go on from."""
    found = callback(pipeline, done - 1, int(schedule.timestep(torch.tensor([level]))[0]), {"latents": z})
    return z if not found else found.get("latents", z)


def progress(callback: Callable[[int, int], None] | None, total: int) -> Callable[[int, torch.Tensor], None] | None:
    """Return what a solver's loop calls after a step, for a callback of (steps done, steps in all)."""
    return None if callback is None else lambda done, levels: callback(done, total)


class Conventions:
    """Methods of diffusers' pipelines that mean something else here, or nothing."""

    first_stage: Any

    def enable_model_cpu_offload(self, *_: Any, **__: Any) -> None:
        """Refuse: the gradient of a guided step runs through network and decoder at once, so that both must stay on the device."""
        raise UsageError(
            "enable_model_cpu_offload cannot be used: a guided step's gradient needs network and decoder on the device at once; load with "
            "torch_dtype=torch.bfloat16, or restore in smaller tiles (flashdiff restore --tile 256)"
        )

    enable_sequential_cpu_offload = enable_model_cpu_offload

    def enable_vae_slicing(self) -> None:
        """Decode one picture of a batch at a time."""
        self._of_first_stage("enable_slicing")

    def enable_vae_tiling(self) -> None:
        """Decode in tiles; their seams are blended, and steps are guided through them."""
        self._of_first_stage("enable_tiling")

    def _of_first_stage(self, name: str) -> None:
        try:
            getattr(self.first_stage, name)()
        except (AttributeError, NotImplementedError) as error:
            raise UsageError(f"{type(self.first_stage).__name__} has no {name}; restore in smaller tiles (flashdiff restore --tile 256)") from error


__all__ = ["Conventions", "StepEnd", "call_step_end", "check_loading", "one_each", "progress"]
