"""One stage of a training: the data and the model that a recipe needs, the trainer, and a folder that becomes a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flashdiff_cli.bounded import in_one_line
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.training.recipe import Recipe

CLAIM = "training.json"
"""Says which stage keeps its checkpoint in a folder itself."""


def train(
    recipe: Recipe,
    data: dict[str, list[str]],
    validation: dict[str, list[str]] | None,
    folder: str | Path,
    model: str | Path | None = None,
    resume: bool = True,
    device: str = "auto",
    callback: Callable[[dict], None] | None = None,
    prompt: str | None = None,
) -> dict[str, float]:
    """Train one network by a recipe.

    A folder that several stages train into becomes a model as soon as it has first stage, network and scheduler. A severity encoder for a model
    that stands elsewhere becomes one at once, which refers to that model.

    Args:
        recipe: what to train and how.
        data: folders and tar shards by the group names of the recipe.
        validation: folders or shards by the name that their figures get; None: a tenth of the data is held out.
        folder: receives checkpoints, log, sample grids and the finished component; continued if it has a checkpoint.
        model: name, Hub id or folder of the model whose first stage the stages `diffusion` and `severity` need; None: `folder`, if it has one.
        resume: False starts anew even if there is a checkpoint.
        device: "auto", "cpu", "cuda" or "mps".
        callback: see `Trainer`.
        prompt: that a text-to-image model is told, kept with its severity encoder; None: "".

    Returns:
        The last validation figures.

    Raises:
        FlashdiffError: data, model or checkpoint cannot be read, or the folder holds what no training has made.
        UsageError: data groups do not match the recipe.
    """
    from flashdiff_cli.models.loading import component_folder
    from flashdiff_cli.training.published import BaseModel
    from flashdiff_cli.training.trainer import Trainer

    sources, held_out = _pictures(recipe, data, validation)
    folder = Path(folder)
    if model is None and recipe.stage in ("diffusion", "severity") and component_folder(folder, "first_stage") is not None:
        model = folder
    base = None if model is None else BaseModel.find(model)
    task = make_task(recipe, sources, held_out, base and base.folder)
    work = work_folder(folder, recipe.stage)
    if resume:
        parts = [task.component, *(["scheduler"] if recipe.stage == "diffusion" else [])]
        check_folder(work, ["sheets"], [folder / name for name in parts])
    if work == folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CLAIM).write_text(json.dumps({"stage": recipe.stage}), encoding="utf-8")
    trainer = Trainer(recipe, task, sources, work, callback, device, folder)
    if resume:
        trainer.resume()
    figures = trainer.run()
    if trainer.accelerator.is_main_process:
        _complete(folder, task.component, base, prompt, figures)
    trainer.accelerator.wait_for_everyone()
    return figures


def _pictures(recipe: Recipe, data: dict[str, list[str]], validation: dict[str, list[str]] | None) -> tuple[list[Any], dict[str, list[Any]]]:
    """Return what is trained on, group by group, and the pictures for validation by name; arguments as for `train`.

    Raises:
        UsageError: data groups do not match the recipe, or nothing is left to validate on.
        FlashdiffError: data cannot be read.
    """
    from flashdiff_cli.training.data import Source, hold_out, validation_images

    groups = recipe.data or [{"name": name} for name in data]
    names = [group["name"] for group in groups]
    if missing := [name for name in names if name not in data]:
        raise UsageError(f"the recipe needs `data` {missing[0]}=PATH as well")
    if extra := [name for name in data if name not in names]:
        raise UsageError(f"`data` {extra[0]}=...: the recipe has no group of that name; it has {', '.join(names)}")
    sources = [Source.parse(group | {"paths": data[group["name"]]}) for group in groups]
    limit, multiple = recipe.validation_limit, recipe.size_multiple
    if validation is None:
        sources, held_out = hold_out(sources, names, limit, multiple)
    else:
        held_out = {name: [image for path in paths for image in validation_images(path, limit, multiple)] for name, paths in validation.items()}
    if not held_out:
        raise UsageError("give at least one `val` NAME=PATH: a run without a validation figure shows nothing")
    return sources, held_out


def work_folder(folder: Path, stage: str) -> Path:
    """Return where a stage keeps its checkpoint and log: in the folder itself, unless another stage does so already."""
    from flashdiff_cli.hub.configs import read_config

    own, claim = folder / f"{stage}-training", folder / CLAIM
    if own.is_dir() or (claim.is_file() and read_config(claim).get("stage") != stage):
        return own
    return folder


def _complete(folder: Path, component: str, base: Any, prompt: str | None, figures: dict[str, float]) -> None:
    """Make a folder that has what a model needs one; without `base` what was trained stands by itself."""
    from flashdiff_cli.hub.configs import read_config
    from flashdiff_cli.models.loading import component_folder
    from flashdiff_cli.training.published import COMPONENTS, write_index, write_model

    if all(component_folder(folder, role) is not None for role in ("first_stage", "unet", "scheduler")):
        index = folder / "model_index.json"
        write_index(folder, read_config(index).get("defaults", {}) if index.is_file() else {})
    elif base is not None and base.whole and component.startswith("severity"):
        index = {component: [COMPONENTS["severity"], "SeverityEncoder"]}
        write_model(folder, base, index, prompt, figures)


def check_folder(folder: Path, names: list[str], parts: Sequence[Path] = ()) -> None:
    """Raise a FlashdiffError if a folder holds what a training would write, by name, and no training has made it.

    Args:
        folder: where the training keeps its checkpoint and log.
        names: what it writes there.
        parts: what it writes elsewhere.
    """
    from flashdiff_cli.training.trainer import CHECKPOINT, LOG, made_by_training

    if (folder / CHECKPOINT).exists() or made_by_training(folder / LOG):
        return
    there = [path for path in (*(folder / name for name in (LOG, *names)), *parts) if path.exists()]
    if there:
        raise FlashdiffError(f"{there[0]}: exists already, and no training has made it; choose another `out`, or pass `restart`")


def make_task(recipe: Recipe, sources: list, held_out: dict, model: str | Path | None) -> Any:
    """Return what a stage trains, and how.

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
    if recipe.stage == "blur":
        from flashdiff_cli.training.blur import BlurTask

        return BlurTask(recipe, held_out)
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
