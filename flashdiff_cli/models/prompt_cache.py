"""The embeddings of a model's prompt: kept with the model, or from an earlier run, or computed now and kept for the next."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.hub.configs import read_config
from flashdiff_cli.hub.paths import converted_folder, new_folder
from flashdiff_cli.models.loading import component_folder, load_component
from flashdiff_cli.models.text_encoders import PIPELINES, embed, encoder_folders
from flashdiff_cli.prompt import PromptEmbeddings


def load_prompt(
    folder: Path, root: Path, index: dict[str, Any], prompt: str | None = None, dtype: torch.dtype = torch.float32
) -> PromptEmbeddings | None:
    """Return the embeddings of a prompt for a model; None if its network takes none.

    Args:
        folder: the model's.
        root: the folder with its network and text encoders: the same, or that of the model which it builds on.
        index: the `model_index.json` of `root`.
        prompt: None: the one that is kept with the model, or "".
        dtype: of the embeddings.

    Raises:
        UsageError: a prompt for a network that takes none.
        FlashdiffError: its text encoders are missing or damaged.
    """
    place = component_folder(root, "unet")
    network = None if place is None else read_config(place / "config.json").get("_class_name")
    if not isinstance(network, str) or network not in PIPELINES:
        if prompt is not None:
            raise UsageError(f"`prompt`: {root} is an unconditional model, which takes none")
        return None
    for where in dict.fromkeys((folder, root)):
        kept = component_folder(where, "prompt")
        if kept is not None and prompt in (None, read_config(kept / "config.json").get("text")):
            return load_component(where, "prompt", dtype)
    text = prompt or ""
    cache = converted_folder(f"prompts/{_identity(root, network, text)}")
    if component_folder(cache, "prompt") is None:
        found = embed(root, network, text, index)
        try:
            with new_folder(cache, "is there room on the disk?", replace=True) as part:
                found.save_pretrained(part / "prompt", safe_serialization=True)
        except FlashdiffError:
            found.to(dtype=dtype)  # pyright: ignore[reportCallIssue]
            return found  # a disk that cannot be written to costs the next run a few seconds, and nothing else
    return load_component(cache, "prompt", dtype)


def _identity(root: Path, network: str, text: str) -> str:
    """Return a name that changes with a prompt and the text encoders that embed it."""
    files = [(p.relative_to(root).as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for f in encoder_folders(root) for p in sorted(f.iterdir())]
    content = json.dumps([str(root.resolve()), network, text, files])
    return hashlib.sha256(content.encode()).hexdigest()[:32]
