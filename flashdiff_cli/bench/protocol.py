"""What an experiment is: conditions that degrade, arms that restore, in one TOML file (docs/bench.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashdiff_cli.bench.classical import CLASSICAL
from flashdiff_cli.bench.metrics import EXTRA, FOLDER, MEASURES
from flashdiff_cli.bounded import in_one_line, read_toml, short
from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators import OPERATORS
from flashdiff_cli.registry import Option
from flashdiff_cli.schema import check_fields, check_value
from flashdiff_cli.solvers import SOLVERS, load_entry_points

PACKAGED = Path(__file__).with_name("protocols")
BASELINES = ("input", "decoded", *CLASSICAL)
STARTS = ("flash", "full", "come-closer")
SEVERITY = "severity"
"""Arm name of the records of a severity sweep."""
SETTINGS = ("steps", "eta", "noise_correction", "variance_multiplier")
"""Entries of a [settings.MODEL.SOLVER] table that belong to the arm; all others are the solver's own."""


NOISE = Option("noise_std", float, "noise on intensities in [0, 1]", None, 0.0, 10.0)
QUALITY = Option("stored_quality", float, "quality of the JPEG file, 1 to 100", None, 1, 100)


@dataclass(frozen=True)
class Assumed:
    """What the solver is told instead of the truth; None: the truth."""

    operator: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    noise_std: float | None = None


@dataclass(frozen=True)
class Condition:
    """How pictures are degraded.

    Attributes:
        name: in records, tables and folders.
        operator: registered name, or a chain `a+b`.
        options: its parameters by name; a pair [low, high] is low + t (high - low) at the picture's level t.
        noise_std: on intensities in [0, 1]; a pair as for an option.
        stored: the measurement is what a file of 8 bits holds: clipped to [0, 1] and rounded.
        stored_quality: of the JPEG file, with colours at half resolution, that the measurement is read from; a pair as for an option, the
            first at level 1, so that strong blur and strong compression come together.
        assumed: what the solver is told, where that is not the truth.
        draws: conditions of the same `draws` take the same level, mask or path and noise of a picture; None: the name.
    """

    name: str
    operator: str
    options: dict[str, Any] = field(default_factory=dict)
    noise_std: float | list[float] = 0.05
    assumed: Assumed | None = None
    draws: str | None = None
    stored: bool = False
    stored_quality: float | list[float] | None = None

    def __post_init__(self):
        _check_name("condition", self.name)
        self.quality(0.0)
        for level in (0.0, 1.0):
            value_at(NOISE, self.noise_std, level)
        _check_operator(self.operator, self.options, f"condition {self.name}")
        if self.assumed is not None and (self.assumed.options or self.assumed.operator):
            _check_operator(self.assumed.operator or self.operator, self.assumed.options, f"condition {self.name}, assumed")

    def noise(self, level: float, assumed: bool = False) -> float:
        """Return the standard deviation of the noise at a level from 0 to 1; with `assumed`, of what the solver is told."""
        return value_at(NOISE, self.assumption[2] if assumed else self.noise_std, level)

    def quality(self, level: float) -> float | None:
        """Return the quality of the JPEG that a measurement is stored as at a level from 0 to 1; None: of none."""
        return None if self.stored_quality is None else value_at(QUALITY, self.stored_quality, 1 - level)

    @property
    def most_noise(self) -> float:
        """The strongest noise that the solver is told of any picture."""
        return max(self.noise(level, assumed=True) for level in (0.0, 1.0))

    @property
    def assumption(self) -> tuple[str, dict[str, Any], float | list[float]]:
        """Operator, options and noise that the solver is told."""
        if self.assumed is None:
            return self.operator, self.options, self.noise_std
        a = self.assumed
        # Options of the truth stay where the assumed operator is the same and says nothing else.
        options = self.options | a.options if a.operator in (None, self.operator) else a.options
        return a.operator or self.operator, options, self.noise_std if a.noise_std is None else a.noise_std


