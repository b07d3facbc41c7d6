"""Where weights lie: those that come with the program, and those that it has converted."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


def weights_folder() -> Path:
    """`weights/` inside an installed package, or beside the package in a checkout."""
    inside = PACKAGE / "weights"
    return inside if inside.is_dir() else PACKAGE.parent / "weights"


def converted_folder(name: str) -> Path:
    """Where a model that is kept in converted form lies: `flashdiff/NAME` beside the Hub's cache, below HF_HOME.

    Args:
        name: of the registry, or `owner/name/commit`.
    """
    from huggingface_hub.constants import HF_HOME

    return Path(os.environ.get("HF_HOME") or HF_HOME).expanduser() / "flashdiff" / name
