"""What a run is asked to do, checked before any picture is read; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashdiff_cli.errors import UsageError, choose_from
from flashdiff_cli.parameters import STARTS
from flashdiff_cli.runs.naming import files_of, name_operator, options_of

if TYPE_CHECKING:
    from flashdiff_cli.plan import SamplingRequest

LIMITS = {
    "noise_std": (0.0, 10.0),
    "steps": (1, 1_000_000),
    "eta": (0.0, 1.0),
    "start_step": (0, 1_000_000),
    "noise_correction": (0.0, 1e6),
    "variance_multiplier": (0.0, 1e6),
    "scale": (2, 4),
}
MIN_TILE, MAX_TILE = 64, 4096
TILE = 384
"""Sides above this are cut, unless the settings say otherwise."""


@dataclass
class Settings:
    """What a run is asked to do; None leaves a choice to the model's defaults.

    Attributes:
        operator: registered name, `a+b` for a chain; None: what it was is estimated from the picture.
        operator_options: its parameters, by option name.
        mask: short for operator "mask-inpainting" with this mask_file, white where pixels are kept; "alpha": what the picture's
            own transparency hides is missing, and the result is opaque.
        invert_mask: whether the mask is white where pixels are missing; None: no, and one that looks as if it were is refused. Short for
            the operator's option of that name, which is what the identity has.
        kernel: short for operator "motion-blur" with this kernel_file.
        scale: how many times as large, along each side, the result is to be: short for operator "downsampling" with this factor, before
            the operator that is given, which acts on the small picture. Noise that is not given is what the small picture shows.
        noise_std: on intensities in [0, 1], see `operators.estimate.effective_noise_std`; None: estimated.
        solver: registered name.
        solver_options: its settings, by option name.
        steps: of the whole reverse process, of which a run takes those below its start.
        eta: 0 deterministic to 1 ancestral.
        start: one of `flash.STARTS`.
        start_step: instead of the matched one.
        noise_correction, variance_multiplier: see `flash.matched`.
        encoder: name of the severity encoder component.
        fidelity: whether the result is corrected by its measurement at the end.
        seed: of all draws, together with the picture's content.
        tile: pictures with a longer side are cut into tiles of this side; 0: never.
    """

    operator: str | None = None
    operator_options: dict[str, Any] = field(default_factory=dict)
    noise_std: float | None = None
    solver: str | None = None
    solver_options: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    eta: float | None = None
    start: str = "stochastic"
    start_step: int | None = None
    noise_correction: float | None = None
    variance_multiplier: float | None = None
    encoder: str | None = None
    fidelity: bool | None = None
    seed: int = 0
    tile: int = TILE
    mask: str | Path | None = None
    kernel: str | Path | None = None
    invert_mask: bool | None = None
    scale: int | None = None

    def __post_init__(self):
        self.operator, self.operator_options = name_operator(
            self.operator, self.operator_options, self.mask, self.kernel, self.invert_mask, self.scale
        )

    def identity(self) -> dict[str, Any]:
        """Return what an output depends on, under names that stay: journals keep a hash of it.

        A setting that is added later enters only where it differs from what was done before.
        """
        return {
            "operator": self.operator,
            "operator_options": self.operator_options,
            "noise_std": self.noise_std,
            "solver": self.solver,
            "solver_options": self.solver_options,
            "steps": self.steps,
            "eta": self.eta,
            "start": self.start,
            "start_step": self.start_step,
            "noise_correction": self.noise_correction,
            "variance_multiplier": self.variance_multiplier,
            "encoder": self.encoder,
            "fidelity": self.fidelity,
            "seed": self.seed,
            "tile": self.tile,
            "mask": self.mask,
            "kernel": self.kernel,
        } | ({} if self.scale is None else {"scale": self.scale})

    def request(self) -> SamplingRequest:
        """Return what these settings ask of the sampler."""
        from flashdiff_cli.plan import SamplingRequest

        return SamplingRequest(
            solver=self.solver,
            solver_options=self.solver_options,
            steps=self.steps,
            eta=self.eta,
            noise_correction=self.noise_correction,
            variance_multiplier=self.variance_multiplier,
            start=self.start,
            start_step=self.start_step,
            encoder=self.encoder,
            fidelity=self.fidelity,
        )

    def check(self) -> None:
        """Raise a UsageError for what makes no sense, before any picture is read."""
        if self.operator is not None:
            for name, option in options_of(self.operator, self.operator_options).items():
                option.parse(self.operator_options.get(name))
            for name, path in files_of(self.operator_options).items():
                if not path.is_file():
                    raise UsageError(f"`{name}` {path}: no such file")
        elif given := [k for k, v in self.operator_options.items() if v is not None]:
            raise UsageError(f"`{given[0]}` needs `operator`: which degradation is it a parameter of?")
        if self.start not in STARTS:
            raise UsageError(f"`start` {self.start!r} is unknown; {choose_from(self.start, STARTS)}")
        if self.tile and not MIN_TILE <= self.tile <= MAX_TILE:
            raise UsageError(f"`tile` {self.tile} is out of range; give a number from {MIN_TILE} to {MAX_TILE}, or 0 for no tiles")
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"`{name}` {value} is out of range; give a number from {low:g} to {high:g}")
