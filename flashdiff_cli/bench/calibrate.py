"""Settings of a solver for an operator, found on clean pictures by successive halving.

Every candidate restores the same measurements. The first round takes a quarter of the pictures, the next half of them, the last all;
after each the best third goes on, and the best of each length of schedule with it, so that the last table says what fewer steps cost.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flashdiff_cli.bench.dataset import Item
from flashdiff_cli.bench.metrics import MEASURES
from flashdiff_cli.bench.protocol import SETTINGS, Arm, Condition, Protocol
from flashdiff_cli.bench.records import BenchRecord
from flashdiff_cli.bench.runner import Bench
from flashdiff_cli.errors import FlashdiffError, UsageError
from flashdiff_cli.hub.checksums import SUMS, renewed_sums
from flashdiff_cli.models.loading import read_config
from flashdiff_cli.pages import write_text
from flashdiff_cli.pipeline import FlashDiffusionPipeline
from flashdiff_cli.plan import SamplingRequest
from flashdiff_cli.registry import Option
from flashdiff_cli.runs.inputs import Job
from flashdiff_cli.solvers import SOLVERS, load_entry_points
from flashdiff_cli.stats import mean_interval
from flashdiff_cli.storage.url import Url

OF_ARM = (
    Option("steps", int, "length of the schedule", None, 1, 1_000_000),
    Option("eta", float, "0 deterministic to 1 ancestral", None, 0.0, 1.0),
    Option("noise_correction", float, "c of paper eq. 9", None, 0.0, 1e6),
    Option("variance_multiplier", float, "factor on the estimated variance", None, 0.0, 1e6),
)
"""What a solver's settings do not hold, and a candidate does."""

AROUND = {"steps": (0.4, 0.6, 1.0), "noise_correction": (0.85, 1.0, 1.15), "variance_multiplier": (0.7, 1.0, 1.4)}
AROUND |= {"dc_step": (0.5, 1.0, 2.0), "ae_weight": (0.0, 0.03, 0.3, 1.0), "gamma": (0.25, 1.0, 4.0)}
"""The grid where none is given: these multiples of the settings in use."""

PER_HAARPSI, PER_SHARPNESS = 20.0, 10.0
"""Decibels."""
KEPT = 3
"""One candidate in so many goes on to the next round."""
BASELINES = ("input", "decoded")


def measured(record: BenchRecord, name: str) -> float:
    """Return a measure of a finished record, which has it."""
    value = getattr(record, name)
    if value is None:
        raise ValueError(f"{record.image}, {record.arm}: no {name}")
    return value


def balanced(record: BenchRecord) -> float:
    """Return PSNR + 20 HaarPSI - 10 |ln gradient|, in decibels: 0.05 of HaarPSI, or a tenth of the clean picture's sharpness, is worth one.

    PSNR and HaarPSI rise as a picture is smoothed; what holds against that is its gradient, which should be the clean one's.
    """
    psnr, haarpsi, gradient = (measured(record, name) for name in ("psnr", "haarpsi", "gradient"))
    return psnr + PER_HAARPSI * haarpsi - PER_SHARPNESS * abs(math.log(max(gradient, 1e-3)))


@dataclass(frozen=True)
class Objective:
    """What a picture's restoration is worth; more is better."""

    of: Callable[[BenchRecord], float]
    tolerance: float
    """Differences of means below this are not worth network evaluations."""


OBJECTIVES = {
    "balanced": Objective(balanced, 0.1),
    "psnr": Objective(lambda record: measured(record, "psnr"), 0.1),
    "ssim": Objective(lambda record: measured(record, "ssim"), 0.003),
    "haarpsi": Objective(lambda record: measured(record, "haarpsi"), 0.003),
}


@dataclass(frozen=True)
class Candidate:
    """One complete choice."""

    name: str
    choice: dict[str, Any]
    """`steps`, `eta`, `noise_correction`, `variance_multiplier`, and `settings` of the solver: all that it has."""
    in_grid: bool = True
    """Whether it can be chosen."""
    in_use: bool = False
    """The settings that the model has now: they run along to the end, to compare with, also where the grid does not hold them."""

    def value(self, name: str) -> Any:
        return self.choice[name] if name in self.choice else self.choice["settings"][name]

    def arm(self, solver: str) -> Arm:
        own = {k: v for k, v in self.choice.items() if k != "settings"}
        return Arm(self.name, solver=solver, start="flash", settings=self.choice["settings"], **own)


