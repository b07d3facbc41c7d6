"""Training of a severity encoder (paper section 3.1, eq. 7)."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image

from flashdiff_cli.first_stage import FirstStage
from flashdiff_cli.hub.paths import new_folder
from flashdiff_cli.models.loading import load_component
from flashdiff_cli.operators.inpainting import missing
from flashdiff_cli.severity import SeverityEncoder, SeverityEstimate
from flashdiff_cli.stats import ordering_accuracy, spearman
from flashdiff_cli.training.degradation import Degradations
from flashdiff_cli.training.mixtures import degrade
from flashdiff_cli.training.parts import WHOLE, Part
from flashdiff_cli.training.recipe import Recipe
from flashdiff_cli.training.sample_grid import grid, to_picture

ORDERING_LEVELS = 10
LEAST_ERROR = 1e-5
"""Added to mean squared errors, on the scale of [-1, 1], whose ratio is a gain: mixtures leave some pictures as they are."""


class Lessons(NamedTuple):
    """B pictures and what became of them."""

    clean: torch.Tensor
    """(B, 3, H, W) in [-1, 1]."""
    measured: torch.Tensor
    """(B, 3, H, W), missing pixels filled."""
    holes: torch.Tensor | None
    """(B, H, W), bool: which pixels are missing; None: none."""


class SeverityTask:
    """||e||^2 / d + variance term + image_weight * ||Dec(z_hat) - x||^2 / D for e = z_hat - z0.

    `recipe.loss`:
        variance_weight, image_weight: lambda_sigma and lambda_im.
        variance_form: "squared" is the paper's (v - var)^2, v the variance of e about its own mean; "log" compares
            logarithms, so that light degradations count as much as heavy ones; "local" is the Gaussian negative
            log-likelihood of every number of e under its own variance, whose mean is the image's: as many lessons an
            image as it has latent numbers; plus `whole_weight` times the "log" term, for the mean is what is used.
        image_share: share of the batch that is decoded for the image term, to save time; its weight is kept.
        mixtures: share of the batch that is degraded as `mixtures.degrade` does, in place of the recipe's tables.
    `recipe.model`:
        name: of the component.
        begin: component of `model` to go on from; without, the first stage's encoder is copied.
        pixel_network: component of `model`, a `LastStep`, that a copy begins with.
        frozen_estimate: whether only the deviation learns.
        extra_layers: see `SeverityEncoder`.
    """

    component = "severity"
    shares_draws = True

    def __init__(self, recipe: Recipe, validation: dict[str, list[torch.Tensor]], model: Path):
        defaults = {"variance_weight": 1.0, "image_weight": 1.0, "variance_form": "squared", "image_share": 1.0, "whole_weight": 1.0, "mixtures": 0.0}
        self.settings = recipe.losses(defaults)
        self.degradations = Degradations(recipe.degradation)
        self.stage = FirstStage(load_component(model, "first_stage").requires_grad_(False).eval())
        torch.manual_seed(recipe.seed)
        settings = dict(recipe.model)
        self.component = settings.pop("name", self.component)
        begin = settings.pop("begin", None)
        frozen, ahead = settings.pop("frozen_estimate", False), settings.pop("pixel_network", None)
        if begin is None:
            begun: Any = None if ahead is None else load_component(model, ahead)
            described = self.degradations.describe()
            self.module = SeverityEncoder.from_first_stage(self.stage, degradations=described, pixel_network=begun, **settings)
        else:
            self.module = load_component(model, begin)
            self.module.register_to_config(degradations=self.degradations.describe())
        if frozen:
            # Only the deviation learns; see DeviationHead.
            self.module.requires_grad_(False)
            self.module.deviation.requires_grad_(True)
            self.settings |= {"image_weight": 0.0}
        # Root mean squares over channels read memory in order then: half as long a step again without it, on processors.
        networks: list[torch.nn.Module] = [self.module, self.stage.model]
        for network in networks:
            network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.validation = validation

    def prepare(self, device: torch.device) -> None:
        self.stage.model.to(device)

    def lessons(self, images: torch.Tensor, generator: torch.Generator, part: Part = WHOLE, level: float | None = None) -> Lessons:
        """Degrade images (B, 3, H, W) in [-1, 1], a share of them by mixtures; `level` as for `Degradations`, without mixtures."""
        # Half precision would add an error of its own, and has no code for some of it.
        with torch.autocast(images.device.type, enabled=False):
            return self._lessons(images.float(), generator, part, level)

    def _lessons(self, images: torch.Tensor, generator: torch.Generator, part: Part, level: float | None) -> Lessons:
        drawn = self.degradations.draw(images, generator, level, part)
        clean, measured, holes = images, drawn.measured, torch.zeros(len(images), *images.shape[2:], dtype=torch.bool, device=images.device)
        for index, operator in enumerate(drawn.operators):
            if (gone := missing(operator)) is not None:
                measured[index] = operator.seen(measured[index : index + 1])[0]
                holes[index] = gone[0].to(holes.device)
        share = 0.0 if level is not None else float(self.settings["mixtures"])
        if share:
            total = part.total(len(images))
            mixed = torch.rand(total, generator=generator) < share
            seeds = torch.randint(2**60, (total,), generator=generator)
            clean = images.clone()
            for index, place in enumerate(part.places(len(images)).tolist()):
                if mixed[place]:
                    found = degrade(images[index].cpu(), torch.Generator().manual_seed(int(seeds[place])))
                    clean[index], measured[index], holes[index] = found.clean.to(clean), found.measured.to(measured), False
        return Lessons(clean, measured, holes if bool(holes.any()) else None)

    def loss(self, module, images, generator, part=WHOLE):
        w = self.settings
        images, measured, holes = self.lessons(images, generator, part)
        with torch.no_grad():
            z0 = self.stage.encode(images).float()
        code, local = module.local(measured, holes)
        estimate = SeverityEstimate(code, local.mean((1, 2, 3)))
        error = (code.float() - z0).flatten(1)
        latent = error.square().mean(1)
        spread = error.var(1, unbiased=True)
        if w["variance_form"] == "local":
            safe = local.flatten(1).clamp(min=1e-8)
            variance = 0.5 * (safe.log() + error.detach().square() / safe).mean(1)
            ratio = latent.detach().clamp(min=1e-8).log() - safe.mean(1).log()
            variance = variance + w["whole_weight"] * ratio.square()
        elif w["variance_form"] == "log":
            variance = (spread.detach().clamp(min=1e-8).log() - estimate.variance.clamp(min=1e-8).log()).square()
        else:
            variance = (spread - estimate.variance).square()
        image = torch.zeros((), device=latent.device)
        if w["image_weight"]:
            # The first of the whole batch, so that all its parts together decode what one would.
            share = max(1, round(part.total(len(images)) * w["image_share"]))
            own = int((part.places(len(images)) < share).sum())
            if own:
                decoded = self.stage.decode(estimate.latent[:own]).float()
                image = F.mse_loss(decoded, images[:own]) * (own * part.count / share)
        loss = latent.mean() + w["variance_weight"] * variance.mean() + w["image_weight"] * image
        return {"loss": loss, "latent": latent.mean(), "variance": variance.mean(), "image": image}

    def validate(self, module):
        figures = {}
        for name, images in self.validation.items():
            true, said, gain, levels = [], [], [], []
            for i, image in enumerate(images):
                image = image.to(module.device)
                image, measured, holes = self.lessons(image, torch.Generator().manual_seed(i))
                estimate = module(measured, holes)
                z0 = self.stage.encode(image)
                decoded = self.stage.decode(estimate.latent)
                true.append((estimate.latent - z0).float().square().mean())
                said.append(estimate.variance[0])
                before, after = (F.mse_loss(x.float(), image) + LEAST_ERROR for x in (measured, decoded))
                gain.append(10 * torch.log10(before / after))
                if i < 4:
                    steps = torch.linspace(0, 1, ORDERING_LEVELS).tolist()
                    rising = [self.lessons(image, torch.Generator().manual_seed(i + 100 * j), level=t) for j, t in enumerate(steps)]
                    levels.append(torch.cat([module(one.measured, one.holes).variance for one in rising]))
            true, said = torch.stack(true).cpu(), torch.stack(said).cpu()
            figures |= {
                f"variance_{name}": round(true.mean().item(), 5),
                f"estimated_{name}": round(said.mean().item(), 5),
                f"spearman_{name}": round(spearman(true, said), 4),
                f"ordering_{name}": round(ordering_accuracy(torch.stack(levels).cpu()), 4),
                f"gain_{name}": round(torch.stack(gain).mean().item(), 3),
            }
        return figures

    def sample_grid(self, module) -> Image.Image:
        """Return rows of: picture, measurement, decoded estimate."""
        rows = []
        for images in self.validation.values():
            for i, image in enumerate(images[:4]):
                image, measured, holes = self.lessons(image.to(module.device), torch.Generator().manual_seed(i))
                decoded = self.stage.decode(module(measured, holes).latent)
                rows.append([to_picture(image), to_picture(measured), to_picture(decoded)])
        return grid(rows)

    def export(self, module, folder: Path) -> None:
        module.to(memory_format=torch.contiguous_format)
        with new_folder(folder / self.component, "is there room on the disk?", replace=True) as part:
            module.save_pretrained(part, safe_serialization=True)
