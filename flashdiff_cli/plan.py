"""What a run will do, decided once: the caller's request, then what a model says of itself, then the solver's own values."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import torch

from flashdiff_cli.calibration import TERMS
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.flash import NOISE_RULES, START_MODES, STARTS
from flashdiff_cli.operators import OPERATORS
from flashdiff_cli.operators.base import per_sample
from flashdiff_cli.schedule import Schedule
from flashdiff_cli.severity import SeverityEncoder, trained_for
from flashdiff_cli.solvers import SOLVERS, Solver, load_entry_points

NUMBERS = {"noise_correction": (0.0, 1e6), "variance_multiplier": (0.0, 1e6), "eta": (0.0, 1.0), "steps": (1, 1_000_000)}
"""Lowest and highest value of a choice."""
CHOICES = (*NUMBERS, "settings")
"""What a model may say for a solver and operator, or for a severity encoder; `settings` are the solver's own."""
NO_ENCODER = "this model has no severity encoder; give `start_step`, or train one (flashdiff train severity)"


@dataclass(frozen=True)
class ModelDefaults:
    """What a model says of itself: the entry "defaults" of `model_index.json`. A model that says nothing runs as in the paper.

    Attributes:
        solver: registered name.
        solver_of: by operator, where another solver does better.
        steps: length of the schedule; None: all steps of the training table.
        eta: 0 deterministic to 1 ancestral; None: the solver's.
        noise_correction, variance_multiplier, noise_rule: see `flash.matched`.
        fidelity: whether a result is corrected by its measurement at the end.
        denoiser_gain: see `denoiser.Denoiser`.
        solver_settings: by solver.
        tuned: by solver and operator, or "*" for any: what `flashdiff calibrate` found; any of CHOICES.
        of_encoder: by severity encoder, what differs from the general choices where it is in use; any of CHOICES.
        calibration: by severity encoder; see the module of that name.
    """

    solver: str = "ldps"
    steps: int | None = None
    eta: float | None = None
    noise_correction: float = 1.0
    variance_multiplier: float = 1.0
    noise_rule: str = "variance"
    fidelity: bool = False
    denoiser_gain: Sequence[Sequence[float]] | None = None
    solver_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    tuned: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict[str, Mapping[str, Mapping[str, Any]]])
    of_encoder: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    calibration: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    solver_of: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def read(cls, values: Any, where: str = "defaults") -> ModelDefaults:
        """Check values as JSON has them.

        Args:
            values: an object of this class is taken as it is.
            where: for errors.

        Raises:
            FlashdiffError: an entry is unknown, of the wrong type or out of range.
        """
        if isinstance(values, cls):
            return values
        values = _object(values, where)
        known = [f.name for f in fields(cls)]
        if unknown := [name for name in values if name not in known]:
            raise FlashdiffError(f"{where}: unknown entry {unknown[0]!r}; correct it, or get a newer flashdiff (known: {', '.join(known)})")
        for name, value in values.items():
            here = f"{where}.{name}"
            if name in NUMBERS:
                _number(name, value, here)
            elif name in ("solver", "noise_rule"):
                if not isinstance(value, str) or (name == "noise_rule" and value not in NOISE_RULES):
                    raise FlashdiffError(f"{here} is {value!r}; give {'a name' if name == 'solver' else ' or '.join(NOISE_RULES)}")
            elif name == "fidelity":
                if not isinstance(value, bool):
                    raise FlashdiffError(f"{here} is {value!r}; give true or false")
            elif name != "denoiser_gain":  # which `Denoiser` checks
                _tables(name, value, here)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return the entries that are not the paper's, as JSON has them."""
        usual = type(self)()
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != getattr(usual, f.name)}


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FlashdiffError(f"{where} is no JSON object; correct it, or download the model again")
    return cast("dict[str, Any]", value)


def _name(value: Any, where: str) -> None:
    if not isinstance(value, str):
        raise FlashdiffError(f"{where} is {value!r}; give a name")


def _number(name: str, value: Any, where: str) -> None:
    """Refuse a value that is not in NUMBERS; null leaves steps and eta to the training table and the solver."""
    low, high = NUMBERS[name]
    if value is None and name in ("steps", "eta"):
        return
    number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not low <= number <= high or (name == "steps" and not number.is_integer()):
        raise FlashdiffError(f"{where} is {value!r}; give a {'whole ' if name == 'steps' else ''}number from {low:.15g} to {high:.15g}")


def _choices(value: Any, where: str) -> None:
    for name, entry in _object(value, where).items():
        if name not in CHOICES:
            raise FlashdiffError(f"{where}: unknown entry {name!r}; known are {', '.join(CHOICES)}")
        if name == "settings":
            _object(entry, f"{where}.settings")
        else:
            _number(name, entry, f"{where}.{name}")


