"""Training of the last step: decoded estimates of a model, and draws near them, with their measurements in; clean pictures out."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from flashdiff_cli.first_stage import FirstStage
from flashdiff_cli.last_step import LastStep, planes
from flashdiff_cli.loading import load_component
from flashdiff_cli.operators import GaussianBlur, Operator
from flashdiff_cli.operators.inpainting import Inpainting
from flashdiff_cli.schedule import Schedule
from flashdiff_cli.training.mixtures import WEIGHTS, Degraded, degrade
from flashdiff_cli.training.recipe import Recipe
from flashdiff_cli.training.sheet import grid, to_picture

SCALE = 0.04
"""Added to the error of a measurement, on the scale of [-1, 1], by which that of the result is divided."""

FLOOR = 1e-5
"""Mean squared error on the scale of [-1, 1] (56 dB) below which nothing is to be gained."""

DRAWN = 0.35
"""Share of the samples whose image is a one-step draw of the diffusion model from its matched start, or between that and the estimate."""


def filled(measured: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Fill the holes of (B, 3, H, W), mask (B, 1, H, W) 1 where kept, from coarser and coarser averages of what is kept."""
    total, weight, levels = measured * mask, mask, []
    while min(total.shape[-2:]) > 1:
        levels.append((total, weight))
        total, weight = (F.avg_pool2d(part, 2, ceil_mode=True) for part in (total, weight))
    below = total / weight.clamp(min=1e-6)
    for total, weight in reversed(levels):
        below = F.interpolate(below, size=total.shape[-2:], mode="bilinear", align_corners=False)
        below = torch.where(weight > 0.05, total / weight.clamp(min=0.05), below)
    return below


