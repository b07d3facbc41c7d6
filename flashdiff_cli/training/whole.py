"""Training of a whole model from nothing: every stage in turn within one budget, into a folder that restores pictures."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flashdiff_cli.bounded import read_toml
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.training.published import COMPONENTS, write_index
from flashdiff_cli.training.recipe import Recipe
from flashdiff_cli.training.stages import train


def read_stages(folder: str | Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Read `model.toml` of a folder of recipes.

    Returns:
        its [[stage]] tables (`recipe`, a file beside it; `share` of the minutes) in order, and its [defaults], which become the model's.

    Raises:
        UsageError: the file is missing or is no such list.
    """
    path = Path(folder) / "model.toml"
    try:
        values = read_toml(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot read ({error.strerror}); give a folder of recipes with a model.toml") from error
    except FlashdiffError as error:
        raise UsageError(str(error)) from error
    except ValueError as error:
        raise UsageError(f"{path}: not valid TOML ({error})") from error
    stages = values.get("stage", [])
    good = isinstance(stages, list) and stages and all(isinstance(s, dict) and isinstance(s.get("recipe"), str) for s in stages)
    if not good or not all(isinstance(s.get("share"), (int, float)) and s["share"] > 0 for s in stages):
        raise UsageError(f"{path}: give [[stage]] tables with a recipe (a file name) and a share of the time above 0")
    return stages, values.get("defaults", {})


def train_whole(
    recipes: str | Path,
    data: dict[str, list[str]],
    validation: dict[str, list[str]],
    out: str | Path,
    minutes: float,
    device: str = "auto",
    callback: Callable[[dict], None] | None = None,
) -> Path:
    """Train every stage of a model, each in its share of the minutes; a run that was stopped goes on where it was.

    Args:
        recipes: folder with `model.toml` and the recipes that it names.
        data, validation: folders and shards by group name, as for `train`.
        out: receives `model/`, which `restore --model` takes, and `stages/` with checkpoints and logs.
        minutes: for all stages together.
        device: "auto", "cpu", "cuda" or "mps".
        callback: see `Trainer`; every event also has `stage`.

    Returns:
        the model's folder.

    Raises:
        UsageError: recipes that make no sense.
        FlashdiffError: data or a checkpoint cannot be read, or the folder holds what no training has made.
    """
    stages, defaults = read_stages(recipes)
    whole = sum(stage["share"] for stage in stages)
    out = Path(out)
    model = out / "model"
    if not (out / "stages").is_dir() and model.is_dir() and any(model.iterdir()):
        raise FlashdiffError(f"{model}: exists already, and no training has made it; choose another `out`")
    (out / "stages").mkdir(parents=True, exist_ok=True)
    model.mkdir(exist_ok=True)
    for number, stage in enumerate(stages):
        recipe = Recipe.load(Path(recipes) / stage["recipe"], minutes=minutes * stage["share"] / whole)
        # The time is what is given here; a recipe's own number of steps belongs to another budget.
        recipe.steps = None
        folder = out / "stages" / f"{number}-{Path(stage['recipe']).stem}"
        finished = folder / "finished"
        if finished.exists():
            continue
        report = None if callback is None else lambda event, name=stage["recipe"]: callback(event | {"stage": name})
        groups = [group["name"] for group in recipe.data] or list(data)
        train(recipe, {k: v for k, v in data.items() if k in groups}, validation, folder, model, device=device, callback=report)
        for part in sorted(p for p in folder.iterdir() if p.is_dir() and p.name in COMPONENTS):
            shutil.rmtree(model / part.name, ignore_errors=True)
            shutil.copytree(part, model / part.name)
        finished.touch()
    write_index(model, defaults)
    return model
