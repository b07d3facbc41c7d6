"""The step that LDPS, GML-DPS and PSLD share: an unconditional step, and one against the gradient of a misfit.

The gradient runs through UNet and decoder. The paper subtracts the gradient of a norm: it has the same length whatever
the noise, so its effect grows with the number of steps. `bayes` weighs the same direction by the noise instead, as
grad log p(y | z_t) of a locally Gaussian posterior does, so that the effect depends on the number of steps no more.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch

from flashdiff_cli.parameters import SOLVER_OPTIONS
from flashdiff_cli.solvers.base import Problem, Solver, norm

LEAST_COSINE = 0.05
"""Between a vector and its product with a covariance, for condition numbers up to 1600 (Kantorovich's inequality). Near pure noise a
network's Jacobian is no covariance: a quotient around 0, or below, made a step so long that the run never came back."""


class GuidedSolver(Solver):
    """z_{t-1} = z'_{t-1} - grad_z ( dc_step ||y - A(Dec(z0(z)))|| + penalty )."""

    options = SOLVER_OPTIONS["ldps"]
    always_draws = False
    dc_step: float
    guidance: str
    model_std: float

    @abstractmethod
    def penalty(self, z0: torch.Tensor, image: torch.Tensor, difference: torch.Tensor, problem: Problem) -> torch.Tensor | float:
        """Return what besides the measurement error is held small; differentiable.

        Args:
            z0: (B, C, h, w) predicted clean latent.
            image: (B, 3, H, W) decoded from it.
            difference: y - A(image).
            problem: the measurements.

        Returns:
            (B,), weights included.
        """

    def step(self, z: torch.Tensor, level: torch.Tensor, problem: Problem, noise: torch.Tensor | None) -> torch.Tensor:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            z0, eps = problem.predict(z, level)
            image = problem.first_stage.decode(z0)
            difference = problem.difference(image)
            penalty = self.penalty(z0, image, difference, problem)
            guide = norm_guided if self.guidance == "norm" else bayes_guided
            z0, eps, gradient = guide(self, Prediction(z, z0, eps, difference, penalty), level, problem)
        return problem.schedule.step(z0, eps, level, noise) - gradient


class Prediction(NamedTuple):
    """What a step is guided by, with the graph that leads back to `z`."""

    z: torch.Tensor
    z0: torch.Tensor
    eps: torch.Tensor
    difference: torch.Tensor
    """y - A(Dec(z0))."""
    penalty: torch.Tensor | float


Guided = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""(z0, eps) that the reverse step is taken from, and what is subtracted after it."""


def norm_guided(solver: GuidedSolver, at: Prediction, level: torch.Tensor, problem: Problem) -> Guided:
    """Guide by grad_z (dc_step ||y - A(Dec(z0))|| + penalty), after the step (paper section 4)."""
    (gradient,) = torch.autograd.grad((solver.dc_step * norm(at.difference) + at.penalty).sum(), at.z)
    return at.z0.detach(), at.eps.detach(), gradient


def bayes_guided(solver: GuidedSolver, at: Prediction, level: torch.Tensor, problem: Problem) -> Guided:
    """Guide by s = grad_z log p(y | z): z0 + (1 - abar) / sqrt(abar) s and eps - sqrt(1 - abar) s, before the step."""
    score = _score(solver, at, level, problem)
    gradient = torch.autograd.grad(at.penalty.sum(), at.z)[0] if torch.is_tensor(at.penalty) else torch.zeros_like(at.z)
    z0, eps = at.z0.detach(), at.eps.detach()
    a = problem.schedule.alpha(level, score)
    return (z0 + (1 - a) / a.sqrt() * score).to(z0.dtype), (eps - (1 - a).sqrt() * score).to(z0.dtype), gradient


def _score(solver: GuidedSolver, at: Prediction, level: torch.Tensor, problem: Problem) -> torch.Tensor:
    """Return grad_z log N(y; A(Dec(z0(z))), (s^2 / dc_step + r^2) I), r^2 what z_t leaves open in y.

    s^2 is the variance of all that no latent explains: the measurement noise, and what the first stage loses.

    The covariance of z0 given z_t is (1 - abar) / sqrt(abar) dz0/dz (Tweedie's second-order formula). Its Rayleigh
    quotient along the residual needs the misfit's gradients at z and z0 only, which one backward pass gives. For a covariance
    the two never stand at more than an angle; where an imperfect network lets them, the quotient is taken at that angle.
    """
    misfit = at.difference.float().flatten(1).square().sum(1) / 2
    at_z, at_z0 = torch.autograd.grad(misfit.sum(), (at.z, at.z0), retain_graph=True)
    a = problem.schedule.alpha(level, misfit)
    at_z, at_z0 = at_z.float().flatten(1), at_z0.float().flatten(1)
    along, most = (at_z * at_z0).sum(1), at_z.norm(dim=1) * at_z0.norm(dim=1)
    spread = (1 - a) / a.sqrt() * torch.maximum(along, LEAST_COSINE * most) / (2 * misfit).clamp(min=1e-12)
    unexplained = problem.noise_variance(misfit) + (2 * solver.model_std) ** 2
    variance = unexplained + solver.dc_step * spread
    return -solver.dc_step * (at_z / variance.clamp(min=1e-6)[:, None]).view_as(at.z)
