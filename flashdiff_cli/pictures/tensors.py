"""Named tensors as safetensors files, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import save

from flashdiff_cli.errors import FlashdiffError


def write_tensors(tensors: dict[str, torch.Tensor], path: str | Path, facts: dict[str, str] | None = None) -> None:
    """Write tensors and text metadata, first under a temporary name.

    Raises:
        FlashdiffError: the disk or the folder refuses.
    """
    path = Path(path)
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {k: str(v) for k, v in (facts or {}).items()})
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise FlashdiffError(f"{path}: cannot be written ({error.strerror}); choose another --output") from error