@dataclass(frozen=True)
class Arm:
    """One way to restore a measurement.

    Attributes:
        name: in records, tables and names of files.
        baseline: one of BASELINES, instead of a solver.
        solver: registered name.
        start: "flash" (matched by severity), "full" (pure noise, all steps, no severity encoder), "come-closer" (the
            degraded image encoded by the first stage and noised at `start_step`), or a fixed start step.
        start_step: of "come-closer".
        steps, eta: of the whole schedule; None: the model's, for "full" those of the paper.
        noise_correction, variance_multiplier, encoder: as for the pipeline.
        fidelity: None: the protocol's.
        blind: operator and noise are estimated from the measurement.
        settings: of the solver, or of a classical baseline.
        against: name of the arm that differences are taken to; None: the protocol's baseline.
    """

    name: str
    baseline: str | None = None
    solver: str | None = None
    start: str | int | None = None
    start_step: int | None = None
    steps: int | None = None
    eta: float | None = None
    noise_correction: float | None = None
    variance_multiplier: float | None = None
    fidelity: bool | None = None
    encoder: str | None = None
    blind: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    against: str | None = None

    def __post_init__(self):
        _check_name("arm", self.name)
        if self.name in (SEVERITY, "clean") or (self.name == "input" and self.baseline != "input"):
            raise UsageError(f"arm {self.name!r}: this name has a meaning of its own in records and images; choose another")
        if (self.baseline is None) == (self.solver is None):
            raise UsageError(f"arm {self.name}: give either baseline or solver")
        if self.baseline is not None:
            if self.baseline not in BASELINES:
                raise UsageError(f"arm {self.name}: unknown baseline {self.baseline!r}; choose from {', '.join(BASELINES)}")
            if self.start is not None:
                raise UsageError(f"arm {self.name}: a baseline has no start")
            return
        load_entry_points()
        SOLVERS[str(self.solver)]
        if self.start is None:
            object.__setattr__(self, "start", "flash")
        fixed = isinstance(self.start, int) and not isinstance(self.start, bool) and self.start >= 0
        if self.start not in STARTS and not fixed:
            raise UsageError(f"arm {self.name}: unknown start {self.start!r}; give {', '.join(STARTS)} or a start step")
        if (self.start == "come-closer") != (self.start_step is not None):
            raise UsageError(f'arm {self.name}: start_step goes with start = "come-closer", which needs it')
        if self.blind and self.start in ("full", "come-closer"):
            raise UsageError(f"arm {self.name}: blind needs the severity encoder, which start = {self.start!r} does without")

    @property
    def kind(self) -> str:
        """The baseline, or the kind of start: "flash", "full", "come-closer" or "fixed"."""
        return self.baseline or (self.start if isinstance(self.start, str) else "fixed")


