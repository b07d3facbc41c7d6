"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flashdiff_cli.commands import complete
from flashdiff_cli.commands.flags import OPERATOR_NAMES
from flashdiff_cli.storage.url import location

Inputs = Annotated[
    list[Any],  # Path | Url, which the command-line library does not take
    typer.Argument(
        metavar="INPUT...",
        help="Picture files, folders, archives and patterns, here or as URLs (s3://, https://, ...); - reads names from stdin.",
        show_default=False,
        parser=location,
    ),
]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Look in subfolders too.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Do the first so many pictures.", show_default=False)]
Tile = Annotated[int, typer.Option("--tile", help="Cut pictures with longer sides into tiles of this side; 0: never.", rich_help_panel="Method")]
Model = Annotated[
    str, typer.Option("--model", "-m", help="Model: a name, a folder, or owner/name@revision on the Hub.", autocompletion=complete.models)
]
Prompt = Annotated[
    str | None,
    typer.Option("--prompt", help="What a text-to-image model is told of the pictures (default: what it was saved with, or nothing)."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.", autocompletion=complete.devices)]
Dtype = Annotated[
    str,
    typer.Option("--dtype", help="auto (bfloat16 on a processor made for it), float32, float16 or bfloat16.", autocompletion=complete.dtypes),
]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network: cached models only.")]
Seed = Annotated[int, typer.Option("--seed", help="Of all random draws, together with the picture's content.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON record a picture, and nothing else, on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Operator = Annotated[
    str | None,
    typer.Option(
        "--operator",
        help=f"What degraded the picture (default: estimated from it): {OPERATOR_NAMES}.",
        autocompletion=complete.operators,
        rich_help_panel="Degradation",
    ),
]
Mask = Annotated[
    str | None,
    typer.Option(
        "--mask",
        metavar="FILE|alpha",
        help="Fill what is missing: a picture, white where pixels are kept (short for --operator mask-inpainting --mask-file); "
        "alpha: what the picture's own transparency hides.",
        rich_help_panel="Degradation",
    ),
]
Kernel = Annotated[
    str | None,
    typer.Option(
        "--kernel",
        metavar="FILE",
        help="Undo a blur by this kernel: a picture or .npy file (short for --operator motion-blur --kernel-file).",
        rich_help_panel="Degradation",
    ),
]
Noise = Annotated[
    float | None,
    typer.Option(
        "--noise-std",
        help="Noise on intensities from 0 to 1 (default: estimated from the picture; much more that a blurred one plainly shows is heeded).",
        rich_help_panel="Degradation",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", help="Length of the whole process, of which a picture runs a part (default: the model's).", rich_help_panel="Method"),
]
Encoder = Annotated[
    str | None,
    typer.Option("--encoder", help="Severity encoder of the model (default: the one trained on the operator).", rich_help_panel="Method"),
]
Multiplier = Annotated[
    float | None,
    typer.Option("--variance-multiplier", help="Factor on the estimated variance before the start is chosen.", rich_help_panel="Method"),
]
Scale = Annotated[
    int | None,
    typer.Option(
        "--scale",
        min=2,
        max=4,
        help="Enlarge a small, sharp picture so many times along each side (short for --operator downsampling --factor).",
        rich_help_panel="Degradation",
    ),
]
Fast = Annotated[
    bool,
    typer.Option("--fast", help="Only the encoder's estimate and the last step: no diffusion steps, a fifth of the time."),
]
