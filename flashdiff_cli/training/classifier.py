"""Training of the classifier of degradations."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from PIL import Image

from flashdiff_cli.bounded import short
from flashdiff_cli.classifier import KINDS, PARAMETERS, DegradationClassifier
from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators import Jpeg
from flashdiff_cli.operators.motion_blur import MotionBlur, kernel_axis
from flashdiff_cli.training.degradation import Degradations, Draw
from flashdiff_cli.training.recipe import Recipe, new_network
from flashdiff_cli.training.sample_grid import grid, to_picture


class ClassifierTask:
    """Cross-entropy of the kind, and squared errors of the parameters that the kind has.

    Every `[[degradation]]` of the recipe names its `kind`. `recipe.loss`:
        parameter_weight: of the squared errors.
        stored_share, stored_quality: share of the pictures that are afterwards stored as JPEGs of a high quality, [low, high], as
            cameras do: that is no degradation to be found.
    """

    component = "classifier"

    def __init__(self, recipe: Recipe, validation: dict[str, list[torch.Tensor]]):
        self.settings = recipe.losses({"parameter_weight": 1.0, "stored_share": 0.4, "stored_quality": [88.0, 98.0]})
        kinds = [table.get("kind") for table in recipe.degradation]
        if wrong := [kind for kind in kinds if kind not in KINDS]:
            raise UsageError(f"kind = {short(wrong[0])} of a [[degradation]] is unknown; choose from {', '.join(KINDS)}")
        self.degradations = Degradations([{k: v for k, v in t.items() if k != "kind"} for t in recipe.degradation])
        self.kinds = torch.tensor([KINDS.index(kind) for kind in kinds])
        torch.manual_seed(recipe.seed)
        self.module = new_network(partial(DegradationClassifier, degradations=recipe.degradation), **recipe.model)
        self.validation = validation

    def prepare(self, device: torch.device) -> None:
        pass

    def measure(self, images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Degrade images as files would hold them.

        Returns:
            measured (B, 3, H, W), kinds (B,), parameters (B, 7) and which of them count (B, 7), as PARAMETERS.
        """
        draw = self.degradations.draw(images, generator)
        kinds = self.kinds[draw.kinds]
        measured = draw.measured.clamp(-1, 1)
        stored = (torch.rand(len(images), generator=generator) < self.settings["stored_share"]) & (kinds != KINDS.index("jpeg"))
        if bool(stored.any()):
            low, high = self.settings["stored_quality"]
            quality = low + (high - low) * torch.rand(int(stored.sum()), generator=generator)
            measured = measured.clone()
            measured[stored] = Jpeg(quality).on_signed(measured[stored])
        measured = ((measured + 1) * 127.5).round() / 127.5 - 1
        return measured, kinds, *targets(draw, kinds)

    def loss(self, module, images, generator):
        measured, kinds, wanted, counts = self.measure(images, generator)
        seen = module(measured)
        kind = F.nll_loss(seen.probabilities.clamp(min=1e-6).log(), kinds.to(images.device))
        off = ((seen.parameters - wanted.to(images)).square() * counts.to(images)).sum() / counts.sum().clamp(min=1)
        return {"loss": kind + self.settings["parameter_weight"] * off, "kind": kind, "parameters": off}

    def validate(self, module):
        figures = {}
        for name, images in self.validation.items():
            right, off, number = torch.zeros(len(KINDS)), torch.zeros(len(PARAMETERS)), torch.zeros(len(PARAMETERS))
            seen_of = torch.zeros(len(KINDS))
            for i, image in enumerate(images):
                for repeat in range(3):
                    measured, kinds, wanted, counts = self.measure(image, torch.Generator().manual_seed(3 * i + repeat))
                    seen = module(measured.to(module.device))
                    right[kinds[0]] += float(seen.probabilities[0].argmax().item() == kinds[0])
                    seen_of[kinds[0]] += 1
                    off += ((seen.parameters.cpu() - wanted).abs() * counts)[0]
                    number += counts[0]
            figures[f"right_{name}"] = round((right.sum() / seen_of.sum()).item(), 4)
            figures |= {f"right_{k}_{name}": round(v, 3) for k, v in zip(KINDS, (right / seen_of.clamp(min=1)).tolist(), strict=True)}
            figures |= {f"off_{k}_{name}": round(v, 3) for k, v in zip(PARAMETERS, (off / number.clamp(min=1)).tolist(), strict=True)}
        return figures

    def sample_grid(self, module) -> Image.Image:
        """Return rows of measurements as the classifier meets them."""
        rows = []
        for images in self.validation.values():
            for i, image in enumerate(images[:4]):
                rows.append([to_picture(self.measure(image, torch.Generator().manual_seed(3 * i + k))[0]) for k in range(3)])
        return grid(rows)

    def export(self, module, folder: Path) -> None:
        module.save_pretrained(folder / self.component, safe_serialization=True)


def targets(draw: Draw, kinds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return parameters (B, 7) as the classifier gives them, and which of them a sample has."""
    wanted, counts = torch.zeros(len(kinds), len(PARAMETERS)), torch.zeros(len(kinds), len(PARAMETERS))

    def put(sample: int, name: str, value: float) -> None:
        wanted[sample, PARAMETERS.index(name)] = value
        counts[sample, PARAMETERS.index(name)] = 1

    for sample, kind in enumerate(kinds.tolist()):
        operator = draw.operators[sample]
        said = operator.describe()
        if KINDS[kind] != "jpeg":
            put(sample, "noise_std", math.log(max(draw.noise_std[sample].item(), 0.001)))
        if KINDS[kind] == "gaussian-blur":
            put(sample, "blur_std", math.log(said["blur_std"]))
        elif KINDS[kind] == "motion-blur":
            length, angle = kernel_axis(cast(MotionBlur, operator).kernel[0])
            put(sample, "blur_length", math.log(max(length, 1.0)))
            put(sample, "cosine", math.cos(2 * angle))
            put(sample, "sine", math.sin(2 * angle))
        elif KINDS[kind] == "jpeg":
            put(sample, "jpeg_quality", said["jpeg_quality"] / 100)
        elif KINDS[kind] == "downsampling":
            put(sample, "enlarged", math.log(said["enlarged"]))
    return wanted, counts