@dataclass(frozen=True)
class Protocol:
    """An experiment.

    Attributes:
        name: of the protocol, in records.
        condition, arm: see there.
        title: one line for people.
        size: pictures are cut to a centred square of at most this side; None: the whole picture. Either is then cut to
            multiples of the model's size_multiple.
        seed: of all draws, together with each picture's content.
        noise_std: of conditions that give none.
        levels: N > 0 adds a severity sweep: each picture and condition at N levels from 0 to 1.
        fidelity: whether arms that say nothing else correct the result by its measurement; None: as the model does.
        baseline: arm that differences are taken to.
        metrics: measures that the tables show.
        model: to use where none is named.
        dataset: `rule` (prose), `ids` (file of names below the folder, one a line).
        settings: by model and solver; the model's own are used where a model is not listed.
    """

    name: str
    condition: tuple[Condition, ...]
    arm: tuple[Arm, ...]
    title: str = ""
    size: int | None = None
    seed: int = 0
    noise_std: float = 0.05
    levels: int = 0
    fidelity: bool | None = None
    baseline: str | None = None
    metrics: tuple[str, ...] = MEASURES
    model: str = "photos"
    dataset: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self):
        for kind, things in (("condition", self.condition), ("arm", self.arm)):
            names = [thing.name for thing in things]
            if twice := sorted({n for n in names if names.count(n) > 1}):
                raise UsageError(f"protocol {self.name}: two {kind}s are named {twice[0]}")
        if not self.condition:
            raise UsageError(f"protocol {self.name}: it needs at least one [[condition]]")
        if not self.arm and not self.levels:
            raise UsageError(f"protocol {self.name}: it needs at least one [[arm]], or levels for a severity sweep")
        known = (*MEASURES, *EXTRA, *FOLDER)
        if unknown := [m for m in self.metrics if m not in known]:
            raise UsageError(f"unknown metric {unknown[0]!r}; choose from {', '.join(known)}")
        if self.size is not None and not 8 <= self.size <= 65_536:
            raise UsageError(f"`size` {self.size} is out of range; give at least 8, at most 65536")
        if self.levels < 0 or self.levels == 1 or self.levels > 1000:
            raise UsageError(f"levels {self.levels} is out of range; give 0 for no severity sweep, or 2 to 1000")

    def select(self, arms: list[str] | None, conditions: list[str] | None) -> Protocol:
        """Return the protocol with only the arms and conditions of these names; `severity` among the arms is the sweep.

        Raises:
            UsageError: there is none of a name.
        """
        kept = {}
        for kind, flag, wanted in (("arm", "`arms`", arms), ("condition", "`conditions`", conditions)):
            if wanted is None:
                continue
            own = {thing.name: thing for thing in getattr(self, kind)}
            names = [n for n in wanted if not (kind == "arm" and n == SEVERITY and self.levels)]
            if unknown := [n for n in names if n not in own]:
                raise UsageError(f"{flag} {unknown[0]}: protocol {self.name} has {', '.join(own)}")
            kept[kind] = tuple(own[n] for n in own if n in names)
            if kind == "arm" and SEVERITY not in wanted:
                kept["levels"] = 0
        return dataclasses.replace(self, **kept)

    def with_options(self, options: dict[str, Any]) -> Protocol:
        """Return the protocol with other values of operators' options, in every condition whose operator has them.

        Raises:
            UsageError: no condition has an option of this name, or a value makes no sense.
        """
        conditions = list(self.condition)
        for name, value in options.items():
            have = [i for i, c in enumerate(conditions) if name in OPERATORS[c.operator].known({})]
            if not have:
                raise UsageError(f"`{name}`: no condition of protocol {self.name} has it")
            for i in have:
                conditions[i] = dataclasses.replace(conditions[i], options=conditions[i].options | {name: value})
        return dataclasses.replace(self, condition=tuple(conditions))

    def against(self, arm: Arm, present: Collection[str]) -> str | None:
        """Name of the arm that this one is compared with, of those that are present: its own choice, or the baseline."""
        return next((n for n in (arm.against, self.baseline) if n in present and n != arm.name), None)

    def given(self, arm: Arm, model: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return (settings of the arm, settings of its solver) that the protocol has for a model, the arm's own on top.

        Args:
            arm: with a solver.
            model: as named by the user; a folder counts by its last name.
        """
        table = self.settings.get(model, self.settings.get(Path(model).name, {})).get(arm.solver or "", {})
        own = {name: getattr(arm, name) for name in SETTINGS if getattr(arm, name) is not None}
        ofarm = {k: v for k, v in table.items() if k in SETTINGS} | own
        return ofarm, {k: v for k, v in table.items() if k not in SETTINGS} | arm.settings


def _check_name(kind: str, name: str) -> None:
    if not isinstance(name, str) or not name or set(name) & set("/\\\0") or name.startswith("."):
        raise UsageError(f"{kind} {name!r}: a name must make a name of a folder; use letters, digits and -")


def value_at(option: Option, value: Any, level: float) -> Any:
    """Return an option's value at level t of a pair [low, high], checked; any other value as it is."""
    if isinstance(value, (list, tuple)):
        if len(value) != 2:
            raise UsageError(f"`{option.name}` {value}: a range is a pair [low, high]")
        low, high = (option.parse(v) for v in value)
        value = low + level * (high - low)
    return option.parse(value)


def _check_operator(name: str, options: dict[str, Any], where: str) -> None:
    try:
        for key, option in OPERATORS[name].known(options).items():
            for level in (0.0, 1.0):
                value_at(option, options.get(key), level)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _build(cls: type, table: Any, where: str, **more: Any) -> Any:
    """Return a dataclass of a TOML table; keys that it does not have are errors."""
    if not isinstance(table, dict):
        raise UsageError(f"{where}: this must be a table")
    names = [f.name for f in dataclasses.fields(cls)]
    if unknown := sorted(set(table) - set(names)):
        raise UsageError(f"{where}: unknown key {short(unknown[0])}; known are {', '.join(names)}")
    check_fields(cls, table, where)
    needed = [f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [n for n in needed if n not in table and n not in more]:
        raise UsageError(f"{where}: {missing[0]} is missing")
    return cls(**(more | table))


def packaged() -> list[str]:
    """Return the names of the protocols that come with the package."""
    return sorted(path.stem for path in PACKAGED.glob("*.toml"))


def load(source: str | Path) -> Protocol:
    """Return a protocol of the package by name, or a file.

    Raises:
        UsageError: there is none, it is no TOML, or something in it is unknown or makes no sense.
    """
    path = PACKAGED / f"{source}.toml" if str(source) in packaged() else Path(source)
    if not path.is_file():
        raise UsageError(f"`protocol` {source}: no such file, and none of the package; it has {', '.join(packaged())}")
    try:
        values = read_toml(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a readable TOML file ({error})") from error
    return from_dict({"name": path.stem} | values, str(path))


def from_dict(values: dict[str, Any], where: str = "protocol") -> Protocol:
    """Return a protocol of plain values, as TOML and protocol.json have them.

    Raises:
        UsageError: as `load`.
    """
    with in_one_line(where, "check the protocol", UsageError):
        return _from_dict(values, where)


def _tables(values: dict[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    """Return the [[name]] tables of a protocol."""
    tables = values.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"{where}: {name} = {short(tables)} must be tables, each under [[{name}]]")
    return tables


def _named(table: dict[str, Any]) -> str:
    name = table.get("name", "?")
    return name[:100] if isinstance(name, str) else short(name)


def _from_dict(values: dict[str, Any], where: str) -> Protocol:
    check_value(values, where)
    noise = values.get("noise_std", Protocol.noise_std)
    conditions = []
    for table in _tables(values, "condition", where):
        here = f"{where}, condition {_named(table)}"
        assumed = table.get("assumed")
        assumed = None if assumed is None else _build(Assumed, assumed, f"{here}, assumed")
        conditions.append(_build(Condition, {"noise_std": noise} | table | {"assumed": assumed}, here))
    arms = [_build(Arm, table, f"{where}, arm {_named(table)}") for table in _tables(values, "arm", where)]
    lists = {"condition": tuple(conditions), "arm": tuple(arms)}
    if isinstance(values.get("metrics"), (list, tuple)):
        lists["metrics"] = tuple(values["metrics"])
    dataset = values.get("dataset", {})
    if not isinstance(dataset, dict) or not all(isinstance(v, str) for v in dataset.values()):
        raise UsageError(f"{where}: dataset = {short(dataset)} must be a table of rule and ids, texts both")
    if unknown := sorted(set(dataset) - {"rule", "ids"}):
        raise UsageError(f"{where}, dataset: unknown key {unknown[0]!r}; known are rule, ids")
    return _build(Protocol, values | lists, where)
