"""Publish a model folder on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.hub.configs import read_config
from flashdiff_cli.hub.files import PATTERNS
from flashdiff_cli.hub.names import hub_id
from flashdiff_cli.hub.paths import within
from flashdiff_cli.models.base import base_entry, is_published
from flashdiff_cli.models.loading import load_component


def push_folder(folder: str | Path, repo: str, private: bool = False) -> str:
    """Upload configurations, safe weights and the model card of a folder in one commit.

    Args:
        folder: in the diffusers layout; every component that its model_index.json names must load.
        repo: `owner/name`; made if it is not there.
        private: if it is made.

    Returns:
        the commit's address.

    Raises:
        UsageError: there is no such folder.
        FlashdiffError: a component does not load, or the Hub refuses.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"FOLDER {folder}: no such folder")
    hub_id(repo, flag="OWNER/NAME")
    index = read_config(folder / "model_index.json")
    base = base_entry(index, folder / "model_index.json")
    if base is not None and not is_published(*base):
        raise FlashdiffError(f"{folder}: its base, {base[0]}, is on this machine alone; train with --model OWNER/NAME, or push that model as well")
    for role, value in index.items():
        if isinstance(value, list) and value and value[0] is not None:
            load_component(folder, role)
    for path in folder.rglob("*"):
        # The Hub's client follows links, and what is published is everybody's.
        if path.is_symlink():
            within(folder, path)
    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        # Where a training stands is of no use to others, and hidden files are not meant for them.
        left = ["training.json", "checkpoint*", ".*", "*/.*"]
        commit = api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=PATTERNS, ignore_patterns=left, commit_message="Upload with flashdiff"
        )
    except Exception as error:  # the client's errors share no base class across its versions
        reason = " ".join(str(error).split())[:160]
        raise FlashdiffError(f"{repo}: cannot be published ({reason}); are you logged in (hf auth login) with write access?") from error
    return str(commit.commit_url)
