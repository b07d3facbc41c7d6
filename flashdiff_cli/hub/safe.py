"""Old Hub repositories hold pickled weights alone: rewrite them as safetensors, without running what they pickle."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import save_file

from flashdiff_cli.hub.names import PICKLED, SAFE
from flashdiff_cli.hub.unpickle import load_checkpoint, state_dict


def rewrite(folder: Path, target: Path) -> None:
    """Copy a model folder's configurations and weights to `target`, with every weight as safetensors.

    Args:
        folder: in the diffusers layout.
        target: an existing, empty folder.

    Raises:
        FlashdiffError: a file is damaged, or tries to run code.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        twin = path.with_name(SAFE)
        if path.is_dir() or (path.name == PICKLED and twin.exists()):
            continue
        destination = target / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        if path.name == PICKLED:
            tensors = state_dict(load_checkpoint(path), path)
            # A clone each, because safetensors holds no tensors that share memory.
            save_file({key: value.clone().contiguous() for key, value in tensors.items()}, destination.with_name(SAFE), {"format": "pt"})
        elif path.suffix in (".json", ".safetensors", ".md"):
            shutil.copyfile(path, destination)
