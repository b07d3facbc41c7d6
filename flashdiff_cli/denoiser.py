"""The noise prediction that solvers see: the network's, shrunk where its estimate of the clean latent is known to be too large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.priors.base import Estimate, Prediction, Prior, as_network
from flashdiff_cli.priors.epsilon import Epsilon


class Denoiser(Prior):
    """A prior whose clean latent is shrunk by a gain that was measured.

    Where nearly all is noise, a small error of the predicted noise is an error sqrt((1 - abar) / abar) times as large of the clean
    latent, soon larger than that latent. The best estimate linear in the network's own, z0' = g z0, then has a gain g well below 1:
    g = E<z0, z0_true> / E<z0, z0>, measured by timestep. In terms of noise, eps' = g eps + (1 - g) z / sqrt(1 - abar).

    Args:
        prior: a prior, or a noise predictor that is called as prior(z, timesteps).sample.
        alphas_cumprod: (T,) training table.
        gain: pairs (timestep, g), rising timesteps, g in [0, 1]; linear between, constant outside. None: 1 everywhere.

    Raises:
        FlashdiffError: a gain table that makes no sense.
    """

    def __init__(self, prior: Prior | Callable[..., Any], alphas_cumprod: torch.Tensor, gain: Sequence[Sequence[float]] | None = None):
        prior = prior if isinstance(prior, Prior) else Epsilon(as_network(prior), alphas_cumprod)
        super().__init__(prior.network, prior.table)
        self.prior = prior
        self.gain = None
        if gain is None:
            return
        table = _table(gain)
        at = torch.arange(len(alphas_cumprod), dtype=torch.float64).clamp(table[0, 0], table[-1, 0])
        right = torch.searchsorted(table[:, 0].contiguous(), at).clamp(1, max(1, len(table) - 1))
        (x0, g0), (x1, g1) = table[right - 1].T, table[right.clamp(max=len(table) - 1)].T
        self.gain = g0 + (g1 - g0) * (at - x0) / (x1 - x0).clamp(min=1e-9)

    def predict(self, z: torch.Tensor, timesteps: torch.Tensor) -> Estimate:
        estimate = self.prior.predict(z, timesteps)
        if self.gain is None:
            return estimate
        _, share = self.shares(z, timesteps)
        g = self.at("gain", self.gain, timesteps, z)
        clean, noise = g * estimate.clean, g * estimate.noise + (1 - g) * z / share
        # Not left to arithmetic: a gain of 1 is the network's prediction, bit for bit.
        return Estimate(*(torch.where(g == 1, own, shrunk) for own, shrunk in zip(estimate, (clean, noise), strict=True)))


def _table(gain: Sequence[Sequence[float]]) -> torch.Tensor:
    """Return (N, 2) of pairs, checked."""
    try:
        table = torch.as_tensor(gain, dtype=torch.float64)
        good = table.ndim == 2 and table.shape[1] == 2 and len(table) and bool((table[:, 0].diff() > 0).all())
        good = good and bool(((table[:, 1] >= 0) & (table[:, 1] <= 1)).all())
    except (TypeError, ValueError):
        good = False
    if not good:
        raise FlashdiffError("denoiser_gain of this model makes no sense; give pairs [timestep, gain], timesteps rising, gains from 0 to 1")
    return table


__all__ = ["Denoiser", "Prediction"]
