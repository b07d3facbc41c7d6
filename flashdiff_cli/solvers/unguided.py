"""The prior alone: reverse steps that do not look at the measurement, to see what guidance adds."""

from __future__ import annotations

import torch

from flashdiff_cli.solvers.base import SOLVERS, Problem, Solver


@SOLVERS.add
class Unguided(Solver):
    """z_{t-1} = z'_{t-1}."""

    name = "unguided"
    always_draws = False
    help = "the diffusion model alone, from the start that severity chose"

    @torch.no_grad()
    def step(self, z: torch.Tensor, level: torch.Tensor, problem: Problem, noise: torch.Tensor | None) -> torch.Tensor:
        return problem.schedule.step(*problem.predict(z, level), level, noise)
