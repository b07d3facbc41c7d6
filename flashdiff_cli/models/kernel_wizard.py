"""The public checkpoint of the paper's nonlinear blur (KernelWizard): its tensors under the names of `BlurNetwork`."""

from __future__ import annotations

import re
from typing import Any

import torch

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.operators.blur_network import BlurNetwork


def convert_state_dict(state: dict[str, torch.Tensor]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the public checkpoint's tensors in this project's layout; all sizes are read from the tensors' shapes.

    The tensors of `kernel_extractor`, which reads a code from a sharp and a blurred picture, are left out: the operator
    draws its codes.

    Args:
        state: a plain state dict in the layout of KernelWizard.

    Returns:
        (arguments of BlurNetwork, its state dict).

    Raises:
        FlashdiffError: a tensor is missing, left over or misshapen; the message names it.
    """

    def count(pattern: str) -> int:
        return sum(re.fullmatch(pattern, key) is not None for key in state)

    front = count(r"feature_extractor\.\d+\.conv1\.weight")
    back = count(r"recon_trunk\.\d+\.conv1\.weight")
    levels = count(r"adapter\.model(\.submodule)*\.down\.\d\.weight")
    names = _original_names(front, back, max(levels, 1))
    if missing := [old for old in names.values() if old not in state]:
        raise FlashdiffError(f"tensor {missing[0]} is missing ({len(missing)} in all); is this a KernelWizard checkpoint?")
    used = set(names.values())
    if extra := [key for key in state if key not in used and not key.startswith("kernel_extractor.")]:
        raise FlashdiffError(f"tensor {extra[0]} has no place in the network ({len(extra)} in all); is this a KernelWizard checkpoint?")
    converted = {new: state[old] for new, old in names.items()}
    if flat := [names[new] for new, value in converted.items() if value.ndim != (4 if new.endswith("weight") else 1)]:
        raise FlashdiffError(f"tensor {flat[0]} has the shape {tuple(state[flat[0]].shape)}, which no convolution has")
    adapter = [converted[f"down.{i}.weight"].shape[0] for i in range(levels)]
    config = {
        "in_channels": converted["features.0.weight"].shape[1],
        "channels": converted["features.0.weight"].shape[0],
        "front_blocks": front,
        "back_blocks": back,
        "code_channels": converted[f"up.{levels - 1}.weight"].shape[0] - adapter[-1],
        "adapter_channels": adapter,
        "expand_channels": converted["last.0.weight"].shape[0],
    }
    if config["code_channels"] < 1:
        raise FlashdiffError(f"tensor {names[f'up.{levels - 1}.weight']} leaves no channels for the kernel code")
    with torch.device("meta"):
        expected = BlurNetwork(**config).state_dict()
    for new, value in expected.items():
        if converted[new].shape != value.shape:
            raise FlashdiffError(f"tensor {names[new]} has the shape {tuple(converted[new].shape)}, not {tuple(value.shape)}")
    return config, converted


def _original_names(front: int, back: int, levels: int) -> dict[str, str]:
    """Return KernelWizard's tensor names by those of BlurNetwork."""
    both = ("weight", "bias")
    convs = {f"features.{i}": f"feature_extractor.{2 * i}" for i in range(3)}
    for side, old, first, blocks in (("front", "feature_extractor", 6, front), ("back", "recon_trunk", 0, back)):
        convs |= {f"{side}.{i}.conv{j}": f"{old}.{first + i}.conv{j}" for i in range(blocks) for j in (1, 2)}
    # Between these convolutions stand pixel shuffles and rectifiers, which have numbers but no tensors.
    convs |= {"expand.0": f"recon_trunk.{back}", "expand.1": f"recon_trunk.{back + 3}"}
    convs |= {"last.0": f"recon_trunk.{back + 6}", "last.1": f"recon_trunk.{back + 8}"}
    names = {f"{new}.{kind}": f"{old}.{kind}" for new, old in convs.items() for kind in both}
    for level in range(levels):
        block = "adapter.model" + ".submodule" * level
        names[f"down.{level}.weight"] = f"{block}.down.{0 if level == 0 else 1}.weight"
        names[f"up.{level}.weight"] = f"{block}.up.1.weight"
    names["up.0.bias"] = "adapter.model.up.1.bias"
    return names
