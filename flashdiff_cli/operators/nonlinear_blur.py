"""Nonlinear blur (paper section 4): a network that learned real motion blur, steered by a random kernel code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.hub.names import hub_id
from flashdiff_cli.hub.network import fetch_network
from flashdiff_cli.hub.weights import load_module
from flashdiff_cli.operators.base import Operator, choose, per_sample
from flashdiff_cli.operators.blur_network import BlurNetwork
from flashdiff_cli.operators.padding import Margins, pad
from flashdiff_cli.operators.registry import OPERATORS
from flashdiff_cli.parameters import OPERATOR_OPTIONS

CODE_SIDE = 2
"""The paper draws a code of 2 x 2 places, one for each quarter of a 256 x 256 image."""


@OPERATORS.add
class NonlinearBlur(Operator):
    """Blur by a network, with a kernel code for each sample. Not linear: it has no adjoint, but a gradient.

    Images are mirrored up to the next multiple of the network's size_multiple (128) and cropped back. Where the bottom of the
    network has another size than the code, each place takes the code's nearest value.

    Args:
        network: frozen by this.
        code: (B, D, h, w) or (1, D, h, w), already scaled.
        kernel_scale: standard deviation that the code was drawn with, (B,) or (1,), for records.
        weights: where the network came from, for records.
    """

    name = "nonlinear-blur"
    help = "motion blur as a network learned it from real cameras"
    linear = False
    options = OPERATOR_OPTIONS["nonlinear-blur"]

    def __init__(self, network: BlurNetwork, code: torch.Tensor, kernel_scale: float | torch.Tensor = 1.2, weights: str = ""):
        self.network = network.eval().requires_grad_(False)
        self.code, self.kernel_scale, self.weights = code, per_sample(kernel_scale), str(weights)

    @classmethod
    def make(cls, size: tuple[int, int], generator: torch.Generator, **values: Any) -> NonlinearBlur:
        network = load_network(values["weights"])
        scale = per_sample(values["kernel_scale"])
        noise = torch.randn(len(scale), network.config.code_channels, CODE_SIDE, CODE_SIDE, generator=generator)
        return cls(network, scale.view(-1, 1, 1, 1) * noise, scale, values["weights"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[-2:]
        size_multiple = self.network.size_multiple
        network = cast(Any, self.network).to(x.device)
        padded = pad(x, Margins(0, -height % size_multiple, 0, -width % size_multiple)).to(network.dtype)
        places = (padded.shape[-2] // size_multiple, padded.shape[-1] // size_multiple)
        code = F.interpolate(self.code.to(padded), size=places, mode="nearest").expand(len(x), -1, -1, -1)
        return network(padded, code)[..., :height, :width].to(x.dtype)

    def window(self, top: int, left: int, height: int, width: int) -> NonlinearBlur:
        raise FlashdiffError("nonlinear-blur has no part of its own for a tile; use `tile` 0, or a smaller picture")

    def describe(self, index: int = 0) -> dict[str, Any]:
        scale = self.kernel_scale[index % len(self.kernel_scale)].item()
        return {"weights": self.weights, "kernel_scale": round(scale, 4)}

    def subset(self, active: torch.Tensor) -> NonlinearBlur:
        return NonlinearBlur(self.network, choose(self.code, active), choose(self.kernel_scale, active), self.weights)

    @classmethod
    def _stack(cls, operators: Sequence[NonlinearBlur]) -> NonlinearBlur:
        first = operators[0]
        if any(operator.network is not first.network for operator in operators):
            raise cls._unstackable("different networks")
        codes, scales = torch.cat([o.code for o in operators]), torch.cat([o.kernel_scale for o in operators])
        return cls(first.network, codes, scales, first.weights)


@lru_cache(maxsize=1)
def load_network(source: str) -> BlurNetwork:
    """The network of a converted folder or Hub repository; kept, so that many pictures load it once.

    Args:
        source: folder, or `owner/name` with an optional `@revision`.

    Raises:
        UsageError: it is neither.
        FlashdiffError: it is not in reach, or its files are missing, damaged or of another model.
    """
    folder = Path(source)
    if folder.is_file():
        raise UsageError(f"`weights` {source} is a file; convert it first with flashdiff convert nonlinear-blur, and give the folder")
    if not folder.is_dir():
        name, revision = hub_id(source, flag="`weights`")
        folder = fetch_network(name, revision, "weights")
    if not (folder / "config.json").exists():
        raise FlashdiffError(f"{folder}: no config.json in it; make the folder with flashdiff convert nonlinear-blur")
    return load_module(BlurNetwork, folder, folder)


def convert_state_dict(state: dict[str, torch.Tensor]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The public checkpoint's tensors in this project's layout; all sizes are read from the tensors' shapes.

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
    """KernelWizard's tensor names by those of BlurNetwork."""
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
