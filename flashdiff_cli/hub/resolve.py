"""From what a person calls a model to a folder on this machine."""

from __future__ import annotations

import re
from pathlib import Path

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.hub.paths import weights_folder

HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+(@[\w./-]+)?$")
PATTERNS = ["*.json", "*/*.json", "*.safetensors", "*/*.safetensors"]
"""Configurations and safe weights; nothing that could be unpickled is fetched."""


def resolve_model(
    spec: str, revision: str | None = None, offline: bool = False, cache_dir: str | Path | None = None
) -> Path:
    """A model's folder; one on the Hub is fetched into the standard cache first.

    Args:
        spec: a folder, the name of a shipped model, or `owner/name[@revision]` on the Hugging Face Hub.
        revision: branch, tag or commit on the Hub.
        offline: use the cache alone.
        cache_dir: instead of the Hub's standard cache.

    Raises:
        UsageError: nothing goes by this name.
        FlashdiffError: it cannot be fetched, or is not cached and the network is not to be used.
    """
    folder = Path(spec)
    if folder.is_dir():
        return folder
    shipped = weights_folder() / spec
    if re.fullmatch(r"[\w-]+", spec) and (shipped / "model_index.json").exists():
        return shipped
    if not HUB_ID.match(spec):
        names = ", ".join(sorted(p.parent.name for p in weights_folder().glob("*/model_index.json"))) or "none"
        raise UsageError(f"--model {spec!r}: no such folder, no shipped model (there is: {names}) and no Hub id (owner/name)")
    from huggingface_hub import snapshot_download

    name, _, tag = spec.partition("@")
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision or tag or None,
                cache_dir=cache_dir,
                local_files_only=offline,
                allow_patterns=PATTERNS,
            )
        )
    except Exception as error:  # the Hub client's errors share no base class across its versions
        reason = " ".join(str(error).split())[:160]
        remedy = "run once without --offline" if offline else "check the name and the network, or give a local folder"
        raise FlashdiffError(f"--model {spec}: cannot be fetched from the Hub ({reason}); {remedy}") from error
