"""Nonlinear blur (paper section 4): a network that learned real motion blur, steered by a random kernel code."""

from __future__ import annotations

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
    """Return the network of a converted folder or Hub repository; kept, so that many pictures load it once.

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