def _calibration(value: Any, where: str) -> None:
    table = _object(value, where)
    shapes = {"variance": (TERMS,), "width": (TERMS,), "bounds": (4, 2)}
    for name, shape in shapes.items():
        try:
            given = torch.as_tensor(table[name], dtype=torch.float64)
            good = tuple(given.shape) == shape and bool(given.isfinite().all())
        except (KeyError, TypeError, ValueError, RuntimeError):
            good = False
        if not good:
            size = " x ".join(map(str, shape))
            raise FlashdiffError(f"{where}.{name} must be {size} numbers; fit it again, or leave out the calibration")


def _tables(name: str, value: Any, where: str) -> None:
    check = {"of_encoder": _choices, "calibration": _calibration, "solver_settings": _object, "tuned": _object, "solver_of": _name}[name]
    for key, entry in _object(value, where).items():
        check(entry, f"{where}.{key}")
        if name == "tuned":
            for operator, choice in entry.items():
                _choices(choice, f"{where}.{key}.{operator}")


@dataclass(frozen=True)
class SamplingRequest:
    """What a caller may fix; None leaves it to the model (`make_plan`).

    Attributes:
        solver: registered name, or an instance, which has its settings.
        solver_options: settings by name, over the model's.
        steps: length of the whole reverse process, of which a run takes those below its start.
        eta: 0 deterministic DDIM to 1 ancestral.
        noise_correction, variance_multiplier: see `flash.matched`.
        start: one of `flash.STARTS`: how the start latent is made.
        start_step: start there and not at the matched step; a number or (B,). The schedule's last is pure noise.
        encoder: name of the severity encoder component.
        fidelity: whether the result is corrected by its measurement at the end.
    """

    solver: str | Solver | None = None
    solver_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    steps: int | None = None
    eta: float | None = None
    noise_correction: float | None = None
    variance_multiplier: float | None = None
    start: str = "stochastic"
    start_step: int | torch.Tensor | None = None
    encoder: str | None = None
    fidelity: bool | None = None

    @classmethod
    def of(cls, request: SamplingRequest | None = None, **choices: Any) -> SamplingRequest:
        """Build a request of keyword arguments, over another request's; diffusers' `num_inference_steps` means `steps`.

        Raises:
            UsageError: there is no such choice.
        """
        if "num_inference_steps" in choices:
            choices["steps"] = choices.pop("num_inference_steps")
        known = [f.name for f in fields(cls)]
        if unknown := [name for name in choices if name not in known]:
            raise UsageError(f"unknown argument {unknown[0]!r}; known are {', '.join(known)}")
        return replace(request or cls(), **choices)

    def sample(self, index: int) -> SamplingRequest:
        """Return the request for one sample of a batch."""
        steps = self.start_step
        if not isinstance(steps, torch.Tensor) or steps.numel() == 1:
            return self
        return replace(self, start_step=steps[index : index + 1])

    def unless_started(self, start_step: int | None) -> SamplingRequest:
        """Return the request with a start step, where it says nothing of its own about the start."""
        open_start = self.start_step is None and self.start in START_MODES
        return replace(self, start_step=start_step) if open_start else self


@dataclass(frozen=True)
class SamplingPlan:
    """A run with every choice made.

    Attributes:
        solver: with its settings.
        steps: as chosen; None: all of the training table's.
        schedule: the grid, with eta.
        start: one of `flash.STARTS`.
        start_step: (1,) or (B,); None: matched to the severity.
        noise_correction, variance_multiplier, noise_rule: see `flash.matched`.
        encoder: the severity encoder that looks at the measurement; None: the model has none.
        fidelity: whether the result is corrected by its measurement at the end.
    """

    solver: Solver
    steps: int | None
    schedule: Schedule
    start: str
    start_step: torch.Tensor | None
    noise_correction: float
    variance_multiplier: float
    noise_rule: str
    encoder: str | None
    fidelity: bool

    @property
    def eta(self) -> float:
        """0 deterministic to 1 ancestral."""
        return self.schedule.eta

    @property
    def looks(self) -> bool:
        """Whether the severity encoder is asked; a start from noise, or from the encoded measurement, needs none."""
        return self.encoder is not None and self.start in START_MODES

    def check(self) -> None:
        """Raise a FlashdiffError if the start step is to be matched, and the model has no severity encoder."""
        if self.encoder is None and self.start_step is None:
            raise FlashdiffError(NO_ENCODER)

    def matched_step(self, variance: torch.Tensor) -> torch.Tensor:
        """Return the start steps (B,) that estimated variances (B,) match."""
        return self.schedule.start_level(variance * self.variance_multiplier)

    def as_request(self, encoder: str | None = None) -> SamplingRequest:
        """Return the request that fixes all of this, whatever operator is found; the encoder only where it is named."""
        return SamplingRequest(
            solver=self.solver,
            steps=len(self.schedule),
            eta=self.eta,
            noise_correction=self.noise_correction,
            variance_multiplier=self.variance_multiplier,
            start=self.start,
            start_step=None if self.start == "noise" else self.start_step,
            encoder=encoder,
            fidelity=self.fidelity,
        )

    def describe_solver(self) -> dict[str, Any]:
        """Return name, eta and settings of the solver, for records."""
        return {"name": self.solver.name, "eta": self.eta, **self.solver.describe()}


