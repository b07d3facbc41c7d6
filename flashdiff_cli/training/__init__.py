"""Training of the three networks of a model; `train` is the verb that the command calls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flashdiff_cli.bounded import in_one_line
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.training.recipe import Recipe


def train(
    recipe: Recipe,
    data: dict[str, list[str]],
    validation: dict[str, list[str]],
    folder: str | Path,
    model: str | Path | None = None,
    resume: bool = True,
    device: str = "auto",
    callback: Callable[[dict], None] | None = None,
) -> dict[str, float]:
    """Train one network by a recipe.

    Args:
        recipe: what to train and how.
        data: folders and tar shards by the group names of the recipe.
        validation: folders or shards by the name that their figures get.
        folder: receives checkpoints, log, sheets and the finished component; continued if it has a checkpoint.
        model: folder of the model whose first stage the stages `diffusion` and `severity` need.
        resume: False starts anew even if there is a checkpoint.
        device: "auto", "cpu", "cuda" or "mps".
        callback: see `Trainer`.

    Returns:
        The last validation figures.

    Raises:
        FlashdiffError: data, model or checkpoint cannot be read, or the folder holds what no training has made.
        UsageError: data groups do not match the recipe.
    """
    from flashdiff_cli.training.data import Source, validation_images
    from flashdiff_cli.training.trainer import Trainer

    groups = recipe.data or [{"name": name} for name in data]
    names = [group["name"] for group in groups]
    if missing := [name for name in names if name not in data]:
        raise UsageError(f"the recipe needs `data` {missing[0]}=PATH as well")
    if extra := [name for name in data if name not in names]:
        raise UsageError(f"`data` {extra[0]}=...: the recipe has no group of that name; it has {', '.join(names)}")
    sources = [Source.parse(group | {"paths": data[group["name"]]}) for group in groups]
    held_out = {
        name: [image for path in paths for image in validation_images(path, recipe.validation_limit, recipe.size_multiple)]
        for name, paths in validation.items()
    }
    if not held_out:
        raise UsageError("give at least one `val` NAME=PATH: a run without a validation figure shows nothing")
    task = make_task(recipe, sources, held_out, model)
    if resume:
        check_folder(Path(folder), ["sheets", task.component, *(["scheduler"] if recipe.stage == "diffusion" else [])])
    trainer = Trainer(recipe, task, sources, folder, callback, device)
    if resume:
        trainer.resume()
    return trainer.run()


def check_folder(folder: Path, names: list[str]) -> None:
    """Raise a FlashdiffError if a folder holds what a training would write, by name, and no training has made it."""
    from flashdiff_cli.training.trainer import CHECKPOINT, LOG, made_by_training

    if (folder / CHECKPOINT).exists() or made_by_training(folder / LOG):
        return
    there = [name for name in (LOG, *names) if (folder / name).exists()]
    if there:
        raise FlashdiffError(f"{folder / there[0]}: exists already, and no training has made it; choose another `out`, or pass `restart`")


def make_task(recipe: Recipe, sources: list, held_out: dict, model: str | Path | None) -> Any:
    """What a stage trains, and how.

    Raises:
        UsageError: the recipe asks for what cannot be made, or a model is missing.
        FlashdiffError: the model cannot be read.
    """
    with in_one_line("[model], [loss] or [[degradation]] of the recipe", "check its entries", UsageError):
        return _make_task(recipe, sources, held_out, model)


def _make_task(recipe: Recipe, sources: list, held_out: dict, model: str | Path | None) -> Any:
    if recipe.stage == "autoencoder":
        from flashdiff_cli.training.autoencoder import AutoencoderTask

        return AutoencoderTask(recipe, sources, held_out)
    if recipe.stage == "classifier":
        from flashdiff_cli.training.classifier import ClassifierTask

        return ClassifierTask(recipe, held_out)
    if recipe.stage == "last-step":
        from flashdiff_cli.training.last_step import LastStepTask

        return LastStepTask(recipe, held_out, None if model is None else Path(model))
    if model is None:
        raise UsageError(f"train {recipe.stage} needs `model`: the folder whose first stage it works with")
    if recipe.stage == "diffusion":
        from flashdiff_cli.training.diffusion import DiffusionTask as Stage
    else:
        from flashdiff_cli.training.severity import SeverityTask as Stage
    return Stage(recipe, held_out, Path(model))
