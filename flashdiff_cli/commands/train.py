"""flashdiff train"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from flashdiff_cli.commands import options
from flashdiff_cli.commands.extras import require


class Stage(str, Enum):
    """What can be trained."""

    autoencoder = "autoencoder"
    diffusion = "diffusion"
    severity = "severity"
    classifier = "classifier"
    last_step = "last-step"
    model = "model"


Groups = Annotated[
    list[str],
    typer.Option("--data", help="Training pictures, NAME=FOLDER_OR_TAR; may be given again.", metavar="NAME=PATH", show_default=False),
]
HeldOut = Annotated[
    list[str],
    typer.Option("--val", help="Pictures for validation figures; may be given again.", metavar="NAME=PATH", show_default=False),
]


def _groups(pairs: list[str], flag: str) -> dict[str, list[str]]:
    from flashdiff_cli.errors import UsageError

    groups: dict[str, list[str]] = {}
    for pair in pairs:
        name, found, path = pair.partition("=")
        if not found or not name or not path:
            raise UsageError(f"{flag} {pair!r}: give it as NAME=PATH")
        groups.setdefault(name, []).append(path)
    return groups


def train(
    stage: Annotated[Stage, typer.Argument(help="Which network; `model`: all of them, one after the other.", show_default=False)],
    recipe: Annotated[
        Path,
        typer.Option(
            "--recipe", help="TOML file, of a whole model a folder of them; weights/photos/recipes/ has the shipped model's.", show_default=False
        ),
    ],
    data: Groups,
    val: HeldOut,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of checkpoints, log, sheets and the result.", show_default=False)],
    model: Annotated[Path | None, typer.Option("--model", "-m", help="Model folder with a finished first stage (diffusion, severity).")] = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Time budget instead of the recipe's.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Step budget instead of the recipe's.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Batch size instead of the recipe's.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="auto, no, bf16 or fp16.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=0, help="Processes that read pictures.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Instead of the recipe's.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew even if --out has a checkpoint.")] = False,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
) -> None:
    """Train a network of a model. A killed run continues exactly where its last checkpoint was: run it again.

    Example:

    flashdiff train severity --recipe severity.toml --model my-model/ --data faces=faces/ --out run/severity
    """
    from flashdiff_cli.commands.show import errors
    from flashdiff_cli.commands.training_bar import TrainingBar
    from flashdiff_cli.errors import UsageError

    require("train", "training needs")
    from flashdiff_cli.training import train as run
    from flashdiff_cli.training.recipe import Recipe

    if stage is Stage.model:
        from flashdiff_cli.training.whole import train_whole

        if minutes is None:
            raise UsageError("train model needs --minutes: the time for all stages together")
        with TrainingBar(quiet) as bar:
            made = train_whole(recipe, _groups(data, "--data"), _groups(val, "--val"), out, minutes, device, bar)
        errors().print(f"{made}: a model for flashdiff restore --model")
        return
    budget = {"minutes": minutes, "steps": steps, "batch": batch, "precision": precision, "workers": workers, "seed": seed}
    plan = Recipe.load(recipe, **budget)
    if plan.stage != stage.value:
        raise UsageError(f"--recipe {recipe}: a recipe for {plan.stage}, not for {stage.value}")
    with TrainingBar(quiet) as bar:
        figures = run(plan, _groups(data, "--data"), _groups(val, "--val"), out, model, not restart, device, bar)
    for name, value in figures.items():
        errors().print(f"{name:28} {value}")
