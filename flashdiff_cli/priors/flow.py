"""Networks that predict the velocity eps - z0 of rectified flow (Liu et al. 2023; Esser et al. 2024): Stable Diffusion 3, Flux."""

from __future__ import annotations

import torch

from flashdiff_cli.priors.base import LEAST_SIGNAL, Estimate, Network, Prior

LAST_TIME = 1 / (1 + (LEAST_SIGNAL / (1 - LEAST_SIGNAL)) ** 0.5)
"""The time whose abar is LEAST_SIGNAL."""


def alphas_of(times: torch.Tensor) -> torch.Tensor:
    """Return abar of the variance preserving process with the signal-to-noise ratio of times in [0, 1]: (1-t)^2 / ((1-t)^2 + t^2)."""
    t = times.double()
    return (1 - t).square() / ((1 - t).square() + t.square())


class RectifiedFlow(Prior):
    """network(x, told) = eps - z0 at x = (1 - t) z0 + t eps, which is z_t sqrt((1-t)^2 + t^2).

    Args:
        network: see `Network`.
        times: (T,) t of the timesteps, rising, in (0, 1].
        unit: the network is told t times this.
    """

    def __init__(self, network: Network, times: torch.Tensor, unit: float = 1000.0):
        self.times = times.detach().cpu().double().clamp(max=LAST_TIME)
        super().__init__(network, alphas_of(self.times))
        self.unit = unit

    def predict(self, z: torch.Tensor, timesteps: torch.Tensor) -> Estimate:
        t = self.times
        length = ((1 - t).square() + t.square()).sqrt()
        x = self.at("length", length, timesteps, z) * z
        velocity = self.network(x, self.at("told", self.unit * t, timesteps, z.new_zeros(1, dtype=torch.float32)))
        return Estimate(x - self.at("time", t, timesteps, z) * velocity, x + self.at("left", 1 - t, timesteps, z) * velocity)
