"""Training of the estimator of blurs: paths of cameras, Gaussian and other blurs, at every strength and behind noise and compression."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from flashdiff_cli.blur_estimator import Blur, BlurEstimator
from flashdiff_cli.bounded import short
from flashdiff_cli.classifier import LEAST_SIDE
from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators import GaussianBlur, Operator
from flashdiff_cli.training.mixtures import Draws, add_noise, apply, blur_of, compress, is_grey, part_of, recolour, shake_of, stored
from flashdiff_cli.training.recipe import Recipe, new_network
from flashdiff_cli.training.sample_grid import grid, to_picture

PATHS, GAUSSIAN = 0.5, 0.4
"""Shares of the samples; the rest is blurred otherwise."""

STRAIGHT, STORED = 0.25, 0.35
"""Shares of the straight paths among all, and of the pictures that a camera's JPEG has stored afterwards."""

LEAST_WIDTH, MOST_WIDTH = 0.35, 4.5
LONGEST = 24.0
"""Of the blurs, in pixels."""


def kernel_of(operator: Operator, radius: int) -> torch.Tensor:
    """Return what becomes of a point, (2 radius + 1, 2 radius + 1), sum 1, cut at the radius."""
    side = 4 * radius + 1
    point = torch.zeros(1, 1, side, side)
    point[..., side // 2, side // 2] = 1
    middle = slice(radius, 3 * radius + 1)
    kernel = operator.forward(point)[0, 0, middle, middle].clamp(min=0)
    return kernel / kernel.sum()


class BlurTask:
    """Kullback-Leibler divergence of the kernel, and the likelihood of the width where the blur is Gaussian.

    `recipe.model`: arguments of `BlurEstimator`. `recipe.loss`:
        views: samples that are made of one crop, each a part of it with draws of its own.
        side: of these parts in pixels, at most the crop's.
        width_weight: of the width's likelihood.

    Raises:
        UsageError: one of these is out of range.
    """

    component = "blur_estimator"

    def __init__(self, recipe: Recipe, validation: dict[str, list[torch.Tensor]]):
        self.settings = recipe.losses({"views": 4, "side": 128, "width_weight": 0.5})
        for name, low, high in (("views", 1, 64), ("side", LEAST_SIDE, recipe.crop), ("width_weight", 0, 1e6)):
            if not low <= self.settings[name] <= high:
                raise UsageError(f"[loss] {name} of the recipe must be from {low:g} to {high:g}, not {short(self.settings[name])}")
        torch.manual_seed(recipe.seed)
        self.module = new_network(BlurEstimator, **recipe.model)
        self.validation = validation

    def prepare(self, device: torch.device) -> None:
        """Nothing is frozen."""

    def blurred(self, x: torch.Tensor, draws: Draws, side: int | None) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Blur a clean picture (3, H, W) in [-1, 1] as files would hold it.

        Returns:
            a part of it with that side, the kernel, and the logarithm of the width, NaN where the blur is not Gaussian.
        """
        x = recolour(x, draws)
        turns = int(draws.uniform(0, 4)) if side else 0
        x = torch.rot90(x, turns, (1, 2))
        what, width = draws.uniform(), math.nan
        if what < PATHS:
            operator: Operator = shake_of(draws, LONGEST, STRAIGHT)
        elif what < PATHS + GAUSSIAN:
            width = draws.log_uniform(LEAST_WIDTH, MOST_WIDTH)
            operator = GaussianBlur(width)
        else:
            operator = blur_of(draws)
        grey = is_grey(x)
        y = apply(operator, x)
        if side:
            y = part_of(y, side, draws)
        y = stored(add_noise(y, draws.log_uniform(0.001, 0.08), draws, grey, simple=draws.chance(0.7)))
        if draws.chance(STORED):
            y = compress(y, round(draws.uniform(70, 98)), "420", grey)
        return y, kernel_of(operator, self.module.config["radius"]), math.log(width)

    def loss(self, module, images, generator):
        draws, views = Draws(generator), int(self.settings["views"])
        samples = [self.blurred(x.cpu().float(), draws, int(self.settings["side"])) for x in images for _ in range(views)]
        measured, kernels = (torch.stack(part).to(images.device) for part in ([s[0] for s in samples], [s[1] for s in samples]))
        widths = torch.tensor([s[2] for s in samples], device=images.device)
        seen: Blur = module(measured)
        path = (kernels * ((kernels + 1e-9).log() - (seen.kernel + 1e-9).log())).sum((1, 2)).mean()
        known = widths.isfinite()
        off = (seen.log_width - widths)[known]
        likelihood = (0.5 * (off / seen.log_deviation[known].exp()).square() + seen.log_deviation[known]).sum() / known.sum().clamp(min=1)
        return {"loss": path + float(self.settings["width_weight"]) * likelihood, "path": path, "width": off.abs().sum() / known.sum().clamp(min=1)}

    def validate(self, module):
        figures = {}
        for name, images in self.validation.items():
            paths, off = [], []
            for number, image in enumerate(images):
                for repeat in range(4):
                    draws = Draws(torch.Generator().manual_seed(4 * number + repeat))
                    y, kernel, width = self.blurred(image[0], draws, None)
                    seen = module(y[None].to(module.device))
                    if math.isfinite(width):
                        off.append(abs(seen.log_width.item() - width))
                    else:
                        paths.append(likeness(seen.kernel[0].cpu(), kernel))
            figures |= {f"alike_{name}": round(sum(paths) / max(len(paths), 1), 4), f"off_width_{name}": round(sum(off) / max(len(off), 1), 4)}
        return figures

    def sample_grid(self, module) -> Image.Image:
        """Return rows of true kernels above what is seen, enlarged."""
        rows = []
        for images in self.validation.values():
            true, found = [], []
            for number, image in enumerate(images[:8]):
                y, kernel, _ = self.blurred(image[0], Draws(torch.Generator().manual_seed(4 * number)), None)
                for shown, k in ((true, kernel), (found, module(y[None].to(module.device)).kernel[0].cpu())):
                    large = F.interpolate((k / k.max())[None, None], scale_factor=4)
                    shown.append(to_picture(2 * large.expand(1, 3, -1, -1) - 1))
            rows += [true, found]
        return grid(rows)

    def export(self, module, folder: Path) -> None:
        module.save_pretrained(folder / self.component, safe_serialization=True)


def likeness(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the cosine of the angle between two kernels of one size at the shift where it is largest."""
    found = F.conv2d(F.pad(a, (4,) * 4)[None, None], b[None, None].to(a))
    return (found.max() / (a.norm() * b.norm()).clamp(min=1e-12)).item()
