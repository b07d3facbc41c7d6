"""What a trained component needs to be a model: an index that refers to the model it was trained for, its prompt, and a card."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashdiff_cli.hub.configs import read_config
from flashdiff_cli.hub.names import hub_id
from flashdiff_cli.hub.paths import new_folder
from flashdiff_cli.hub.registry import known_models
from flashdiff_cli.models.base import KEY, base_entry, base_folder
from flashdiff_cli.models.loading import component_folder, read_index
from flashdiff_cli.models.prompt_cache import load_prompt
from flashdiff_cli.models.resolve import resolve_model
from flashdiff_cli.pages import write_text

COMPONENTS = {
    "first_stage": "diffusers",
    "unet": "diffusers",
    "scheduler": "diffusers",
    "severity": "flashdiff_cli.severity",
    "severity_mixed": "flashdiff_cli.severity",
    "severity_inpainting": "flashdiff_cli.severity",
    "classifier": "flashdiff_cli.classifier",
    "blur_estimator": "flashdiff_cli.blur_estimator",
    "last_step": "flashdiff_cli.last_step",
    "last_step_mixed": "flashdiff_cli.last_step",
}
"""The library of each component, as `model_index.json` names it."""


@dataclass(frozen=True)
class BaseModel:
    """The model that a component is trained for."""

    folder: Path
    """Where its first stage and its network lie."""
    name: str
    """Registered name, Hub id or folder."""
    revision: str | None = None
    """Commit on the Hub."""
    whole: bool = False
    """Whether it has all that a model needs, so that one can refer to it."""

    @classmethod
    def find(cls, model: str | Path) -> BaseModel:
        """Find the model that a name, Hub id or folder means; one that itself refers to another means that one.

        Raises:
            UsageError: nothing goes by this name.
            FlashdiffError: it cannot be fetched.
        """
        folder = resolve_model(str(model))
        index = read_index(folder) if (folder / "model_index.json").is_file() else {}
        below = base_folder(folder, index)
        if below is not None and component_folder(folder, "first_stage") is None:
            name, revision = base_entry(index, folder) or ("", None)
            return cls(below, name if revision else str(below), revision, True)
        whole = bool(index) and all(component_folder(folder, role) is not None for role in ("first_stage", "unet", "scheduler"))
        if folder.resolve().parent.name == "snapshots":
            return cls(folder, hub_id(str(model))[0], folder.resolve().name, whole)
        return cls(folder, str(model), None, whole)

    def entry(self, beside: Path) -> dict[str, Any]:
        """Return the reference to it from a model in the folder `beside`."""
        if self.revision is not None:
            return {"model": self.name, "revision": self.revision}
        if self.name in known_models() and not Path(self.name).is_dir():
            return {"model": self.name}
        return {"model": os.path.relpath(self.folder.resolve(), beside.resolve())}


def write_index(model: Path, defaults: dict[str, Any]) -> Path:
    """Write `model_index.json` for the components that a model folder has, whole or not at all; return its path."""
    index: dict[str, Any] = {"_class_name": "FlashDiffusionPipeline", "defaults": defaults}
    for name, library in COMPONENTS.items():
        if (model / name).is_dir():
            config = model / name / ("scheduler_config.json" if name == "scheduler" else "config.json")
            index[name] = [library, read_config(config)["_class_name"]]
    path = model / "model_index.json"
    write_text(json.dumps(index, indent=2) + "\n", path)
    return path


def write_model(folder: Path, base: BaseModel, components: dict[str, list[str]], prompt: str | None, figures: dict[str, float]) -> None:
    """Make a folder of trained components a model that builds on another.

    Args:
        folder: with the components.
        base: the model that they were trained for.
        components: their libraries and classes by name, as `model_index.json` has them.
        prompt: that the model is told; None: "".
        figures: of the last validation, for the card.

    Raises:
        FlashdiffError: the disk refuses, or the prompt cannot be embedded.
    """
    index: dict[str, Any] = {"_class_name": "FlashDiffusionPipeline", KEY: base.entry(folder), "defaults": {}, **components}
    embedded = load_prompt(base.folder, base.folder, read_index(base.folder), prompt)
    if embedded is not None:
        with new_folder(folder / "prompt", "is there room on the disk?", replace=True) as part:
            embedded.save_pretrained(part, safe_serialization=True)
        index["prompt"] = ["flashdiff_cli.prompt", "PromptEmbeddings"]
    write_text(_card(folder, base, components, figures), folder / "README.md")
    write_text(json.dumps(index, indent=2) + "\n", folder / "model_index.json")


def _card(folder: Path, base: BaseModel, components: dict[str, list[str]], figures: dict[str, float]) -> str:
    """Return a model card: what it builds on, what its encoder was trained on, what was measured."""
    reference = base.entry(folder)
    known = f"base_model: {reference['model']}\n" if base.revision is not None else ""
    lines = [
        f"---\n{known}library_name: flashdiff\ntags:\n- image-restoration\n- flash-diffusion\n---\n",
        f"# Severity encoder for {reference['model']}\n",
    ]
    at = f" at revision `{base.revision}`" if base.revision else ""
    lines.append(f"Restores pictures with `{reference['model']}`{at}, which is fetched when it is used: its terms hold for what is made with it.\n")
    lines.append("```sh\nflashdiff restore photo.png --model FOLDER_OR_ID\n```\n")
    for name in components:
        degradations = read_config(folder / name / "config.json").get("degradations") or []
        lines.append(f"`{name}` was trained on:\n")
        lines += [f"- {', '.join(f'{k} {v}' for k, v in d.items())}" for d in degradations]
        lines.append("")
    if figures:
        lines.append("Last validation:\n\n| figure | value |\n| --- | --- |")
        lines += [f"| {name} | {value} |" for name, value in figures.items()]
    return "\n".join(lines) + "\n"
