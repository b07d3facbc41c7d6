"""What a solver is: one reverse step that agrees with the measurement; and the loop that all of them share.

A solver knows nothing of severity and the start knows nothing of solvers: `sample` takes any start latent and runs any
solver from it, each sample from its own level.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.first_stage import FirstStage
from flashdiff_cli.flash import Start, draw
from flashdiff_cli.operators.base import Operator
from flashdiff_cli.operators.registry import OPERATORS
from flashdiff_cli.plugins import load_plugins
from flashdiff_cli.priors.base import Estimate, Prior
from flashdiff_cli.registry import Option, Registry
from flashdiff_cli.schedule import Schedule

ENTRY_POINTS, OPERATOR_ENTRY_POINTS = "flashdiff.solvers", "flashdiff.operators"
"""Entry point groups through which other packages add solvers and operators."""


@dataclass
class Problem:
    """What a solver works on: B measurements, their operator, and the model.

    Attributes:
        measurement: (B, 3, H', W') in [-1, 1] units, of the type that data terms are computed in.
        operator: A, on intensities; its parameters are per sample.
        first_stage: encoder and decoder.
        prior: the latent diffusion model.
        schedule: the grid.
        noise_std: (B,) of the measurement, on intensities in [0, 1].
        index: (B,) positions of these samples in the problem that they were selected from.
        network_evaluations: (B,) UNet forward passes of that whole problem so far, the start's included.
    """

    measurement: torch.Tensor
    operator: Operator
    first_stage: FirstStage
    prior: Prior
    schedule: Schedule
    noise_std: torch.Tensor
    index: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    network_evaluations: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    def __post_init__(self):
        if len(self.network_evaluations) == 0:
            self.index = torch.arange(len(self.measurement))
            self.network_evaluations = torch.zeros(len(self.measurement), dtype=torch.long)

    def select(self, active: torch.Tensor) -> Problem:
        """Return the sub-problem of the samples where `active` (B,) is true; evaluation counts stay shared."""
        if bool(active.all()):
            return self
        chosen = active.cpu().nonzero()[:, 0]
        return replace(
            self,
            measurement=self.measurement.index_select(0, chosen.to(self.measurement.device)),
            operator=self.operator.subset(active),
            noise_std=self.noise_std.index_select(0, chosen.to(self.noise_std.device)),
            index=self.index[chosen],
        )

    def predict(self, z: torch.Tensor, level: torch.Tensor) -> Estimate:
        """Predict (z0, eps) at levels (B,), counted as one network evaluation for each sample."""
        self.network_evaluations[self.index] += 1
        return self.prior.predict(z, self.schedule.timestep(level))

    def difference(self, image: torch.Tensor) -> torch.Tensor:
        """Compute y - A(image) in the [-1, 1] range, shaped as the measurement, of its type; differentiable."""
        return self.measurement - self.operator.on_signed(image.to(self.measurement.dtype))

    def noise_variance(self, like: torch.Tensor) -> torch.Tensor:
        """Return (B,) variance of the measurement noise in the [-1, 1] range, of the type and on the device of `like`."""
        return (2 * self.noise_std).square().to(like.dtype).to(like.device)


def norm(difference: torch.Tensor) -> torch.Tensor:
    """Compute (B,) Euclidean norms, sample by sample, neither squared nor averaged; the gradient is 0 where the norm is 0."""
    return torch.linalg.vector_norm(difference.flatten(1), dim=1)


class Solver(ABC):
    """One way to take a reverse step. Settings are attributes named as their options."""

    name: ClassVar[str]
    help: ClassVar[str]
    needs_adjoint: ClassVar[bool] = False
    default_eta: ClassVar[float] = 1.0
    """eta of the schedule when none is asked for."""
    spacing: ClassVar[str | None] = None
    """Of the grid's timesteps, one of `schedule.SPACINGS`, where a solver needs its own; None: the model's scheduler says."""
    draws: ClassVar[int] = 1
    """Independent noises that a step takes."""
    always_draws: ClassVar[bool] = True
    """Whether a step uses its noise where the schedule's eta is 0, and adds none."""
    options: ClassVar[tuple[Option, ...]] = ()

    def __init__(self, **settings: Any):
        known = {o.name: o for o in self.options}
        if unknown := [k for k, v in settings.items() if v is not None and k not in known]:
            names = ", ".join(f"`{k}`" for k in unknown)
            raise UsageError(f"{names} does not go with `solver` {self.name}")
        for name, option in known.items():
            setattr(self, name, option.parse(settings.get(name)))

    def describe(self) -> dict[str, Any]:
        """Return the settings in use, for records."""
        return {o.name: getattr(self, o.name) for o in self.options}

    def check(self, problem: Problem) -> None:
        """Raise a FlashdiffError if this solver cannot work on this problem."""
        if self.needs_adjoint and not problem.operator.linear:
            raise FlashdiffError(f"solver {self.name} needs a linear operator and {problem.operator.name} is not; use ldps, gml-dps or resample")

    @abstractmethod
    def step(self, z: torch.Tensor, level: torch.Tensor, problem: Problem, noise: torch.Tensor | None) -> torch.Tensor:
        """Take z (B, C, h, w) from levels (B,) to level - 1, guided by the measurement.

        Args:
            z: latents.
            level: (B,) >= 1, on the latents' device.
            problem: the measurements of just these samples.
            noise: (B, C, h, w) standard normal, for the step's own randomness; (draws, B, C, h, w) where draws > 1. None where the
                schedule's eta is 0 and the solver does not `always_draws`.

        Returns:
            (B, C, h, w) at levels - 1.
        """


