"""flashdiff bench"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashdiff_cli import lean
from flashdiff_cli.commands import complete, helpful, options, process
from flashdiff_cli.commands.bench_speed import asks_for_speed, run_speed
from flashdiff_cli.commands.extras import require
from flashdiff_cli.commands.flags import OPERATOR_FLAGS, OPERATOR_NAMES, SOLVER_FLAGS, closed, flag, split, with_flags
from flashdiff_cli.errors import FlashdiffError, UsageError

if TYPE_CHECKING:
    from flashdiff_cli.bench.folder import OutputFolder
    from flashdiff_cli.bench.runner import Bench

PROTOCOL, HERE = "Protocol", "Without a protocol"
RANGES = tuple(replace(f, type=str, metavar=f"{f.metavar or 'VALUE'}[:HIGH]" if f.type is float else f.metavar) for f in OPERATOR_FLAGS)
"""The operators' options as text: a number may be a range."""


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _refuse_with_protocol(given: dict[str, Any]) -> None:
    """Raise a UsageError if something was given that a protocol says itself."""
    if names := [name for name, value in given.items() if value is not None]:
        raise UsageError(f"{flag(names[0])} does not go with --protocol, which says it itself")


def _find(images: list[Path], recursive: bool, ids: Any, limit: int | None) -> list[Any]:
    """Return the pictures of a bench: all that are found, or those of the ids, and no more than a limit."""
    from flashdiff_cli.bench.dataset import choose_ids
    from flashdiff_cli.runs.inputs import find

    jobs = find(images, recursive, None, sys.stdin)
    return (choose_ids(jobs, ids) if ids else jobs)[:limit]


def _measure(runner: Bench, command: list[str], kept: OutputFolder, notes: Sequence[str], figures: bool, as_json: bool, quiet: bool) -> int:
    """Run a bench and write what comes of it.

    Returns:
        the exit code: 1 if a record failed, 128 and its number after a signal.
    """
    from flashdiff_cli.bench.report import write_pictures, write_protocol, write_summary
    from flashdiff_cli.commands import bench_show as show

    for line in notes:
        show.say_error(line)
    write_protocol(runner, command, kept.into)
    interrupted = show.follow(runner, as_json, quiet)
    summary = write_summary(runner, kept.into)
    if figures:
        write_pictures(runner, summary, kept.into)
    if not as_json:
        show.say_summary(summary)
    return interrupted or int(any(r.status == "failed" for r in runner.current()))


