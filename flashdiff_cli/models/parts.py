"""All parts of a model, loaded: its own, and those of the model that it builds on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from flashdiff_cli.bounded import in_one_line
from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.models.base import base_folder
from flashdiff_cli.models.loading import check_supported, component_folder, load_component, read_index
from flashdiff_cli.models.prompt_cache import load_prompt
from flashdiff_cli.models.resolve import resolve_model
from flashdiff_cli.plan import ModelDefaults

NEEDED = ("first_stage", "unet", "scheduler")


def load_parts(
    model: str | Path,
    optional: Sequence[str],
    revision: str | None = None,
    offline: bool = False,
    cache_dir: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    prompt: str | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Find a model, fetch it where it is not on this machine, and load its components and what it says of itself.

    Args:
        model: a folder, a name of the registry, or `owner/name[@revision]` on the Hugging Face Hub.
        optional: the components that it may have besides first stage, network and scheduler.
        revision: branch, tag or commit on the Hub.
        offline: use what is on this machine.
        cache_dir: instead of the Hub's standard cache.
        dtype: of all weights.
        variant: of the weights' files, e.g. "fp16", where the model has it.
        prompt: that a text-to-image model is told; None: the one that it was saved with, or "".

    Returns:
        its folder, and its components and `defaults` by name.

    Raises:
        UsageError: nothing goes by this name, or a prompt for a model that takes none.
        FlashdiffError: it cannot be fetched or is not supported, or a component is missing or damaged.
    """
    folder = resolve_model(str(model), revision, offline, cache_dir, variant=variant)
    if not (folder / "model_index.json").exists():
        raise FlashdiffError(f"{folder}: no model_index.json in it; give a model folder in the diffusers layout")
    index = read_index(folder)
    base = base_folder(folder, index, offline, cache_dir, variant)
    root = folder if base is None else base
    root_index = index if base is None else read_index(base)
    check_supported(root, root_index.get("_class_name"))
    parts: dict[str, Any] = {"prompt": load_prompt(folder, root, root_index, prompt, dtype)}
    for role in (*NEEDED, *(role for role in optional if role not in parts)):
        here = next((place for place in (folder, root) if component_folder(place, role) is not None), None)
        if here is not None or role in NEEDED:
            parts[role] = load_component(here or root, role, dtype, variant)
    with in_one_line(folder, "download or convert the model again"):
        parts["defaults"] = ModelDefaults.read(index["defaults"], f"{folder / 'model_index.json'}: defaults")
    return folder, parts


__all__ = ["load_parts"]