def choose_encoder(
    encoders: Mapping[str, SeverityEncoder], operator: str | None, name: str | None = None, noise_std: float | None = None
) -> str | None:
    """Choose the severity encoder that was trained on an operator, or on its fallback, or the default one.

    Args:
        encoders: the model's, by component name.
        operator: registered name, or None.
        name: of a component, to override the choice.
        noise_std: on intensities in [0, 1], if known: of several encoders the first whose training reached it.

    Returns:
        its name; None where the model has none.

    Raises:
        UsageError: there is none of the name that was given.
    """
    if name is not None:
        if name not in encoders:
            raise UsageError(f"`encoder` {name!r}: this model has {', '.join(encoders) or 'no severity encoder'}")
        return name
    return trained_for(encoders, _seen(operator) + _kinds(operator), noise_std) or next(iter(encoders), None)


def _seen(operator: str | None) -> list[str]:
    """Return what an encoder is to look for in what it sees of a measurement, if that is not the operator itself."""
    other = OPERATORS[operator].looks_like if operator is not None and operator in OPERATORS else None
    return [] if other is None else [other]


def _kinds(operator: str | None) -> list[str]:
    """Return an operator and its fallback."""
    fallback = OPERATORS[operator].encoder_fallback if operator is not None and operator in OPERATORS else None
    return [name for name in (operator, fallback) if name is not None]


def make_plan(
    request: SamplingRequest,
    defaults: ModelDefaults,
    encoders: Mapping[str, SeverityEncoder],
    schedule_of: Callable[[int | None, float, str | None], Schedule],
    operator: str | None = None,
    noise_std: float | None = None,
) -> SamplingPlan:
    """Make every choice of a run.

    What the request leaves open is taken from what was tuned for this solver and operator, then from what the severity encoder in use
    needs, then from the model's general choices, and last from the solver.

    Args:
        request: the caller's.
        defaults: the model's.
        encoders: the model's severity encoders by component name.
        schedule_of: makes the model's schedule of (steps, eta, spacing).
        operator: registered name of the degradation, or None.
        noise_std: of the measurement on intensities in [0, 1], if known, to choose the encoder.

    Raises:
        UsageError: a setting that makes no sense, or that the solver or the model does not have.
    """
    load_entry_points()
    usual = next((defaults.solver_of[kind] for kind in _kinds(operator) if kind in defaults.solver_of), defaults.solver)
    name = request.solver.name if isinstance(request.solver, Solver) else request.solver or usual
    encoder = choose_encoder(encoders, operator, request.encoder, noise_std)
    asked = {k: v for k in NUMBERS if (v := getattr(request, k)) is not None}
    for k, value in asked.items():
        low, high = NUMBERS[k]
        if not low <= value <= high:
            raise UsageError(f"`{k}` {value} is out of range; give a number from {low:.15g} to {high:.15g}")
    by_operator = defaults.tuned.get(name, {})
    nothing: Mapping[str, Any] = {}
    tuned = next((by_operator[kind] for kind in (*_kinds(operator), "*") if kind in by_operator), nothing)
    general = {k: getattr(defaults, k) for k in NUMBERS} | {"settings": defaults.solver_settings.get(name, {})}
    chosen = ChainMap(asked, dict(tuned), dict(defaults.of_encoder.get(encoder or "", {})), general)

    solver = request.solver
    if not isinstance(solver, Solver):
        given = {k: v for k, v in request.solver_options.items() if v is not None}
        solver = SOLVERS[name](**(dict(chosen["settings"]) | given))
    schedule = schedule_of(chosen["steps"], solver.default_eta if chosen["eta"] is None else chosen["eta"], solver.spacing)
    return SamplingPlan(
        solver=solver,
        steps=chosen["steps"],
        schedule=schedule,
        start=request.start,
        start_step=_start_step(request, schedule),
        noise_correction=chosen["noise_correction"],
        variance_multiplier=chosen["variance_multiplier"],
        noise_rule=defaults.noise_rule,
        encoder=encoder,
        fidelity=defaults.fidelity if request.fidelity is None else request.fidelity,
    )


def _start_step(request: SamplingRequest, schedule: Schedule) -> torch.Tensor | None:
    """Check how a run starts; return its start steps, None where they are matched."""
    if request.start not in STARTS:
        raise UsageError(f"unknown start {request.start!r}; choose from {', '.join(STARTS)}")
    if request.start == "noise":
        if request.start_step is not None:
            raise UsageError("`start` noise begins at the last step of the schedule; leave out `start_step`")
        return torch.tensor([len(schedule)])
    if request.start_step is None:
        if request.start == "come-closer":
            raise UsageError("`start` come-closer needs `start_step`")
        return None
    step = per_sample(request.start_step).long()
    wrong = step[(step < 0) | (step > len(schedule))]
    if len(wrong):
        raise UsageError(f"`start_step` {int(wrong[0])} is out of range; this schedule has {len(schedule)} steps")
    return step


__all__ = ["CHOICES", "ModelDefaults", "SamplingPlan", "SamplingRequest", "choose_encoder", "make_plan"]
