"""Training of a severity encoder (paper section 3.1, eq. 7)."""

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from flashdiff_cli.first_stage import FirstStage
from flashdiff_cli.hub.paths import new_folder
from flashdiff_cli.models.loading import load_component
from flashdiff_cli.severity import SeverityEncoder, SeverityEstimate
from flashdiff_cli.stats import ordering_accuracy, spearman
from flashdiff_cli.training.degradation import Degradations
from flashdiff_cli.training.parts import WHOLE
from flashdiff_cli.training.recipe import Recipe
from flashdiff_cli.training.sample_grid import grid, to_picture

ORDERING_LEVELS = 10


class SeverityTask:
    """||e||^2 / d + variance term + image_weight * ||Dec(z_hat) - x||^2 / D for e = z_hat - z0.

    `recipe.loss`:
        variance_weight, image_weight: lambda_sigma and lambda_im.
        variance_form: "squared" is the paper's (v - var)^2, v the variance of e about its own mean; "log" compares
            logarithms, so that light degradations count as much as heavy ones; "local" is the Gaussian negative
            log-likelihood of every number of e under its own variance, whose mean is the image's: as many lessons an
            image as it has latent numbers; plus `whole_weight` times the "log" term, for the mean is what is used.
        image_share: share of the batch that is decoded for the image term, to save time; its weight is kept.
    """

    component = "severity"
    shares_draws = True

    def __init__(self, recipe: Recipe, validation: dict[str, list[torch.Tensor]], model: Path):
        defaults = {"variance_weight": 1.0, "image_weight": 1.0, "variance_form": "squared", "image_share": 1.0, "whole_weight": 1.0}
        self.settings = recipe.losses(defaults)
        self.degradations = Degradations(recipe.degradation)
        self.stage = FirstStage(load_component(model, "first_stage").requires_grad_(False).eval())
        torch.manual_seed(recipe.seed)
        settings = dict(recipe.model)
        self.component = settings.pop("name", self.component)
        begin = settings.pop("begin", None)
        frozen = settings.pop("frozen_estimate", False)
        if begin is None:
            self.module = SeverityEncoder.from_first_stage(self.stage, degradations=self.degradations.describe(), **settings)
        else:
            self.module = load_component(model, begin)
            self.module.register_to_config(degradations=self.degradations.describe())
        if frozen:
            # Only the deviation learns; see DeviationHead.
            self.module.requires_grad_(False)
            self.module.deviation.requires_grad_(True)
            self.settings |= {"image_weight": 0.0}
        self.validation = validation

    def prepare(self, device: torch.device) -> None:
        self.stage.model.to(device)

    def loss(self, module, images, generator, part=WHOLE):
        w = self.settings
        measured = self.degradations(images, generator, part=part)
        with torch.no_grad():
            z0 = self.stage.encode(images).float()
        code, local = module.local(measured)
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
                measured = self.degradations(image, torch.Generator().manual_seed(i))
                estimate = module(measured)
                z0 = self.stage.encode(image)
                decoded = self.stage.decode(estimate.latent)
                true.append((estimate.latent - z0).float().square().mean())
                said.append(estimate.variance[0])
                gain.append(10 * torch.log10(F.mse_loss(measured, image) / F.mse_loss(decoded.float(), image)))
                if i < 4:
                    steps = torch.linspace(0, 1, ORDERING_LEVELS).tolist()
                    rising = [self.degradations(image, torch.Generator().manual_seed(i + 100 * j), t) for j, t in enumerate(steps)]
                    levels.append(module(torch.cat(rising)).variance)
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
                image = image.to(module.device)
                measured = self.degradations(image, torch.Generator().manual_seed(i))
                decoded = self.stage.decode(module(measured).latent)
                rows.append([to_picture(image), to_picture(measured), to_picture(decoded)])
        return grid(rows)

    def export(self, module, folder: Path) -> None:
        with new_folder(folder / self.component, "is there room on the disk?", replace=True) as part:
            module.save_pretrained(part, safe_serialization=True)
