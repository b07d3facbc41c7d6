"""A protocol of what a person types, without a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flashdiff_cli.bench.protocol import BASELINES, Arm, Condition, Protocol
from flashdiff_cli.errors import UsageError
from flashdiff_cli.operators import OPERATORS
from flashdiff_cli.solvers import SOLVERS, load_entry_points


def parse(options: dict[str, str]) -> dict[str, Any]:
    """Read operators' options as they are typed: of one that is a number, `low:high` is a range.

    Raises:
        UsageError: a range that is none.
    """
    numbers = {option.name for name in OPERATORS for option in OPERATORS[name].options if option.type is float}
    found: dict[str, Any] = {}
    for name, text in options.items():
        found[name] = text
        if name in numbers and ":" in text:
            try:
                low, high = map(float, text.split(":"))
            except ValueError:
                raise UsageError(f"`{name}` {text!r} is not a range; give LOW:HIGH, e.g. 0.3:3") from None
            found[name] = [low, high]
    return found


def make(
    operator: str | None,
    operator_options: dict[str, Any],
    noise_std: float | None = None,
    levels: int | None = None,
    solvers: Sequence[str] | None = None,
    solver_options: dict[str, Any] | None = None,
    starts: Sequence[str] = (),
    steps: int | None = None,
    eta: float | None = None,
) -> Protocol:
    """Return one condition, and an arm for each solver and start.

    Args:
        operator, operator_options, noise_std: of the condition; options as `parse` gives them.
        levels: of a severity sweep.
        solvers: None: ldps.
        solver_options: given to each solver that has them.
        starts: baselines, "flash", "blind", "full", start steps, or "come-closer:STEP".
        steps, eta: of all arms but "full".

    Raises:
        UsageError: no operator, or a name or value that makes no sense.
    """
    if operator is None:
        raise UsageError("give `protocol`, or `operator`: what degrades the pictures")
    condition = Condition(operator, operator, operator_options, 0.05 if noise_std is None else noise_std)
    load_entry_points()
    solvers, solver_options = solvers or ["ldps"], solver_options or {}
    own = {name: {o.name for o in SOLVERS[name].options} for name in solvers}
    for name in solver_options:
        if not any(name in has for has in own.values()):
            raise UsageError(f"`{name}` does not go with `solver` {','.join(solvers)}")
    arms: list[Arm] = []
    for start in starts:
        if start in BASELINES:
            arms.append(Arm(start, baseline=start))
            continue
        for solver in solvers:
            settings = {k: v for k, v in solver_options.items() if k in own[solver]}
            against = f"full-{solver}" if "full" in starts and start != "full" else None
            common = {"solver": solver, "settings": settings, "against": against}
            arms.append(_arm(start, common, {"steps": steps, "eta": eta}, len(solvers) == 1))
    baseline = "input" if "input" in starts else None
    return Protocol(operator, (condition,), tuple(arms), levels=levels or 0, baseline=baseline)


def _arm(start: str, common: dict[str, Any], grid: dict[str, Any], only: bool) -> Arm:
    """Return the arm of one solver from one start.

    Args:
        start: as typed.
        common: `solver` and what every start has.
        grid: `steps` and `eta`.
        only: whether there is no other solver, so that a fixed start needs no solver in its name.

    Raises:
        UsageError: there is no such start.
    """
    kind, _, step = start.partition(":")
    name = f"{start.replace(':', '-')}-{common['solver']}"
    if start == "full":
        return Arm(name, start="full", **common)
    if start in ("flash", "blind"):
        return Arm(name, start="flash", blind=start == "blind", **common, **grid)
    if kind == "come-closer" and step.isdigit():
        return Arm(name, start=kind, start_step=int(step), **common, **grid)
    if start.isdigit():
        return Arm(f"fixed-{start}" if only else f"fixed-{start}-{common['solver']}", start=int(start), **common, **grid)
    raise UsageError(f"`start` {start!r} is unknown; give flash, blind, full, a step, come-closer:STEP, or {', '.join(BASELINES)}")