class LastStepTask:
    """Mean absolute error after every round, as a share of what the measurement is off: faint degradations count as strong ones do.

    `recipe.model`: `channels`, `blocks`, `rounds` of `LastStep`, or `begin`, a component to go on from. The model folder supplies the
    first stage, the diffusion model and the severity encoders whose estimates are restored.
    """

    component = "last_step"

    def __init__(self, recipe: Recipe, validation: dict[str, list[torch.Tensor]], model: Path):
        self.stage = FirstStage(load_component(model, "first_stage").requires_grad_(False).eval())
        roles = ("severity", "severity_mixed")
        self.encoders = {role: load_component(model, role).requires_grad_(False).eval() for role in roles if (model / role).is_dir()}
        self.unet = load_component(model, "unet").requires_grad_(False).eval()
        self.schedule = Schedule.from_table(load_component(model, "scheduler").alphas_cumprod)
        torch.manual_seed(recipe.seed)
        settings = dict(recipe.model)
        begin = settings.pop("begin", None)
        self.module = load_component(model, begin) if begin else LastStep(**settings, degradations="mixtures")
        self.rounds = self.module.config.rounds
        self.validation = validation

    def prepare(self, device: torch.device) -> None:
        for part in (self.stage.model, self.unet, *self.encoders.values()):
            part.to(device)

    def _encoder(self, sample: Degraded) -> str:
        blurred = isinstance(sample.operator, GaussianBlur) and sample.noise_std <= 0.09
        return "severity" if blurred or len(self.encoders) == 1 else "severity_mixed"

    @staticmethod
    def kept(samples: list[Degraded]) -> torch.Tensor:
        """Return the masks (B, 1, H, W), 1 where a pixel is kept."""
        return torch.stack([s.operator.mask[0] if isinstance(s.operator, Inpainting) else torch.ones_like(s.measured[:1]) for s in samples])

    @torch.no_grad()
    def estimates(self, samples: list[Degraded], generator: torch.Generator, device: torch.device) -> torch.Tensor:
        """Return what a decoder hands to the last step: (B, 3, H, W)."""
        seen = torch.stack([s.measured for s in samples])
        masks = self.kept(samples)
        seen = filled(seen, masks).to(device)
        latent = variance = None
        for role, encoder in self.encoders.items():
            chosen = [i for i, sample in enumerate(samples) if self._encoder(sample) == role]
            if not chosen:
                continue
            found = encoder(seen[chosen])
            latent = seen.new_zeros(len(samples), *found.latent.shape[1:]) if latent is None else latent
            variance = seen.new_zeros(len(samples)) if variance is None else variance
            latent[chosen], variance[chosen] = found.latent, found.variance
        drawn = torch.rand(len(samples), generator=generator) < DRAWN
        share = torch.rand(len(samples), generator=generator)
        if bool(drawn.any()):
            z, level = latent[drawn.to(device)], self.schedule.start_level(2.2 * variance[drawn.to(device)]).clamp(min=1)
            noise = torch.randn(z.shape, generator=generator).to(z)
            start = self.schedule.add_noise(z, 0.77 * noise, level)
            clean = self.schedule.estimate_clean(start, self.unet(start, self.schedule.timestep(level).to(device)).sample, level)
            latent[drawn.to(device)] = z + share[drawn].to(z).view(-1, 1, 1, 1) * (clean - z)
        images = self.stage.decode(latent).float().clamp(-1, 1)
        holes = masks.amin((1, 2, 3)) < 1
        # A filled picture goes in as it is half of the time: what a mask keeps needs no first stage.
        raw = (holes & (share < 0.5)).to(device).view(-1, 1, 1, 1)
        return torch.where(raw, seen, images)

    @staticmethod
    def groups(samples: list[Degraded]) -> list[list[int]]:
        """Return the samples whose operators can share a batch."""
        found: dict[tuple, list[int]] = defaultdict(list)
        for i, sample in enumerate(samples):
            operator = sample.operator
            found[(type(operator), getattr(operator, "chroma", ""), type(operator) is Inpainting and i)].append(i)
        return list(found.values())

    def seen(self, samples: list[Degraded], images: torch.Tensor, number: int) -> torch.Tensor:
        """Return the planes (B, 16, H, W) of a round."""
        order, parts = [], []
        for chosen in self.groups(samples):
            operators = [samples[i].operator for i in chosen]
            operator = None if operators[0] is None else Operator.stack(operators)
            measured = torch.stack([samples[i].measured for i in chosen]).to(images)
            noise = torch.tensor([samples[i].noise_std for i in chosen])
            parts.append(planes(images[chosen], measured, operator, noise, number))
            order += chosen
        back = torch.tensor(order).argsort()
        return torch.cat(parts)[back]

    def loss(self, module, images, generator):
        samples = [degrade(image.cpu().float(), generator) for image in images]
        device = images.device
        target = torch.stack([sample.clean for sample in samples]).to(device)
        x = self.estimates(samples, generator, device)
        measured = torch.stack([sample.measured for sample in samples]).to(device)
        before = (self.kept(samples).to(device) * (measured - target)).square().mean((1, 2, 3))
        scale = (SCALE + before.sqrt()).view(-1, 1, 1, 1)
        losses = []
        for number in range(self.rounds):
            with torch.no_grad():
                seen = self.seen(samples, x, number)
            result = module(seen)
            losses.append(((result - target).abs() / scale).mean())
            # A round learns from what the one before really left, without a gradient through the data term.
            x = result.detach().clamp(-1, 1)
        error = (result.detach() - target).square().mean((1, 2, 3))
        gain = 10 * torch.log10((before + FLOOR) / (error + FLOOR)).mean()
        return {"loss": sum(losses) / len(losses), "first": losses[0], "last": losses[-1], "gain": gain}

    @torch.no_grad()
    def restored(self, module, image: torch.Tensor, kind: str, seed: int) -> tuple[Degraded, torch.Tensor]:
        """Return one degraded picture of a kind, and what the last step makes of it (1, 3, H, W)."""
        generator = torch.Generator().manual_seed(seed)
        sample = degrade(image[0], generator, kind)
        x = self.estimates([sample], generator, module.device)
        return sample, module.restore(x, sample.measured[None].to(module.device), sample.operator, torch.tensor([sample.noise_std]))

    def validate(self, module):
        figures = {}
        for name, images in self.validation.items():
            for kind in WEIGHTS:
                gains, after = [], []
                for i, image in enumerate(images):
                    sample, result = self.restored(module, image, kind, i)
                    errors = [F.mse_loss(x, sample.clean).item() for x in (sample.measured, result[0].cpu())]
                    gains.append(10 * torch.log10(torch.tensor((errors[0] + FLOOR) / (errors[1] + FLOOR))).item())
                    after.append(-10 * torch.log10(torch.tensor(errors[1] / 4 + 1e-10)).item())
                figures[f"psnr_{kind}_{name}"] = round(sum(after) / len(after), 2)
                figures[f"gain_{kind}_{name}"] = round(sum(gains) / len(gains), 2)
        return figures

    def sheet(self, module) -> Image.Image:
        """Rows of clean picture, measurement and result."""
        rows = []
        for images in self.validation.values():
            for i, kind in enumerate(list(WEIGHTS)[1:]):
                sample, result = self.restored(module, images[i % len(images)], kind, 100 + i)
                rows.append([to_picture(sample.clean[None]), to_picture(sample.measured[None]), to_picture(result.cpu())])
        return grid(rows)

    def export(self, module, folder: Path) -> None:
        module.save_pretrained(folder / self.component, safe_serialization=True)
