"""flashdiff convert"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Kind(str, Enum):
    """What a checkpoint holds."""

    ldm = "ldm"
    severity = "severity"
    nonlinear_blur = "nonlinear-blur"


def convert(
    kind: Annotated[Kind, typer.Argument(help="What the checkpoint holds.", show_default=False)],
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Original .ckpt or .pth file.", show_default=False)],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="New folder; for severity, MODEL/severity.", show_default=False)],
    config: Annotated[Path | None, typer.Option("--config", help="ldm: the model's config.yaml (default: the one beside SOURCE).")] = None,
    raw_weights: Annotated[
        bool, typer.Option("--raw-weights", help="ldm: take the raw weights of the UNet, not the EMA ones that sampling needs.")
    ] = False,
    scaling_factor: Annotated[
        float | None,
        typer.Option("--scaling-factor", help="severity: of its first stage (default: that of the model folder around TARGET, or 1)."),
    ] = None,
) -> None:
    """Turn an original checkpoint into a folder with safetensors. No code that the file carries is run.

    Examples:

    flashdiff convert ldm model.ckpt my-model/

    flashdiff convert severity encoder.ckpt my-model/severity
    """
    from flashdiff_cli.errors import UsageError

    for option, given, meant in (
        ("--config", config is not None, Kind.ldm),
        ("--raw-weights", raw_weights, Kind.ldm),
        ("--scaling-factor", scaling_factor is not None, Kind.severity),
    ):
        if given and kind is not meant:
            raise UsageError(f"{option} belongs to convert {meant.value}")
    from flashdiff_cli.models.convert import convert_ldm, convert_nonlinear_blur, convert_severity

    if kind is Kind.ldm:
        done = convert_ldm(source, target, config, raw_weights)
    elif kind is Kind.severity:
        done = convert_severity(source, target, scaling_factor)
    else:
        done = convert_nonlinear_blur(source, target)
    print(f"{done.target}: {done.tensors} tensors converted, {done.left_out} left out (buffers and training state)")
    if done.ema is not None:
        print("UNet weights: " + ("EMA" if done.ema else "raw, not EMA: expect worse samples"))
    if done.scaling_factor is not None:
        print(f"scaling factor of the first stage: {done.scaling_factor:g}")