@closed
@with_flags(SOLVER_FLAGS, "Solver settings", any_option=True)
@with_flags(RANGES, "Degradation (with a protocol: in its conditions)")
def bench(
    context: typer.Context,
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGES...|speed",
            help="Clean pictures; or speed: how long a model's parts take here.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of records, tables and images.", show_default=False)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files in --output that no bench made, or that were changed.")] = False,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol", "-p", help="A protocol of the package by name, or a TOML file.", autocompletion=complete.protocols, rich_help_panel=PROTOCOL
        ),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the protocols of the package.", rich_help_panel=PROTOCOL)] = False,
    arms: Annotated[str | None, typer.Option("--arms", help="Only these, by name: a,b", rich_help_panel=PROTOCOL)] = None,
    conditions: Annotated[str | None, typer.Option("--conditions", help="Only these, by name: a,b", rich_help_panel=PROTOCOL)] = None,
    recursive: options.Recursive = False,
    limit: options.Limit = None,
    ids: Annotated[Path | None, typer.Option("--ids", help="Only the pictures that this file names, one a line (default: the protocol's).")] = None,
    size: Annotated[int | None, typer.Option("--size", min=8, help="Cut to a centred square of at most this side (default: the protocol's).")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures of equal size at once.")] = 1,
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", help="Of the tables: psnr, ssim, ms_ssim, gmsd, haarpsi, gradient, lpips_vgg, lpips_alex, fid, kid; a,b"),
    ] = None,
    save_images: Annotated[int, typer.Option("--save-images", min=0, help="Write the images of the first so many pictures.")] = 0,
    figures: Annotated[bool, typer.Option("--figures/--no-figures", help="Draw figures and a page at the end.")] = True,
    fidelity: Annotated[
        bool | None, typer.Option("--fidelity/--no-fidelity", help="Of all arms that do not say (default: the protocol's, the model's).")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Instead of the protocol's.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; do nothing.")] = False,
    operator: Annotated[
        str | None, typer.Option("--operator", help=f"What degrades: {OPERATOR_NAMES}.", autocompletion=complete.operators, rich_help_panel=HERE)
    ] = None,
    noise_std: Annotated[
        float | None, typer.Option("--noise-std", help="Noise on intensities from 0 to 1 (default: 0.05).", rich_help_panel=HERE)
    ] = None,
    levels: Annotated[
        int | None, typer.Option("--levels", help="Severity of each picture at so many levels (default: none).", rich_help_panel=HERE)
    ] = None,
    solver: Annotated[
        str | None, typer.Option("--solver", help="Solvers: a,b,c (default: ldps).", autocompletion=complete.solvers, rich_help_panel=HERE)
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            "--start",
            help="Arms: flash, blind, full, a start step, come-closer:STEP; decoded, input, wiener, richardson-lucy, tv, biharmonic.",
            rich_help_panel=HERE,
        ),
    ] = "input,decoded,flash",
    steps: Annotated[int | None, typer.Option("--steps", help="Length of the schedule of all but full.", rich_help_panel=HERE)] = None,
    eta: Annotated[float | None, typer.Option("--eta", help="0 (DDIM) to 1 (ancestral), of all but full.", rich_help_panel=HERE)] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model: a name, a folder, or owner/name@revision (default: the protocol's).")
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    offline: options.Offline = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON record a line, and nothing else, on stdout.")] = False,
    quiet: options.Quiet = False,
    threads: process.Threads = None,
    verbose: process.Verbose = False,
    log_file: process.LogFile = None,
    help_all: helpful.HelpAll = False,
    **values,
) -> None:
    """Measure arms against each other on clean pictures: each is degraded once, and every arm gets the same measurement.

    A killed bench goes on where it was: run it again.

    Examples:

    flashdiff bench faces/ --protocol gblur-varying -o out/

    flashdiff bench faces/ --operator gaussian-blur --blur-std 0.3:3 --solver ldps,psld --start flash,full -o out/

    flashdiff bench speed --size 256
    """
    from flashdiff_cli.commands import bench_show as show

    if list_:
        show.say_protocols()
        return
    if not images:
        raise UsageError("give the folder of clean pictures, or --list for the protocols")
    if asks_for_speed(images):
        run_speed(model or "photos", device, dtype, offline, size, limit, json)
        return
    from flashdiff_cli.bench import protocol as protocols
    from flashdiff_cli.bench.dataset import scan
    from flashdiff_cli.bench.from_flags import make, parse

    of_operator, of_solver = split(values)
    of_operator = parse(of_operator)
    if protocol is not None:
        given = {"operator": operator, "noise_std": noise_std, "levels": levels, "solver": solver, "steps": steps, "eta": eta}
        _refuse_with_protocol(given | of_solver)
        plan = protocols.load(protocol).with_options(of_operator)
    else:
        plan = make(operator, of_operator, noise_std, levels, _names(solver), of_solver, _names(start) or (), steps, eta)
    changes = {"size": size, "seed": seed, "fidelity": fidelity, "metrics": None if metrics is None else tuple(_names(metrics) or ())}
    plan = replace(plan, **{k: v for k, v in changes.items() if v is not None})
    selected = plan.select(_names(arms), _names(conditions))
    if output is None and not dry_run:
        raise UsageError("give --output: the folder of records, tables and images")

    jobs = _find(images, recursive, ids or plan.dataset.get("ids"), limit)
    if dry_run or output is None:
        show.say_plan(selected, len(jobs))
        return
    require("bench", "a bench needs")
    with lean.start():
        from flashdiff_cli.bench.folder import OutputFolder
        from flashdiff_cli.bench.runner import Bench
        from flashdiff_cli.runs.restorer import Restorer

    kept = OutputFolder(output, figures, overwrite)
    restorer = Restorer(model or plan.model, device, dtype, offline=offline)
    items, errors = scan(jobs, plan.size, restorer.pipeline.size_multiple)
    if not items:
        raise FlashdiffError(f"no picture can be used: {errors[0]}")
    runner = Bench(plan, selected, restorer.pipeline, restorer.model, items, output, batch, save_images, restorer.dtype)
    code = _measure(runner, context.obj, kept, (*errors, *runner.measures.missing), figures, json, quiet)
    raise typer.Exit(code or int(bool(errors)))
