"""Exact data consistency without derivatives: at every level the data term is solved in pixels around the decoded estimate.

Half-quadratic splitting along the reverse process, as DiffPIR (Zhu et al. 2023, algorithm 1) does it in pixels. Through a first stage,
what the solution changes is carried back as a difference of two encodings, so that what encoding loses is lost on both sides and does
not add up over the levels (as ReSample's and LATINO's corrections would).
"""

from __future__ import annotations

import torch

from flashdiff_cli.errors import FlashdiffError
from flashdiff_cli.operators.jpeg import Jpeg
from flashdiff_cli.parameters import SOLVER_OPTIONS
from flashdiff_cli.solvers.base import SOLVERS, Problem, Solver


@SOLVERS.add
class Proximal(Solver):
    """z0' = z0 + Enc(u) - Enc(x), x = Dec(z0), u = argmin |A u - y|^2 / s^2 + |u - x|^2 / r^2.

    s^2 is the variance of the measurement noise and of what the first stage loses; r^2 = error_weight (1 - abar), which a standard normal
    prior leaves of z0 at this level, times what the decoder makes of it. The noise that belongs to z0' takes the step.
    """

    name = "proximal"
    help = "exact data consistency at every step, solved in pixels, without derivatives"
    default_eta = 0.0
    # Where there is hardly any noise left, a step has nothing to agree on any more: the first stage's detour is all it would add.
    spacing = "trailing"
    always_draws = False
    options = SOLVER_OPTIONS["proximal"]
    error_weight: float
    model_std: float

    def check(self, problem: Problem) -> None:
        if not (problem.operator.linear or isinstance(problem.operator, Jpeg)):
            raise FlashdiffError(f"solver {self.name} has no exact solution for {problem.operator.name}; use ldps, gml-dps or resample")

    @torch.no_grad()
    def step(self, z: torch.Tensor, level: torch.Tensor, problem: Problem, noise: torch.Tensor | None) -> torch.Tensor:
        stage = problem.first_stage
        z0, _ = problem.predict(z, level)
        image = stage.decode(z0)
        z0 = z0 + stage.encode(self.solve(image, level, problem).to(image)) - stage.encode(image)
        # In float32 whatever the model's type: 1 - abar vanishes in half precision.
        a = problem.schedule.alpha(level, z.float())
        eps = (z.float() - a.sqrt() * z0.float()) / (1 - a).sqrt()
        return problem.schedule.step(z0, eps.to(z0), level, noise)

    def solve(self, image: torch.Tensor, level: torch.Tensor, problem: Problem) -> torch.Tensor:
        """Return the images (B, 3, H, W) in [-1, 1] that data and estimate agree on, in float32."""
        x, y = image.float(), problem.measurement.float()
        if isinstance(problem.operator, Jpeg):
            return 2 * problem.operator.project((x + 1) / 2, (y + 1) / 2) - 1
        left = self.error_weight * (1 - problem.schedule.alpha(level, x)).flatten()
        return problem.operator.proximal(x, y, problem.noise_variance(x) + (2 * self.model_std) ** 2, left)
