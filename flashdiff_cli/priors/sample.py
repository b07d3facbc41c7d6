"""Networks that predict the clean latent itself."""

from __future__ import annotations

import torch

from flashdiff_cli.priors.base import Estimate, Prior


class Sample(Prior):
    """network(z, t) = z0."""

    def predict(self, z: torch.Tensor, timesteps: torch.Tensor) -> Estimate:
        signal, noise = self.shares(z, timesteps)
        clean = self.network(z, timesteps.to(z.device))
        return Estimate(clean, (z - signal * clean) / noise)