@dataclass(frozen=True)
class Row:
    """A candidate that came to the last round."""

    candidate: Candidate
    means: dict[str, float]
    """Of the measures and of `network_evaluations`, and of the objective as `objective`."""
    difference: dict[str, float | int | None]
    """Of the objective to the best candidate's, paired: `mean`, and `low` and `high` of the 95 % bootstrap interval."""
    tied: bool
    """As good as the best: the interval holds 0, and the mean is within the objective's tolerance."""


def parse_axes(solver: str, given: dict[str, str]) -> dict[str, list[Any]]:
    """Return the grid's values by setting, of text as a person types it: `0.5,1,2`.

    Raises:
        UsageError: the solver does not have a setting, or a value makes no sense.
    """
    load_entry_points()
    known = {option.name: option for option in (*OF_ARM, *SOLVERS[solver].options)}
    if unknown := [name for name in given if name not in known]:
        raise UsageError(f"`{unknown[0]}` does not go with `solver` {solver}")
    axes = {}
    for name, text in given.items():
        values = [known[name].parse(part.strip()) for part in text.split(",") if part.strip()]
        if not values:
            raise UsageError(f"`{name}` {text!r}: give at least one value, or several as 1,2,3")
        axes[name] = list(dict.fromkeys(values))
    return axes


def present(pipeline: FlashDiffusionPipeline, solver: str, operator: str) -> dict[str, Any]:
    """Return the complete choice that a model has now."""
    chosen = pipeline.plan(SamplingRequest(solver=solver), operator)
    return {
        "steps": len(chosen.schedule),
        "eta": float(chosen.eta),
        "noise_correction": chosen.noise_correction,
        "variance_multiplier": chosen.variance_multiplier,
        "settings": chosen.solver.describe(),
    }


def axes_around(choice: dict[str, Any]) -> dict[str, list[Any]]:
    """Return a grid around a choice."""
    flat = {k: v for k, v in choice.items() if k != "settings"} | choice["settings"]
    axes = {}
    for name, factors in AROUND.items():
        if name in flat:
            values = [max(1, round(flat[name] * f)) if name == "steps" else float(f"{flat[name] * f:.3g}") for f in factors]
            axes[name] = list(dict.fromkeys([*values[:-1], flat[name]] if factors[-1] == 1.0 else values))
    return axes


def candidates(solver: str, base: dict[str, Any], axes: dict[str, list[Any]], most: int, seed: int) -> list[Candidate]:
    """Return the grid's candidates, and the settings in use.

    Args:
        solver: registered name.
        base: the settings in use; what no axis names stays as in them.
        axes: values by setting.
        most: of a larger grid, so many are drawn, the settings in use among them if it holds them.
        seed: of that draw.
    """
    own, choices = set(base["settings"]), []
    for point in (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())):
        settings = base["settings"] | {k: v for k, v in point.items() if k in own}
        choices.append(base | {k: v for k, v in point.items() if k not in own} | {"settings": settings})
    in_grid = base in choices
    if len(choices) > most:
        choices = random.Random(seed).sample([c for c in choices if c != base], most - in_grid) + [base] * in_grid
    found = [Candidate(_name(solver, choice), choice, in_use=choice == base) for choice in choices]
    return found if in_grid else [*found, Candidate(_name(solver, base), base, in_grid=False, in_use=True)]


def _name(solver: str, choice: dict[str, Any]) -> str:
    """Name an arm: the same for the same choice, whatever grid it comes from."""
    usual = {option.name: option.default for option in SOLVERS[solver].options}
    flat = {name: choice[name] for name in SETTINGS} | {k: v for k, v in choice["settings"].items() if v != usual[k]}
    return " ".join([solver, *(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in flat.items())])


def take_turns(jobs: Sequence[Job]) -> list[Job]:
    """Return pictures of several folders in turns, so that the first few are of all of them."""
    groups: dict[Path | Url, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.source.parent, []).append(job)
    return [job for row in itertools.zip_longest(*groups.values()) for job in row if job is not None]


