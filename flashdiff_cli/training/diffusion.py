"""Training of the latent diffusion model: noise prediction on the codes of a frozen first stage."""

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DModel
from PIL import Image

from flashdiff_cli.first_stage import FirstStage
from flashdiff_cli.models.loading import load_component
from flashdiff_cli.schedule import Schedule
from flashdiff_cli.training.recipe import Recipe, new_network
from flashdiff_cli.training.sample_grid import grid, to_picture

SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "prediction_type": "epsilon",
}
"""The process of the original latent diffusion models."""

VALIDATION_LEVELS = (20, 60, 150, 400, 700, 900)


class DiffusionTask:
    """Mean squared error of the predicted noise.

    Timesteps are drawn as T * u^p with u uniform and p = `recipe.loss["timestep_power"]`: a matched start seldom lies
    in the noisier half of the process, so p > 1 spends the training where runs take place.

    `recipe.loss["clean_weight"]` adds so many times the squared error of the clean latent that the predicted noise stands for, which
    is larger by (1 - abar) / abar, at most `clean_cap`: where nearly all is noise, an error of the noise that hardly shows in the first
    term ruins a run from pure noise. `recipe.model["begin"]` names a component of the model folder to go on from.
    """

    component = "unet"

    def __init__(self, recipe: Recipe, validation: dict[str, list[torch.Tensor]], model: Path):
        loss = recipe.losses({"timestep_power": 1.0, "clean_weight": 0.0, "clean_cap": 50.0})
        self.power, self.clean = float(loss["timestep_power"]), (float(loss["clean_weight"]), float(loss["clean_cap"]))
        self.stage = FirstStage(load_component(model, "first_stage").requires_grad_(False).eval())
        self.scheduler = DDIMScheduler(**SCHEDULER)
        self.schedule = Schedule.from_table(self.scheduler.alphas_cumprod)
        torch.manual_seed(recipe.seed)
        latent = recipe.crop // self.stage.size_multiple
        channels = self.stage.channels
        settings = dict(recipe.model)
        begin = settings.pop("begin", None)
        if begin is None:
            self.module = new_network(partial(UNet2DModel, sample_size=latent, in_channels=channels, out_channels=channels), **settings)
        else:
            self.module = load_component(model, begin)
        self.validation = validation

    def prepare(self, device: torch.device) -> None:
        self.stage.model.to(device)

    def loss(self, module, images, generator):
        with torch.no_grad():
            z0 = self.stage.encode(images).float()
        u = torch.rand(len(images), generator=generator)
        level = (u**self.power * len(self.schedule)).long().clamp(max=len(self.schedule) - 1) + 1
        noise = torch.randn(z0.shape, generator=generator).to(z0)
        z = self.schedule.add_noise(z0, noise, level)
        eps = module(z, self.schedule.timestep(level).to(z.device)).sample.float()
        error = (eps - noise).square().mean((1, 2, 3))
        abar = self.schedule.alpha(level, error)
        weight, cap = self.clean
        clean = error * ((1 - abar) / abar).clamp(max=cap)
        return {"loss": (error + weight * clean).mean(), "noise": error.mean(), "clean": clean.mean()}

    def _denoise(self, module, image: torch.Tensor, level: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Return the noisy latent, the predicted clean latent and the error of the predicted noise."""
        z0 = self.stage.encode(image.to(module.device)).float()
        noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(seed)).to(z0)
        at = torch.tensor([level + 1])
        z = self.schedule.add_noise(z0, noise, at)
        eps = module(z, self.schedule.timestep(at).to(z.device)).sample.float()
        return z, self.schedule.estimate_clean(z, eps, at), F.mse_loss(eps, noise).item()

    def validate(self, module):
        figures = {}
        for name, images in self.validation.items():
            for level in VALIDATION_LEVELS:
                errors = [self._denoise(module, image, level, i)[2] for i, image in enumerate(images)]
                figures[f"eps_{name}_{level}"] = round(sum(errors) / len(errors), 5)
        return figures

    def sample_grid(self, module) -> Image.Image:
        """Return rows of: picture; noisy latent and one-step estimate, decoded, at rising noise."""
        rows = []
        for images in self.validation.values():
            for i, image in enumerate(images[:3]):
                row = [to_picture(image)]
                for level in VALIDATION_LEVELS[1:]:
                    z, z0, _ = self._denoise(module, image, level, i)
                    row += [to_picture(self.stage.decode(z)), to_picture(self.stage.decode(z0))]
                rows.append(row)
        return grid(rows, cell=144)

    def export(self, module, folder: Path) -> None:
        module.save_pretrained(folder / self.component, safe_serialization=True)
        self.scheduler.save_pretrained(folder / "scheduler")
