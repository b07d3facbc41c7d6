"""flashdiff calibrate"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from flashdiff_cli import lean
from flashdiff_cli.commands import helpful, options, process
from flashdiff_cli.commands.bench import RANGES
from flashdiff_cli.commands.extras import require
from flashdiff_cli.commands.flags import OPERATOR_NAMES, SOLVER_FLAGS, Flag, closed, solver_help, split, with_flags

LISTS = tuple(replace(flag, type=str, metavar="A,B,...") for flag in SOLVER_FLAGS)
OF_ARM = (
    Flag("steps", str, "lengths of the whole process", "A,B,..."),
    Flag("eta", str, "0 (DDIM) to 1 (ancestral)", "A,B,..."),
    Flag("noise_correction", str, "c of the paper: how much noise the start gets", "A,B,..."),
    Flag("variance_multiplier", str, "factors on the estimated variance before the start is chosen", "A,B,..."),
)


@closed
@with_flags(RANGES, "Degradation")
@with_flags((*OF_ARM, *LISTS), "Grid (default: around the settings in use)")
def calibrate(
    images: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Clean pictures on which no result is reported.", show_default=False)],
    operator: Annotated[str, typer.Option("--operator", help=f"What degrades: {OPERATOR_NAMES}.", show_default=False)],
    model: Annotated[str, typer.Option("--model", "-m", help="Folder of the model; the choice is stored there.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of records; a killed run goes on from them.", show_default=False)
    ] = None,
    solver: Annotated[str | None, typer.Option("--solver", help=solver_help())] = None,
    noise_std: Annotated[float, typer.Option("--noise-std", help="Noise on intensities from 0 to 1.")] = 0.05,
    recursive: options.Recursive = False,
    limit: options.Limit = None,
    size: Annotated[int | None, typer.Option("--size", min=8, help="Cut to a centred square of at most this side.", show_default=False)] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures of equal size at once.")] = 1,
    objective: Annotated[str, typer.Option("--objective", help="What is best: balanced, psnr, ssim or haarpsi.")] = "balanced",
    budget: Annotated[
        float | None, typer.Option("--budget", help="Network evaluations that a picture may take on average.", show_default=False)
    ] = None,
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="Of a larger grid, draw so many.")] = 24,
    fidelity: Annotated[
        bool | None, typer.Option("--fidelity/--no-fidelity", help="Correct each result by its measurement (default: the model's).")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of measurements, candidates and draws.")] = 0,
    store: Annotated[bool, typer.Option("--store/--no-store", help="Whether the choice becomes the model's own.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be tried; do nothing.")] = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the choice and the last round as JSON.")] = False,
    quiet: options.Quiet = False,
    threads: process.Threads = None,
    verbose: process.Verbose = False,
    log_file: process.LogFile = None,
    help_all: helpful.HelpAll = False,
    **values,
) -> None:
    """Choose a solver's settings for an operator on clean pictures, and make them the model's own.

    Every candidate of a grid restores the same measurements; the better ones go on to more pictures. The cheapest of those that tie with
    the best is chosen.

    Example:

    flashdiff calibrate validation/ -m my-model/ --operator gaussian-blur --blur-std 0.3:3 --steps 100,250 --dc-step 1,2 -o out/
    """
    from flashdiff_cli.errors import FlashdiffError, UsageError

    if store and not Path(model).is_dir():
        raise UsageError(f"--model {model}: no such folder; the choice is stored in it, so give a folder, or --no-store")
    if output is None and not dry_run:
        raise UsageError("give --output: the folder of records")
    require("bench", "a calibration needs")
    with lean.start():
        from flashdiff_cli.bench import calibrate as engine
        from flashdiff_cli.bench.dataset import scan
        from flashdiff_cli.bench.from_flags import parse
        from flashdiff_cli.bench.protocol import Condition
        from flashdiff_cli.commands import calibrate_show as show
        from flashdiff_cli.runs.inputs import find
        from flashdiff_cli.runs.restorer import Restorer

    of_operator, _ = split(values)
    condition = Condition(operator, operator, parse(of_operator), noise_std)
    given = {flag.name: values[flag.name] for flag in (*OF_ARM, *LISTS) if values[flag.name] is not None}
    if solver is not None:
        engine.parse_axes(solver, given)
    jobs = engine.take_turns(find(images, recursive, None, sys.stdin))[:limit]
    restorer = Restorer(model, device, dtype)
    pipeline = restorer.pipeline
    solver = solver or pipeline.plan(operator=operator).solver.name
    base = engine.present(pipeline, solver, operator)
    axes = engine.parse_axes(solver, given) or engine.axes_around(base)
    tried = engine.candidates(solver, base, axes, candidates, seed)
    if dry_run or output is None:
        show.say_plan(tried, engine.round_sizes(len(jobs), len(tried)))
        return
    items, errors = scan(jobs, size, pipeline.size_multiple)
    if not items:
        raise FlashdiffError(f"no picture can be used: {errors[0]}")
    for line in errors:
        show.say_error(line)
    search = engine.Search(pipeline, model, solver, condition, tried, items, output, objective, budget, batch, restorer.dtype, seed, fidelity)
    if not show.follow(search, quiet):
        raise typer.Exit(130)
    rows = search.table()
    chosen = engine.choose(rows)
    if store:
        engine.store(model, solver, operator, chosen.candidate.choice)
    show.say_choice(rows, chosen, list(axes), objective, len(items), json)
    raise typer.Exit(int(bool(errors)))
