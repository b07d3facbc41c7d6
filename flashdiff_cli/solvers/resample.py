"""ReSample: hard data consistency at some steps, and a resampling that takes it back to noise (Song et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable

import torch

from flashdiff_cli.broadcast import shaped
from flashdiff_cli.parameters import SOLVER_OPTIONS
from flashdiff_cli.schedule import Schedule
from flashdiff_cli.solvers.base import SOLVERS, Problem, Solver


@SOLVERS.add
class ReSample(Solver):
    """Every few steps, z0 is replaced by one that explains the measurement and is carried to the level that z' is at.

    Paper section 4. Early steps are not corrected, middle ones in pixels, late ones in the latent. Settings of the
    published experiments: 500 steps, eta 1.
    """

    name = "resample"
    help = "ReSample: the measurement is solved for at every few steps, in pixels first and in the latent later"
    draws = 2
    options = SOLVER_OPTIONS["resample"]
    every: int
    pixels_below: int
    latent_below: int
    proximal: float
    inner_lr: float
    inner_steps: int
    inner_stop: float
    resampling: str
    gamma: float

    @torch.no_grad()
    def step(self, z: torch.Tensor, level: torch.Tensor, problem: Problem, noise: torch.Tensor) -> torch.Tensor:
        stage, level = problem.first_stage, level.cpu()
        z0, eps = problem.predict(z, level)
        result = problem.schedule.step(z0, eps, level, noise[0])
        timestep = problem.schedule.timestep(level)
        due = ((level - 1) % self.every == 0) & (timestep <= self.pixels_below)
        late = timestep <= self.latent_below
        for in_latent, members in ((False, due & ~late), (True, due & late)):
            if not bool(members.any()):
                continue
            part, here, which = problem.select(members), level[members], members.to(z.device)
            if in_latent:
                solved = self.solve(z0[which], stage.decode, here, part)
            else:
                solved = stage.encode(self.solve(stage.decode(z0[which]), lambda x: x, here, part))
            result[which] = self.resample(solved, result[which], here, problem.schedule, noise[1][which])
        return result

    def solve(self, begin: torch.Tensor, image_of: Callable, level: torch.Tensor, problem: Problem) -> torch.Tensor:
        """Find argmin_v ||y - A(image_of(v))||^2 + proximal s^2 / r^2 ||v - begin||^2.

        s^2 is the variance of the measurement noise, r^2 = 1 - abar the one that a standard normal prior leaves z0 at
        this level. Each sample stops by itself.
        """
        # In float32 whatever the model's type: 1 - abar and Adam's small numbers vanish in half precision.
        target = begin.float()
        noise = problem.noise_variance(target)
        tolerance = self.inner_stop**2 * noise
        remaining = 1 - problem.schedule.alpha(level, target)
        weight = self.proximal * noise.view_as(remaining) / remaining
        running = torch.ones(len(begin), dtype=torch.bool, device=begin.device)
        with torch.enable_grad():
            variable = target.clone().requires_grad_()
            optimiser = torch.optim.Adam([variable], lr=self.inner_lr)
            for _ in range(self.inner_steps):
                squares = problem.difference(image_of(variable.to(begin.dtype))).float().flatten(1).square()
                running &= squares.detach().mean(1) > tolerance
                if not bool(running.any()):
                    break
                loss = squares.sum() + (weight * (variable - target).square()).sum()
                (variable.grad,) = torch.autograd.grad(loss, variable)
                before = variable.detach().clone()
                optimiser.step()
                variable.data[~running] = before[~running]
        return variable.detach().to(begin.dtype)

    def resample(self, solved, sampled, level, schedule: Schedule, noise: torch.Tensor) -> torch.Tensor:
        """Draw from N(k sqrt(abar) solved + (1 - k) sampled, k (1 - abar)), k = s / (s + 1 - abar).

        s = gamma (1 - abar_below) / abar_t (1 - abar_t / abar_below), and abar is that of the level below, where
        `sampled` is. The paper's code has abar_t for abar, and takes abar_below from the training timestep t - 1
        whatever the stride of the grid.
        """
        levels = schedule.levels
        at, below = levels[level], levels[level - 1]
        target = below
        if self.resampling == "reference":
            target, below = at, schedule.table[(schedule.timestep(level) - 1).clamp(min=0)]
        # s / (1 - abar) first, so that the clean end, where both are 0, needs no special case.
        ratio = self.gamma / at * (1 - at / below) * torch.where(target == below, 1.0, (1 - below) / (1 - target))
        share = ratio / (ratio + 1)
        mean = shaped(share * target.sqrt(), sampled) * solved + shaped(1 - share, sampled) * sampled
        return mean + shaped((share * (1 - target)).sqrt(), sampled) * noise
