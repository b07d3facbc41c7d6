"""Named tensors as safetensors files, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save

from flashdiff_cli.pictures.atomic import Opener, whole


def write_tensors(tensors: dict[str, torch.Tensor], path: str | Path, facts: dict[str, str] | None = None, into: Opener = whole) -> None:
    """Write tensors and text metadata, first under a temporary name; `into` opens the file, see `pictures.atomic`.

    Raises:
        FlashdiffError: the disk or the folder refuses.
    """
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {k: str(v) for k, v in (facts or {}).items()})
    with into(Path(path)) as file:
        file.write(data)
