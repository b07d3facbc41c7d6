"""Training of the last step's network: noise and compression of every strength in, clean pictures out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from flashdiff_cli.bounded import short
from flashdiff_cli.errors import UsageError
from flashdiff_cli.last_step import LastStep
from flashdiff_cli.models.loading import load_component
from flashdiff_cli.operators import GaussianBlur, Jpeg
from flashdiff_cli.training.mixtures import KINDS, Draws, add_noise, apply, compress, degrade, drawing, is_grey, recolour, stored
from flashdiff_cli.training.recipe import Recipe, new_network
from flashdiff_cli.training.sample_grid import grid, to_picture

SCALE = 0.02
"""Added to what a picture is off, on the scale of [-1, 1], by which the error of the result is divided."""

STRONGEST = 0.2
"""Standard deviation of the strongest noise, on intensities in [0, 1]."""

DRAWINGS, JPEG, BOTH = 0.05, 0.27, 0.15
"""Shares of drawings in place of photographs, of pictures that are only compressed, and of those with noise before it."""

SOFT = 0.5
"""Share of the compressed pictures that are soft already, and are to stay so: what cameras store."""

TOLD = 0.08
"""Spread of the noise that is told, as a share of the true one, in half of the samples: what is read off pictures is not exact."""


@dataclass
class Noisy:
    """One picture (3, H, W) in [-1, 1] units, what it should be, and the standard deviations that are told, in the same units."""

    clean: torch.Tensor
    seen: torch.Tensor
    noise_std: float
    rounding_std: float


def spoil(x: torch.Tensor, generator: torch.Generator) -> Noisy:
    """Add noise, compression, both or nothing to a clean picture (3, H, W) in [-1, 1]."""
    draws = Draws(generator)
    x = drawing((x.shape[1], x.shape[2]), draws) if draws.chance(DRAWINGS) else x
    x = stored(recolour(x, draws))
    grey, what = is_grey(x), draws.uniform()
    noise, rounding = 0.0, 0.0
    seen = x
    if what < JPEG + BOTH and draws.chance(SOFT):
        x = seen = apply(GaussianBlur(draws.log_uniform(0.4, 2.5)), x)
    if what >= JPEG:
        strongest = 0.06 if what < JPEG + BOTH else STRONGEST
        noise = strongest * draws.uniform() ** 1.5
        bench = draws.chance(0.5)
        seen = add_noise(seen, noise, draws, grey and not bench, simple=bench or draws.chance(0.4))
        seen = seen if bench else stored(seen)
    if what < JPEG + BOTH:
        quality, chroma = round(draws.uniform(5 if what < JPEG else 50, 96)), "420" if draws.chance(0.65) else "444"
        seen = compress(seen, quality, chroma, grey)
        rounding = 2 * Jpeg(quality).noise_std().item()
    told = 2 * noise * (1 + TOLD * draws.normal(1).item() if draws.chance(0.5) else 1)
    return Noisy(x, seen, max(told, 0.0), rounding)


def mix(x: torch.Tensor, generator: torch.Generator) -> Noisy:
    """Degrade a clean picture (3, H, W) in [-1, 1] by a mixture of which nothing is told."""
    found = degrade(x, generator)
    return Noisy(found.clean, found.measured, 0.0, 0.0)


DEGRADATIONS = {"noise, JPEG": spoil, "mixtures": mix}
"""What a network can be trained on, by the name that its configuration keeps."""


class LastStepTask:
    """Mean absolute error as a share of what a picture is off: faint noise counts as strong noise does.

    `recipe.model`: `channels` and `blocks` of `LastStep`; `degradations`, of DEGRADATIONS; `name` of the component; `begin`, the component
    of `model` whose weights training starts from.
    """

    VALIDATED = {
        "noise, JPEG": ("noise_0.02", "noise_0.05", "noise_0.1", "jpeg_10", "jpeg_30", "jpeg_80"),
        "mixtures": ("gaussian-blur", "motion-blur", "noise", "jpeg", "enlargement", "phone", "chain", "clean"),
    }

    def __init__(self, recipe: Recipe, validation: dict[str, list[torch.Tensor]], model: Path | None = None):
        torch.manual_seed(recipe.seed)
        settings = {"degradations": "noise, JPEG"} | recipe.model
        self.component, begin = settings.pop("name", "last_step"), settings.pop("begin", None)
        name = settings["degradations"]
        if not isinstance(name, str) or name not in DEGRADATIONS:
            raise UsageError(f"[model] degradations of the recipe: give {' or '.join(DEGRADATIONS)}, not {short(name)}")
        self.spoil, self.validated = DEGRADATIONS[name], self.VALIDATED[name]
        self.module = new_network(LastStep, **settings)
        if begin is not None:
            if model is None:
                raise UsageError(f"training from {short(begin)} needs `model`: the folder that it is in")
            loaded: Any = load_component(model, begin)
            self.module.load_state_dict(loaded.state_dict())
        self.validation = validation

    def prepare(self, device: torch.device) -> None:
        """Nothing is frozen."""

    def loss(self, module, images, generator):
        # Half precision would round clean pictures too, and has no code for some of what degrades them.
        with torch.autocast(images.device.type, enabled=False):
            samples = [self.spoil(image.cpu().float(), generator) for image in images]
        clean, seen = (torch.stack(part).to(images.device) for part in zip(*((s.clean, s.seen) for s in samples), strict=True))
        told = (torch.tensor(part, device=images.device) for part in zip(*((s.noise_std, s.rounding_std) for s in samples), strict=True))
        result = module(seen, *told)
        before = (seen - clean).square().mean((1, 2, 3))
        loss = ((result - clean).abs() / (SCALE + before.sqrt()).view(-1, 1, 1, 1)).mean()
        error = (result.detach() - clean).square().mean((1, 2, 3))
        return {"loss": loss, "gain": 10 * torch.log10((before + 1e-5) / (error + 1e-5)).mean()}

    @staticmethod
    def sample(image: torch.Tensor, name: str, seed: int) -> Noisy:
        """Return a validation picture (1, 3, H, W) with what `name` says: a kind of mixture, or noise or compression and its strength."""
        if name in KINDS:
            with torch.autocast(image.device.type, enabled=False):
                found = degrade(image[0].cpu().float(), torch.Generator().manual_seed(seed), name)
            return Noisy(found.clean, found.measured, 0.0, 0.0)
        kind, value = name.split("_")
        if kind == "noise":
            noise = torch.randn(image.shape[1:], generator=torch.Generator().manual_seed(seed))
            return Noisy(image[0], image[0] + 2 * float(value) * noise, 2 * float(value), 0.0)
        seen = compress(image[0], float(value), "420", False)
        return Noisy(image[0], seen, 0.0, 2 * Jpeg(float(value)).noise_std().item())

    @torch.no_grad()
    def restored(self, module, sample: Noisy) -> torch.Tensor:
        """Return what the network makes of a sample, (1, 3, H, W)."""
        told = (torch.tensor([value], device=module.device) for value in (sample.noise_std, sample.rounding_std))
        return module(sample.seen[None].to(module.device), *told).clamp(-1, 1).cpu()

    def validate(self, module):
        figures = {}
        for group, images in self.validation.items():
            for name in self.validated:
                errors = [
                    (self.restored(module, s)[0] - s.clean).square().mean() / 4
                    for s in (self.sample(image, name, i) for i, image in enumerate(images))
                ]
                figures[f"psnr_{name}_{group}"] = round(-10 * torch.stack(errors).log10().mean().item(), 2)
        return figures

    def sample_grid(self, module) -> Image.Image:
        """Rows of clean picture, what it became, and result."""
        rows = []
        for images in self.validation.values():
            for i, name in enumerate(self.validated[2:]):
                sample = self.sample(images[i % len(images)], name, i)
                rows.append([to_picture(x[None] if x.ndim == 3 else x) for x in (sample.clean, sample.seen, self.restored(module, sample))])
        return grid(rows)

    def export(self, module, folder: Path) -> None:
        module.save_pretrained(folder / self.component, safe_serialization=True)
