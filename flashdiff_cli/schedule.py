"""The discrete diffusion process, and the grid of it that a run visits.

z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps. A grid has *levels* 0 .. n: level 0 is the clean latent, level j >= 1
has the noise of the grid's j-th timestep. Step j takes a latent from level j to level j - 1, so a run that starts at
level k runs k steps. Every function takes levels per sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch

from flashdiff_cli.broadcast import shaped
from flashdiff_cli.errors import FlashdiffError, UsageError

SPACINGS = ("leading", "trailing", "linspace")
"""Ways to choose the timesteps of a grid; see `Schedule.from_table`."""


def start_index(alphas_cumprod: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Compute argmin_k |snr_k - 1 / variance| over a table, snr_k = abar_k / (1 - abar_k) (paper eq. 8).

    The paper's code runs this many DDPM steps, timesteps index - 1 .. 0, which leaves out the one that the latent is
    at (its DDIM variant leaves out two); `Schedule.start_level` counts it.

    Args:
        alphas_cumprod: (T,), falling.
        variance: (B,), any value >= 0; 0 gives index 0, infinity the last one.

    Returns:
        (B,) int64 indices into the table, on the CPU.

    Raises:
        FlashdiffError: a variance is negative or no number.
    """
    table = _exact(alphas_cumprod)
    variance = _exact(variance)
    if not bool((variance >= 0).all()):
        raise FlashdiffError(f"the severity encoder gave the variance {variance.min().item():g}; try `dtype` float32 or other weights")
    snr = table / (1 - table)
    wanted = 1 / variance.clamp(min=1e-12)
    return (snr[None] - wanted[:, None]).abs().argmin(1)


def _exact(values: torch.Tensor) -> torch.Tensor:
    """Return float64 on the CPU: some devices have no float64, and 1 - abar cancels in float32."""
    return values.detach().cpu().double()


