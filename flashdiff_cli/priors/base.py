"""What a prior is: a latent diffusion model that says (z0, eps) of a variance preserving latent, whatever its network was trained to predict.

z_t = sqrt(abar_t) z0 + sqrt(1 - abar_t) eps is what every start, schedule and solver computes with. An adapter of this package is the only place
that knows in which coordinates a network works.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from flashdiff_cli.broadcast import shaped

LEAST_SIGNAL = 2.0**-24
"""abar at the least: where a process ends in pure noise, as those of zero terminal SNR and of rectified flow do, divisions by it stay finite
(the value that diffusers has for the same purpose)."""

Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(latent, what it is told of the time) -> prediction, (B, C, h, w) each."""


@dataclass(frozen=True)
class Prediction:
    """What a prior returns when it is called as a UNet is, named as in diffusers."""

    sample: torch.Tensor
    """(B, C, h, w) predicted noise."""


class Estimate(NamedTuple):
    """What a prior makes of a noisy latent; sqrt(abar) clean + sqrt(1 - abar) noise is that latent."""

    clean: torch.Tensor
    """(B, C, h, w): E[z0 | z_t]."""
    noise: torch.Tensor
    """(B, C, h, w): E[eps | z_t]."""


class Prior(ABC):
    """A network behind the face that solvers see.

    Args:
        network: see `Network`.
        table: (T,) abar of the timesteps, falling.
    """

    def __init__(self, network: Network, table: torch.Tensor):
        self.network = network
        self.table = table.detach().cpu().double().clamp(min=LEAST_SIGNAL)
        self._moved: dict[tuple[str, torch.dtype, torch.device], torch.Tensor] = {}

    @abstractmethod
    def predict(self, z: torch.Tensor, timesteps: torch.Tensor) -> Estimate:
        """Predict clean latent and noise of z (B, C, h, w), variance preserving, at timesteps (B,): indices into the table."""

    def __call__(self, z: torch.Tensor, timesteps: torch.Tensor) -> Prediction:
        """Predict the noise alone; arguments as for `predict`."""
        return Prediction(self.predict(z, timesteps).noise)

    def shares(self, z: torch.Tensor, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return sqrt(abar) and sqrt(1 - abar) of timesteps (B,), shaped to multiply `z` and of its type."""
        return self.at("signal", self.table.sqrt(), timesteps, z), self.at("noise", (1 - self.table).sqrt(), timesteps, z)

    def at(self, name: str, values: torch.Tensor, timesteps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return values (T,) at timesteps (B,), shaped to multiply `like` and of its type; kept by name where the run is, which waits for no host."""
        key = (name, like.dtype, timesteps.device)
        if key not in self._moved:
            self._moved[key] = values.to(like.dtype).to(timesteps.device)
        return shaped(self._moved[key][timesteps.long()], like)


def as_network(predictor: Callable[..., Any]) -> Network:
    """Return a network that is called as those of diffusers are, predictor(z, timesteps).sample, as priors call theirs."""
    return lambda z, timesteps: predictor(z, timesteps).sample
