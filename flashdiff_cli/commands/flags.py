"""Options of operators and solvers as command-line flags, known without importing torch.

A test holds this list against what the operators and solvers themselves say.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Annotated, Any, Optional

import typer


@dataclass(frozen=True)
class Flag:
    """One option: its Python name, type, and what `--help` says."""

    name: str
    type: type
    help: str
    metavar: str | None = None


OPERATOR_FLAGS = (
    Flag("blur_std", float, "gaussian-blur: standard deviation in pixels", "PIXELS"),
    Flag("adjoint_rule", str, "gaussian-blur: exact, or reference (psld only)"),
    Flag("kept_fraction", float, "random-inpainting: share of the pixels that are kept"),
    Flag("box_fraction", float, "box-inpainting: side of the square, as a share of the shorter side"),
    Flag("box_area", float, "random-box-inpainting: share of the area that is missing"),
    Flag("mask_std", float, "gaussian-inpainting: standard deviation of the hole in pixels", "PIXELS"),
    Flag("mask_power", float, "gaussian-inpainting: power that widens the hole"),
    Flag("mask_file", str, "mask-inpainting: picture, white where pixels are kept", "FILE"),
    Flag("kernel_file", str, "motion-blur: picture or .npy file of the kernel", "FILE"),
    Flag("blur_length", float, "motion-blur: length of a random path in pixels", "PIXELS"),
    Flag("blur_shake", float, "motion-blur: 0 a straight path, 1 very shaky"),
    Flag("weights", str, "nonlinear-blur: folder or Hub id of the network"),
    Flag("kernel_scale", float, "nonlinear-blur: strength of the random blur"),
    Flag("factor", int, "downsampling: how many times fewer pixels along each side"),
    Flag("filter", str, "downsampling: bicubic or box"),
    Flag("enlarged", float, "enlargement: how many times along each side"),
    Flag("jpeg_quality", float, "jpeg: quality of the encoder, 1 to 100"),
    Flag("chroma", str, "jpeg: 420 or 444"),
)

SOLVER_FLAGS = (
    Flag("dc_step", float, "step of the data-consistency gradient (eta in the paper)"),
    Flag("guidance", str, "ldps, gml-dps, psld: norm (the paper's) or bayes"),
    Flag("model_std", float, "bayes: error of the first stage, on intensities"),
    Flag("ae_weight", float, "gml-dps, psld: weight of the autoencoder consistency (gamma in the paper)"),
    Flag("gamma", float, "resample: trust in the solved latent"),
    Flag("every", int, "resample: correct at every n-th step"),
    Flag("pixels_below", int, "resample: no correction at timesteps above this"),
    Flag("latent_below", int, "resample: corrections in the latent up to this timestep"),
    Flag("inner_steps", int, "resample: optimiser steps of a correction at most"),
    Flag("inner_lr", float, "resample: learning rate of a correction"),
    Flag("inner_stop", float, "resample: stop at this many times the noise"),
    Flag("proximal", float, "resample: pull towards the predicted latent"),
    Flag("resampling", str, "resample: exact, or reference"),
)

OPERATOR_NAMES = (
    "gaussian-blur, motion-blur, nonlinear-blur, jpeg, downsampling, enlargement, random-inpainting, box-inpainting, random-box-inpainting, "
    "gaussian-inpainting, mask-inpainting, identity; a+b for a chain"
)
SOLVER_NAMES = ("gml-dps", "ldps", "psld", "resample", "unguided")


def solver_help() -> str:
    """The solvers by name, plug-ins included; nothing of them is imported."""
    names = sorted({*SOLVER_NAMES, *(entry.name for entry in entry_points(group="flashdiff.solvers"))})
    return f"How reverse steps agree with the measurement: {', '.join(names)} (default: the model's)"


def with_flags(flags: tuple[Flag, ...], panel: str) -> Callable:
    """Give a command one option for each flag; it receives them as keyword arguments (**values)."""

    def decorate(function: Callable) -> Callable:
        signature = inspect.signature(function, eval_str=True)
        kept = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        added = [
            inspect.Parameter(
                flag.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[
                    Optional[flag.type],
                    typer.Option("--" + flag.name.replace("_", "-"), help=flag.help, metavar=flag.metavar, rich_help_panel=panel),
                ],
            )
            for flag in flags
        ]
        rest = [p for p in signature.parameters.values() if p.kind is inspect.Parameter.VAR_KEYWORD]
        function.__signature__ = signature.replace(parameters=[*kept, *added, *rest])
        function.__annotations__ = {p.name: p.annotation for p in (*kept, *added)}
        return function

    return decorate


def closed(function: Callable) -> Callable:
    """Drop the **values of a decorated command from what Typer sees."""
    signature = inspect.signature(function)
    function.__signature__ = signature.replace(
        parameters=[p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    )
    return function


def split(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(operator options, solver options) that were given."""
    parts = ({f.name for f in OPERATOR_FLAGS}, {f.name for f in SOLVER_FLAGS})
    return tuple({k: v for k, v in values.items() if k in part and v is not None} for part in parts)
