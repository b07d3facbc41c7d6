"""Models that hold only what was trained for them, beside a reference to the model that they build on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from flashdiff_cli.bounded import short
from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.hub.configs import read_config
from flashdiff_cli.hub.names import hub_id
from flashdiff_cli.hub.registry import known_models
from flashdiff_cli.models.resolve import resolve_model

KEY = "base"
"""Entry of `model_index.json`: {"model": name, Hub id or folder, "revision": commit}."""


def base_entry(index: dict[str, Any], where: str | Path) -> tuple[str, str | None] | None:
    """Return what a model's index says of the one that it builds on: (model, revision or None); None if it stands by itself.

    Raises:
        FlashdiffError: the entry makes no sense.
    """
    entry = index.get(KEY)
    if entry is None:
        return None
    model = entry.get("model") if isinstance(entry, dict) else None
    revision = entry.get("revision") if isinstance(entry, dict) else None
    if not isinstance(model, str) or not 0 < len(model) <= 4096 or not isinstance(revision, (str, type(None))):
        raise FlashdiffError(f"{where}: {KEY} is {short(entry)}; give the model that this one builds on, and its revision")
    return model, revision


def is_published(model: str, revision: str | None) -> bool:
    """Return whether a reference means the same model on every machine: a registered name, or a Hub id with a commit."""
    if model in known_models():
        return True
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", model, re.ASCII)) and bool(re.fullmatch(r"[0-9a-f]{40}", revision or ""))


def base_folder(
    folder: Path, index: dict[str, Any], offline: bool = False, cache_dir: str | Path | None = None, variant: str | None = None
) -> Path | None:
    """Return the folder of the model that a model builds on, fetched first where it is not here; None if it stands by itself.

    Args:
        folder: of the model, whose index may name another folder, from there, unless the model came from the Hub.
        index: its `model_index.json`.
        offline, cache_dir, variant: see `resolve_model`.

    Raises:
        FlashdiffError: it cannot be had, or builds on another in turn.
    """
    where = folder / "model_index.json"
    entry = base_entry(index, where)
    if entry is None:
        return None
    model, revision = entry
    beside = folder / model
    if folder.resolve().parent.name == "snapshots":
        # What was fetched says nothing of the folders of this machine.
        if model not in known_models():
            hub_id(model, revision, f"{where}: {KEY}")
    elif beside.is_dir():
        model = str(beside)
    try:
        found = resolve_model(model, revision, offline, cache_dir, variant=variant)
    except FlashdiffError as error:
        raise FlashdiffError(f"{where}: the model that it builds on: {error}") from error
    if KEY in read_config(found / "model_index.json"):
        raise FlashdiffError(f"{where}: it builds on {model}, which builds on another; refer to that one")
    return found