class Search:
    """Successive halving; resumable, since each round is a bench.

    Args:
        pipeline, model: as for `Bench`.
        solver: registered name.
        condition: how pictures are degraded.
        tried: the candidates.
        items: the pictures, in the order that the rounds take them.
        folder: for records.
        objective: one of OBJECTIVES.
        budget: network evaluations that a choice may take, on average over the pictures; None: any number.
        batch, dtype: as for `Bench`.
        seed: of the measurements and of every candidate's draws.
        fidelity: None: as the model does.

    Raises:
        UsageError: pictures of one name in several folders; an unknown objective.
    """

    def __init__(
        self,
        pipeline: FlashDiffusionPipeline,
        model: str,
        solver: str,
        condition: Condition,
        tried: Sequence[Candidate],
        items: Sequence[Item],
        folder: str | Path,
        objective: str = "balanced",
        budget: float | None = None,
        batch: int = 1,
        dtype: str = "float32",
        seed: int = 0,
        fidelity: bool | None = None,
    ):
        if objective not in OBJECTIVES:
            raise UsageError(f"`objective` {objective!r} is unknown; choose from {', '.join(OBJECTIVES)}")
        names = [item.below for item in items]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"{twice[0]}: two pictures of this name; rename one, or give the folder above both with -r")
        self.pipeline, self.solver, self.condition = pipeline, solver, condition
        self.tried, self.items = list(tried), list(items)
        self.objective, self.budget = OBJECTIVES[objective], budget
        arms = [Arm(name, baseline=name) for name in BASELINES]
        arms += [candidate.arm(solver) for candidate in tried]
        whole = {"title": f"{solver}, calibrated for {condition.operator}", "seed": seed, "baseline": "input", "fidelity": fidelity}
        self.protocol = Protocol(f"calibrate-{solver}", (condition,), tuple(arms), **whole)
        self._made = (pipeline, model, folder, batch, dtype)
        self.records: dict[tuple[str, str], BenchRecord] = {}
        """By arm and picture."""
        self.finalists: list[Candidate] = []

    def _bench(self, arms: Sequence[str], items: Sequence[Item]) -> Bench:
        pipeline, model, folder, batch, dtype = self._made
        return Bench(self.protocol, self.protocol.select(list(arms), None), pipeline, model, items, folder, batch, dtype=dtype)

    def rounds(self) -> Iterator[Bench]:
        """Yield the benches to run, one after the other; each is chosen by what the one before has found.

        Raises:
            FlashdiffError: the model has no severity encoder, no candidate keeps the budget, or all of them fail.
        """
        yield (bench := self._bench(BASELINES, self.items))
        self._take(bench)
        within = self._within_budget()
        left = [c for c in self.tried if c.in_use or c.name in within]
        for count in round_sizes(len(self.items), len(left)):
            items = self.items[:count]
            yield (bench := self._bench([c.name for c in left], items))
            self._take(bench)
            self.finalists = [c for c in left if all((c.name, item.below) in self.records for item in items)]
            ranked = sorted((c for c in self.finalists if c.name in within), key=lambda c: -sum(self.worth(c, items)))
            if not ranked:
                reason = next((r.error for r in bench.current() if r.status != "done" and r.error), "no record")
                raise FlashdiffError(f"every candidate failed: {reason}")
            kept = _survivors(ranked)
            left = [c for c in self.finalists if c.in_use or c.name in kept]

    def _within_budget(self) -> set[str]:
        """Return the names of the candidates of the grid that may be chosen."""
        steps = {c.name: self.expected(c) for c in self.tried if c.in_grid}
        within = {name for name, n in steps.items() if self.budget is None or n <= self.budget}
        if not within:
            cheapest = min(steps.values())
            raise FlashdiffError(f"`budget` {self.budget:g}: the cheapest candidate takes {cheapest:.1f} evaluations; try fewer `steps`")
        return within

    def _take(self, bench: Bench) -> None:
        current = {(item.below, item.digest) for item in self.items}
        for record in bench.current():
            mine = bench.settings.get((record.condition, record.arm)) == record.settings
            if record.status == "done" and mine and (record.image, record.digest) in current:
                self.records[record.arm, record.image] = record

    def expected(self, candidate: Candidate) -> float:
        """Return reverse steps that a candidate takes on average, by the severities of the pictures.

        Raises:
            FlashdiffError: they are not known.
        """
        found = [self.records.get(("decoded", item.below)) for item in self.items]
        if None in found:
            raise FlashdiffError(f"{self.items[found.index(None)].below}: no severity; the model needs a severity encoder")
        variance = torch.tensor([record.variance for record in found if record is not None]) * candidate.choice["variance_multiplier"]
        plan = self.pipeline.plan(SamplingRequest(solver=self.solver, steps=candidate.choice["steps"]), self.condition.operator)
        return plan.schedule.start_level(variance).double().mean().item()

    def worth(self, candidate: Candidate, items: Sequence[Item]) -> list[float]:
        """Return the objective, picture by picture."""
        return [self.objective.of(self.records[candidate.name, item.below]) for item in items]

    def table(self) -> list[Row]:
        """Return the candidates of the last round, best first; the settings in use are among them even where they cannot be chosen.

        Raises:
            FlashdiffError: what was measured does not keep the budget.
        """
        worth = {c.name: self.worth(c, self.items) for c in self.finalists}
        evaluations = {c.name: self._mean(c, "network_evaluations") for c in self.finalists}
        can = [c for c in self.finalists if c.in_grid and (self.budget is None or evaluations[c.name] <= self.budget)]
        if not can:
            raise FlashdiffError(f"`budget` {self.budget:g}: no candidate of the last round keeps it; give more, or fewer `steps`")
        best = max(can, key=lambda c: sum(worth[c.name]))
        rows = []
        for c in self.finalists:
            means = {m: self._mean(c, m) for m in (*MEASURES, "network_evaluations")}
            means["objective"] = sum(worth[c.name]) / len(self.items)
            difference = mean_interval([a - b for a, b in zip(worth[c.name], worth[best.name], strict=True)])
            rows.append(Row(c, means, difference, c in can and (c is best or self._ties(difference))))
        return sorted(rows, key=lambda row: -row.means["objective"])

    def _ties(self, difference: dict[str, float | int | None]) -> bool:
        low, high, mean = (difference[name] for name in ("low", "high", "mean"))
        return low is not None and high is not None and mean is not None and low <= 0 <= high and mean >= -self.objective.tolerance

    def _mean(self, candidate: Candidate, measure: str) -> float:
        values = [getattr(self.records[candidate.name, item.below], measure) for item in self.items]
        return math.nan if None in values else sum(values) / len(values)


