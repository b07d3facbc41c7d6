"""Training of the classifier of degradations."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from flashdiff_cli.bounded import short
from flashdiff_cli.classifier import KINDS, LEAST_SIDE, PARAMETERS, DegradationClassifier
from flashdiff_cli.errors import UsageError
from flashdiff_cli.training.kinds import make_sample, targets
from flashdiff_cli.training.mixtures import Draws
from flashdiff_cli.training.recipe import Recipe, new_network
from flashdiff_cli.training.sample_grid import grid, to_picture

REPEATS = 4
"""Degradations of each picture of a validation."""


class ClassifierTask:
    """Cross-entropy of the kind, and squared errors of the parameters that the kind has.

    `recipe.model`: arguments of `DegradationClassifier`. `recipe.loss`:
        parameter_weight: of the squared errors.
        views: samples that are made of one crop, each a part of it with draws of its own.
        side: of these parts in pixels, at most the crop's.

    Raises:
        UsageError: one of these is out of range.
    """

    component = "classifier"

    def __init__(self, recipe: Recipe, validation: dict[str, list[torch.Tensor]]):
        self.settings = recipe.losses({"parameter_weight": 1.0, "views": 2, "side": 112})
        for name, low, high in (("views", 1, 64), ("side", LEAST_SIDE, recipe.crop), ("parameter_weight", 0, 1e6)):
            if not low <= self.settings[name] <= high:
                raise UsageError(f"[loss] {name} of the recipe must be from {low:g} to {high:g}, not {short(self.settings[name])}")
        torch.manual_seed(recipe.seed)
        self.module = new_network(DegradationClassifier, **recipe.model)
        self.validation = validation

    def prepare(self, device: torch.device) -> None:
        """Nothing is frozen."""

    def loss(self, module, images, generator):
        draws, side = Draws(generator), int(self.settings["side"])
        samples = [make_sample(x.cpu().float(), side, draws) for x in images for _ in range(int(self.settings["views"]))]
        seen = module(torch.stack([sample.measured for sample in samples]).to(images.device))
        kinds, wanted, counts = (part.to(images.device) for part in targets(samples))
        kind = F.nll_loss(seen.probabilities.clamp(min=1e-6).log(), kinds)
        off = ((seen.parameters - wanted).square() * counts).sum() / counts.sum().clamp(min=1)
        return {"loss": kind + float(self.settings["parameter_weight"]) * off, "kind": kind, "parameters": off}

    def validate(self, module):
        figures = {}
        for name, images in self.validation.items():
            right, number_of = torch.zeros(len(KINDS)), torch.zeros(len(KINDS))
            off, number = torch.zeros(len(PARAMETERS)), torch.zeros(len(PARAMETERS))
            for i, image in enumerate(images):
                for repeat in range(REPEATS):
                    kind, said, wanted, counts = self.compare(module, image, REPEATS * i + repeat)
                    right[kind] += float(said.probabilities[0].argmax().item() == kind)
                    number_of[kind] += 1
                    off += (said.parameters.cpu() - wanted).abs()[0] * counts[0]
                    number += counts[0]
            figures[f"right_{name}"] = round((right.sum() / number_of.sum()).item(), 4)
            figures |= {f"right_{k}_{name}": round(v, 3) for k, v in zip(KINDS, (right / number_of.clamp(min=1)).tolist(), strict=True)}
            figures |= {f"off_{k}_{name}": round(v, 3) for k, v in zip(PARAMETERS, (off / number.clamp(min=1)).tolist(), strict=True)}
        return figures

    def compare(self, module, image: torch.Tensor, seed: int):
        """Return the kind that an image (1, 3, H, W) was degraded by, what is said of it, the true parameters (1, 7), and which count."""
        sample = make_sample(image[0], min(image.shape[2:]), Draws(torch.Generator().manual_seed(seed)))
        kinds, wanted, counts = targets([sample])
        return int(kinds[0]), module(sample.measured[None].to(module.device)), wanted, counts

    def sample_grid(self, module) -> Image.Image:
        """Return rows of measurements as the classifier meets them."""
        rows = []
        for images in self.validation.values():
            for i, image in enumerate(images[:4]):
                side = min(image.shape[2:])
                samples = [make_sample(image[0], side, Draws(torch.Generator().manual_seed(REPEATS * i + k))) for k in range(3)]
                rows.append([to_picture(sample.measured[None]) for sample in samples])
        return grid(rows)

    def export(self, module, folder: Path) -> None:
        module.save_pretrained(folder / self.component, safe_serialization=True)