@dataclass(frozen=True)
class Schedule:
    """A grid of timesteps on a training table.

    Args:
        table: (T,) cumulative products abar of the training process, float64.
        timesteps: (n,) rising table indices that the grid visits.
        eta: 1 for DDPM-like ancestral noise, 0 for deterministic DDIM, anything between (Song et al. 2021, eq. 16).
        final_alpha: abar below the first timestep: 1.0, or the table's first entry as in CompVis DDIM.
    """

    table: torch.Tensor
    timesteps: torch.Tensor
    eta: float = 0.0
    final_alpha: float = 1.0
    _moved: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = field(
        default_factory=dict[torch.device, tuple[torch.Tensor, torch.Tensor]], init=False, repr=False, compare=False
    )

    @classmethod
    def from_table(
        cls,
        table: torch.Tensor,
        steps: int | None = None,
        eta: float = 0.0,
        offset: int = 0,
        final_alpha: float = 1.0,
        spacing: str = "leading",
    ) -> Schedule:
        """Return an evenly spaced grid of `steps` timesteps (all of them by default).

        Args:
            table: (T,) abar.
            steps: number of timesteps of the whole process, 1 to T.
            eta: see above.
            offset: added to every timestep of a leading grid (CompVis DDIM: 1).
            final_alpha: see above.
            spacing: of SPACINGS, as diffusers names them (Lin et al. 2024, table 2): which timestep stands for each of the equal parts of the
                process, its first ("leading", CompVis), or its last, so that none is spent where there is hardly any noise ("trailing"); or
                first and last timestep of all, and those between ("linspace").

        Raises:
            UsageError: steps out of range, or an unknown spacing.
        """
        total = len(table)
        steps = total if steps is None else steps
        if not 1 <= steps <= total:
            raise UsageError(f"`steps` {steps} is out of range; this model's process has 1 to {total} steps")
        if not 0 <= eta <= 1:
            raise UsageError(f"`eta` {eta} is out of range; give a number from 0 to 1")
        if spacing not in SPACINGS:
            raise UsageError(f"the spacing {spacing!r} of timesteps is unknown; choose from {', '.join(SPACINGS)}")
        parts = torch.arange(steps, dtype=torch.float64)
        if spacing == "trailing":
            grid = ((parts + 1) * (total / steps)).round().long() - 1
        elif spacing == "linspace":
            grid = (parts * ((total - 1) / max(steps - 1, 1))).round().long()
        else:
            grid = (parts * (total / steps)).round().long()
            # No room for the whole offset: a shifted grid would visit the last timestep twice.
            grid = grid + min(offset, total - 1 - int(grid[-1]))
        # Below timestep 0 there is only the clean latent, whatever the model says of its DDIM grids.
        return cls(_exact(table), grid, eta, 1.0 if grid[0] == 0 else final_alpha)

    def __len__(self) -> int:
        return len(self.timesteps)

    @cached_property
    def levels(self) -> torch.Tensor:
        """(n + 1,) abar of the levels; the first is `final_alpha`."""
        first = torch.tensor([self.final_alpha], dtype=torch.float64)
        return torch.cat([first, self.table[self.timesteps]])

    def timestep(self, level: torch.Tensor) -> torch.Tensor:
        """Return the timesteps that the UNet is given at levels (B,) >= 1, on their device."""
        return self._on(level.device)[1][level - 1]

    def _on(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (abar of the levels, timesteps), kept on each device that asks: a step must not wait for the host."""
        if device not in self._moved:
            levels = self.levels if device.type == "mps" else self.levels.to(device)
            self._moved[device] = (levels, self.timesteps.to(device))
        return self._moved[device]

    def start_level(self, variance: torch.Tensor) -> torch.Tensor:
        """Return the level whose signal-to-noise ratio is nearest to 1 / variance (paper eq. 8).

        Args:
            variance: (B,) of the latent's error.

        Returns:
            (B,) int64, 0 (decode at once) to n. Level 0 is taken where the variance is nearer to its noise-to-signal
            ratio (0 if it is clean) than to level 1's.
        """
        index = start_index(self.table[self.timesteps], variance) + 1
        noise = (1 - self.levels[:2]) / self.levels[:2]
        return torch.where(_exact(variance) < noise.mean(), torch.zeros_like(index), index)

    def _abar(self, level: torch.Tensor) -> torch.Tensor:
        # Apple's GPU has no float64, in which alone 1 - abar does not cancel.
        level = level.cpu() if level.device.type == "mps" else level
        return self._on(level.device)[0][level]

    def alpha(self, level: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return abar of levels (B,), shaped to multiply `like` and of its type."""
        return shaped(self._abar(level), like)

    def estimate_clean(self, z: torch.Tensor, eps: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """Compute z0 from a noise prediction: (z - sqrt(1 - abar) eps) / sqrt(abar)."""
        a = self._abar(level)
        return (z - shaped((1 - a).sqrt(), z) * eps) / shaped(a.sqrt(), z)

    def step_std(self, level: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Return the standard deviation of the noise that step `level` adds (Song et al. 2021, eq. 16), shaped as `alpha`."""
        return shaped(self._step_variance(level).sqrt(), like)

    def _step_variance(self, level: torch.Tensor) -> torch.Tensor:
        a, b = self._abar(level), self._abar(level - 1)
        return self.eta**2 * (1 - b) / (1 - a) * (1 - a / b)

    def step(self, z0: torch.Tensor, eps: torch.Tensor, level: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        """Take one reverse step: sqrt(abar') z0 + sqrt(1 - abar' - s^2) eps + s noise, abar' of the level below, s = `step_std`.

        DDIM (Song et al. 2021, eq. 12); with eta = 1 ancestral DDPM.

        Args:
            z0, eps: (B, C, h, w) predictions that belong together.
            level: (B,) >= 1.
            noise: standard normal (B, C, h, w); may be None if eta is 0.
        """
        below, variance = self._abar(level - 1), self._step_variance(level)
        mean = shaped(below.sqrt(), z0) * z0 + shaped((1 - below - variance).clamp(min=0).sqrt(), z0) * eps
        return mean if noise is None else mean + shaped(variance.sqrt(), z0) * noise

    def add_noise(self, z0: torch.Tensor, noise: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """Diffuse a clean latent to levels (B,) with noise (B, C, h, w), drawn or predicted."""
        a = self._abar(level)
        return shaped(a.sqrt(), z0) * z0 + shaped((1 - a).sqrt(), z0) * noise
