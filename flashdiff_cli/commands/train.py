"""flashdiff train"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from flashdiff_cli import lean
from flashdiff_cli.commands import options
from flashdiff_cli.commands.extras import require


class Stage(str, Enum):
    """What can be trained."""

    autoencoder = "autoencoder"
    diffusion = "diffusion"
    severity = "severity"
    classifier = "classifier"
    last_step = "last-step"
    blur = "blur"
    model = "model"


Groups = Annotated[
    list[str],
    typer.Option("--data", help="Training pictures: a folder or tar, as NAME=PATH for a recipe's groups; again.", metavar="PATH", show_default=False),
]
HeldOut = Annotated[
    list[str] | None,
    typer.Option("--val", help="Pictures for validation figures (default: a tenth of the data); again.", metavar="PATH", show_default=False),
]
UNNAMED = "pictures"
"""Name of the group of pictures that are given without one."""


def _groups(pairs: list[str], flag: str) -> dict[str, list[str]]:
    from flashdiff_cli.errors import UsageError

    groups: dict[str, list[str]] = {}
    for pair in pairs:
        name, found, path = pair.partition("=")
        if not found or Path(pair).exists():
            name, path = UNNAMED, pair
        if not name or not path:
            raise UsageError(f"{flag} {pair!r}: give it as PATH or NAME=PATH")
        groups.setdefault(name, []).append(path)
    return groups


def train(
    stage: Annotated[Stage, typer.Argument(help="Which network; `model`: all of them, one after the other.", show_default=False)],
    data: Groups,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe", help="TOML file, or autoencoder, severity, diffusion (default: the stage's); of a whole model a folder.", show_default=False
        ),
    ] = None,
    val: HeldOut = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of checkpoints, log, sample grids and the result (default: STAGE-model).", show_default=False),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model whose first stage is used (diffusion, severity): name, Hub id or folder.")
    ] = None,
    prompt: options.Prompt = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Time budget instead of the recipe's.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Step budget instead of the recipe's.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Batch size instead of the recipe's.")] = None,
    accumulate: Annotated[int | None, typer.Option("--accumulate", min=1, help="Passes of a batch, one after the other: less memory.")] = None,
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
    with lean.start():
        from flashdiff_cli.training.recipe import Recipe, find_recipe
        from flashdiff_cli.training.stages import train as run

    target = out or Path(f"{stage.value}-model")
    if stage is Stage.model:
        from flashdiff_cli.training.whole import train_whole

        if minutes is None or recipe is None or not val:
            missing = "--minutes: the time for all stages together" if minutes is None else "--recipe: a folder" if recipe is None else "--val"
            raise UsageError(f"train model needs {missing}")
        with TrainingBar(quiet) as bar:
            made = train_whole(recipe, _groups(data, "--data"), _groups(val, "--val"), target, minutes, device, bar)
        errors().print(f"{made}: a model for flashdiff restore --model")
        return
    budget = {"minutes": minutes, "steps": steps, "batch": batch, "precision": precision, "workers": workers, "seed": seed, "accumulate": accumulate}
    plan = Recipe.load(find_recipe(recipe or stage.value), **budget)
    if plan.stage != stage.value:
        raise UsageError(f"--recipe {recipe}: a recipe for {plan.stage}, not for {stage.value}")
    with TrainingBar(quiet) as bar:
        figures = run(plan, _groups(data, "--data"), _groups(val, "--val") if val else None, target, model, not restart, device, bar, prompt)
    for name, value in figures.items():
        errors().print(f"{name:28} {value}")
