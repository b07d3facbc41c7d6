"""Networks that predict the noise (Ho et al. 2020): Stable Diffusion 1.x and XL, latent diffusion."""

from __future__ import annotations

import torch

from flashdiff_cli.priors.base import Estimate, Prior


class Epsilon(Prior):
    """network(z, t) = eps."""

    def predict(self, z: torch.Tensor, timesteps: torch.Tensor) -> Estimate:
        signal, noise = self.shares(z, timesteps)
        eps = self.network(z, timesteps.to(z.device))
        return Estimate((z - noise * eps) / signal, eps)
