"""Training of a first stage: an AutoencoderDC with a noise-robust, nearly error-isotropic code."""

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderDC
from PIL import Image

from flashdiff_cli.operators.gaussian_blur import GaussianBlur
from flashdiff_cli.training.data import Crops, Source
from flashdiff_cli.training.linear_start import block_basis, blocks, code_gains, estimation_error, start_linearly
from flashdiff_cli.training.recipe import Recipe, new_network
from flashdiff_cli.training.sample_grid import grid, to_picture


class AutoencoderTask:
    """L1 + MSE reconstruction through a code with added noise, held near the linear code it started from.

    Noise on the code during training makes the decoder forgive the errors that a sampler leaves, and spends the
    code's range where pixels need it. `recipe.loss` may set `l1`, `mse`, `anchor` (weights) and `code_noise` (its
    largest standard deviation).
    """

    component = "first_stage"

    def __init__(self, recipe: Recipe, sources: list[Source], validation: dict[str, list[torch.Tensor]]):
        self.weights = recipe.losses({"l1": 1.0, "mse": 1.0, "anchor": 0.02, "code_noise": 0.15})
        self.validation = validation
        settings = dict(recipe.model)
        whitening = settings.pop("whitening", 0.25)
        torch.manual_seed(recipe.seed)
        self.module = new_network(partial(AutoencoderDC, encoder_out_shortcut=False, decoder_in_shortcut=False), **settings)
        crops = Crops(sources, max(recipe.crop, 64), recipe.seed)
        count = min(2048, 16 * sum(len(source.entries) for source in sources))
        images = torch.stack([crops[i] for i in range(count)])
        self.images = images[:256]
        self.mean, basis, variance = block_basis(images, self.module.config.latent_channels)
        error = self._estimation_error(images[:768], basis, recipe.seed)
        self.gains = code_gains(error, variance, whitening)
        self.encode = basis * self.gains
        start_linearly(self.module, self.mean, self.encode, basis / self.gains)

    def _estimation_error(self, images: torch.Tensor, basis: torch.Tensor, seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        std = torch.empty(len(images)).uniform_(0.3, 3.0, generator=generator)
        measured = GaussianBlur(std).forward(images)
        measured = measured + 0.1 * torch.randn(images.shape, generator=generator)
        clean, degraded = (torch.einsum("bdhw,dc->bchw", blocks(x), basis) for x in (images, measured))
        return estimation_error(clean, degraded)

    def prepare(self, device: torch.device) -> None:
        self.mean, self.encode = self.mean.to(device), self.encode.to(device)

    def linear_code(self, images: torch.Tensor) -> torch.Tensor:
        """Return the linear code that training started from, (B, C, H / 4, W / 4)."""
        centred = blocks(images) - self.mean[:, None, None]
        return torch.einsum("bdhw,dc->bchw", centred, self.encode)

    def loss(self, module, images, generator):
        code = module.encoder(images)
        level = torch.rand(len(images), 1, 1, 1, generator=generator).to(images) * self.weights["code_noise"]
        noise = torch.randn(code.shape, generator=generator).to(images)
        decoded = module.decoder(code + level * noise).float()
        l1, mse = F.l1_loss(decoded, images), F.mse_loss(decoded, images)
        anchor = F.mse_loss(code.float(), self.linear_code(images))
        w = self.weights
        return {"loss": w["l1"] * l1 + w["mse"] * mse + w["anchor"] * anchor, "mse": mse, "anchor": anchor}

    def validate(self, module):
        figures = {}
        for name, images in self.validation.items():
            scores = []
            for image in images:
                image = image.to(module.device)
                decoded = module.decoder(module.encoder(image)).float().clamp(-1, 1)
                scores.append(-10 * torch.log10(((decoded - image) / 2).square().mean()).item())
            figures[f"psnr_{name}"] = round(sum(scores) / len(scores), 3)
        return figures

    def sample_grid(self, module) -> Image.Image:
        rows = []
        for images in self.validation.values():
            for image in images[:4]:
                decoded = module.decoder(module.encoder(image.to(module.device))).float()
                rows.append([to_picture(image), to_picture(decoded)])
        return grid(rows)

    @torch.no_grad()
    def export(self, module, folder: Path) -> None:
        """Save with `scaling_factor` = 1 / root mean square of the code over 256 training crops."""
        code = module.encoder(self.images.to(module.device))
        module.register_to_config(scaling_factor=round(1 / code.square().mean().sqrt().item(), 4))
        module.save_pretrained(folder / self.component, safe_serialization=True)
