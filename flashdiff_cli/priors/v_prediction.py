"""Networks that predict v = sqrt(abar) eps - sqrt(1 - abar) z0 (Salimans and Ho 2022): Stable Diffusion 2.x at 768 pixels."""

from __future__ import annotations

import torch

from flashdiff_cli.priors.base import Estimate, Prior


class VPrediction(Prior):
    """network(z, t) = v: a rotation of (z0, eps), whose other half is z."""

    def predict(self, z: torch.Tensor, timesteps: torch.Tensor) -> Estimate:
        signal, noise = self.shares(z, timesteps)
        v = self.network(z, timesteps.to(z.device))
        return Estimate(signal * z - noise * v, signal * v + noise * z)