SOLVERS: Registry[Solver] = Registry("solver")


def load_entry_points() -> None:
    """Add the solvers and operators that installed packages offer under the entry point groups `flashdiff.solvers` and `flashdiff.operators`.

    One that does not load is named in a warning and left out.
    """
    load_plugins(ENTRY_POINTS, SOLVERS, Solver)
    load_plugins(OPERATOR_ENTRY_POINTS, OPERATORS, Operator)


def sample(
    solver: Solver,
    problem: Problem,
    start: Start,
    generators: Sequence[torch.Generator],
    callback: Callable[[int, torch.Tensor], None] | None = None,
    on_step_end: Callable[[int, int, torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Run a solver from a start to the clean end; the one loop over the schedule.

    All samples move on the same levels: a sample joins when the loop reaches its start step. So each gets the steps,
    and draws the noise, that it would get alone. Only where one joins are samples selected; between that nothing of the loop waits for the
    device, or sends it anything but noise that is drawn.

    Args:
        solver: takes the steps.
        problem: B measurements.
        start: latents and start steps.
        generators: one a sample.
        callback: called with (steps done so far of the loop, levels (B,) reached) after each step.
        on_step_end: called with (steps done so far, level that the step began at, latents (B, C, h, w)); returns the latents to go on from.

    Returns:
        Clean latents (B, C, h, w).
    """
    solver.check(problem)
    problem.network_evaluations += start.network_evaluations
    z = start.latent.detach()
    levels = start.level.tolist()
    first = max(levels, default=0)
    problem = replace(problem, noise_std=problem.noise_std.to(z.device))
    moving: list[int] = []
    part, where, here = z, None, problem
    for j in range(first, 0, -1):
        joined = [i for i, level in enumerate(levels) if level >= j]
        if len(joined) > len(moving):
            z = _put_back(z, where, part)
            moving, here = joined, problem.select(start.level >= j)
            where = None if len(joined) == len(levels) else torch.tensor(joined, device=z.device)
            part = z if where is None else z.index_select(0, where)
        noise = _noise_of_step(solver, problem.schedule, part, [generators[i] for i in moving])
        part = solver.step(part, torch.full((len(moving),), j, device=z.device), here, noise).detach()
        if on_step_end is not None:
            z = on_step_end(first - j + 1, j, _put_back(z, where, part))
            part = z if where is None else z.index_select(0, where)
        if callback is not None:
            callback(first - j + 1, start.level.clamp(max=j - 1))
    return _put_back(z, where, part)


def _put_back(z: torch.Tensor, where: torch.Tensor | None, part: torch.Tensor) -> torch.Tensor:
    """Return latents with those at positions `where` (None: all) replaced."""
    return part if where is None else z.index_copy(0, where, part)


def _noise_of_step(solver: Solver, schedule: Schedule, like: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor | None:
    """Draw what a step takes; nothing where it would be multiplied by 0."""
    if schedule.eta == 0 and not solver.always_draws:
        return None
    noise = [draw(like.shape, generators, like) for _ in range(solver.draws)]
    return noise[0] if solver.draws == 1 else torch.stack(noise)