def _survivors(ranked: Sequence[Candidate]) -> set[str]:
    """Return the names of the best third, and of the best of each length of schedule."""
    kept = {c.name for c in ranked[: -(-len(ranked) // KEPT)]}
    return kept | {next(c.name for c in ranked if c.choice["steps"] == n) for n in {c.choice["steps"] for c in ranked}}


def round_sizes(pictures: int, count: int) -> list[int]:
    """Return how many pictures each round takes: a quarter, half, all; fewer rounds for few candidates."""
    sizes = [-(-pictures // 4), -(-pictures // 2), pictures]
    return sorted(set(sizes[-1:] if count <= KEPT else sizes[-2:] if count <= KEPT**2 else sizes))


def choose(rows: Sequence[Row]) -> Row:
    """Return the cheapest of those that tie with the best; of equally cheap ones the better."""
    return min((row for row in rows if row.tied), key=lambda row: (round(row.means["network_evaluations"], 3), -row.means["objective"]))


def store(folder: str | Path, solver: str, operator: str, choice: dict[str, Any]) -> None:
    """Make a choice the model's own for a solver and operator: in model_index.json, and its checksum in SHA256SUMS.

    Raises:
        FlashdiffError: the folder is no model, or cannot be written.
    """
    path = Path(folder) / "model_index.json"
    index = read_config(path)
    defaults = index.get("defaults")
    index["defaults"] = defaults = defaults if isinstance(defaults, dict) else {}
    defaults.setdefault("tuned", {}).setdefault(solver, {})[operator] = choice
    write_text(json.dumps(index, indent=2) + "\n", path)
    if (sums := renewed_sums(Path(folder), path.name)) is not None:
        write_text(sums, Path(folder) / SUMS)
