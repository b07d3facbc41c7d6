"""flashdiff restore"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from typing import Annotated, Any

import typer

from flashdiff_cli.commands import complete, engines, helpful, options, process
from flashdiff_cli.commands.flags import OPERATOR_FLAGS, SOLVER_FLAGS, closed, solver_help, split, with_flags
from flashdiff_cli.storage.url import location


@closed
@with_flags(SOLVER_FLAGS, "Solver settings")
@with_flags(OPERATOR_FLAGS, "Degradation", any_option=True)
def restore(
    inputs: options.Inputs,
    output: Annotated[
        Any,
        typer.Option(
            "--output", "-o", metavar="PATH", help="File, or folder (or URL) that mirrors the inputs (default: beside them).", parser=location
        ),
    ] = None,
    recursive: options.Recursive = False,
    limit: options.Limit = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Write each result over its input.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do again what is done, and replace files that stand in the way.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Keep every output of an earlier run, whatever its settings were.")] = False,
    samples: Annotated[
        int, typer.Option("--samples", "-n", min=1, max=1000, help="Restorations of each picture; with their mean and uncertainty.")
    ] = 1,
    severity_map: Annotated[bool, typer.Option("--severity-map", help="Write a map of where each picture is hard.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; do nothing.")] = False,
    suffix: Annotated[str, typer.Option("--suffix", help="Added to names of outputs beside their inputs.")] = "-restored",
    format: Annotated[
        str | None, typer.Option("--format", help="png, jpg, webp, avif, tiff, bmp or heic (default: as the input).", autocompletion=complete.formats)
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option("--quality", min=1, max=100, help="Of JPEG, WebP, AVIF and HEIC (default: 95; the file's own if finer)."),
    ] = None,
    operator: options.Operator = None,
    mask: options.Mask = None,
    kernel: options.Kernel = None,
    noise_std: options.Noise = None,
    scale: options.Scale = None,
    solver: Annotated[str | None, typer.Option("--solver", help=solver_help(), autocompletion=complete.solvers, rich_help_panel="Method")] = None,
    steps: options.Steps = None,
    eta: Annotated[
        float | None,
        typer.Option("--eta", help="0 deterministic (DDIM) to 1 ancestral (default: the model's).", rich_help_panel="Method"),
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            "--start",
            help="Start latent: stochastic, inversion; without severity: noise, come-closer.",
            autocompletion=complete.starts,
            rich_help_panel="Method",
        ),
    ] = "stochastic",
    start_step: Annotated[
        int | None,
        typer.Option("--start-step", help="Start there, not at the step that the severity matches.", rich_help_panel="Method"),
    ] = None,
    fast: options.Fast = False,
    noise_correction: Annotated[
        float | None,
        typer.Option("--noise-correction", help="Factor on the variance of the start noise (c in the paper).", rich_help_panel="Method"),
    ] = None,
    variance_multiplier: options.Multiplier = None,
    encoder: options.Encoder = None,
    fidelity: Annotated[
        bool | None,
        typer.Option(
            "--fidelity/--no-fidelity",
            help="Give back at the end what the measurement says was lost (default: the model's).",
            rich_help_panel="Method",
        ),
    ] = None,
    tile: options.Tile = 384,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            min=1,
            help="Pictures, or tiles of them, at once (default: what fits into a GPU's memory; one by one on a processor).",
            rich_help_panel="Method",
            show_default=False,
        ),
    ] = None,
    seed: options.Seed = 0,
    model: options.Model = "photos",
    prompt: options.Prompt = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    offline: options.Offline = False,
    json: options.Json = False,
    csv: Annotated[Any, typer.Option("--csv", metavar="PATH", help="Write all records there as CSV.", parser=location)] = None,
    page: Annotated[
        Any,
        typer.Option("--report", metavar="PATH", help="Write a page with before/after sliders, plot and table there (.html).", parser=location),
    ] = None,
    quiet: options.Quiet = False,
    threads: process.Threads = None,
    max_megapixels: process.MaxMegapixels = None,
    verbose: process.Verbose = False,
    log_file: process.LogFile = None,
    engine: engines.Engine = "local",
    address: engines.Address = None,
    workers: engines.Workers = None,
    gpus_per_worker: engines.Gpus = None,
    shard: engines.Shard = None,
    help_all: helpful.HelpAll = False,
    **values,
) -> None:
    """Restore pictures: estimate the severity of each, start where it matches, run just those steps.

    Examples:

    flashdiff restore photo.png

    flashdiff restore photo.png --operator gaussian-blur --blur-std 2 --noise-std 0.05

    flashdiff restore small.png --scale 2

    flashdiff restore holiday/ -r -o restored/
    """
    given = dict(locals())  # the settings are among these arguments
    from flashdiff_cli.commands.piped import STANDARD, check_free, check_piped, restore_piped
    from flashdiff_cli.commands.restoring import check_choices, ending_named, settings_among
    from flashdiff_cli.commands.run import find_pictures, run_pictures
    from flashdiff_cli.commands.show import say_error, say_plan
    from flashdiff_cli.commands.table import closing
    from flashdiff_cli.runs import expected
    from flashdiff_cli.runs.inputs import Job, with_targets
    from flashdiff_cli.runs.journal import Journal, fingerprint
    from flashdiff_cli.runs.piped import read_standard_input
    from flashdiff_cli.runs.resume import DO, Claims, decide, known_records, model_identity, sweep_outputs, without_outputs
    from flashdiff_cli.runs.shards import Shard
    from flashdiff_cli.runs.tables import Tables
    from flashdiff_cli.runs.task import Task

    ending = ending_named(format)
    check_choices(fast and start_step is not None, overwrite and resume)
    content = read_standard_input(sys.stdin) if STANDARD in inputs else []
    piped = isinstance(content, bytes) or output == STANDARD
    cluster = engines.cluster_of(engine, address, workers, gpus_per_worker, device, threads)
    journal, jobs, part = Journal(), [], Shard.parse(shard or "1/1")
    passed: Counter[str] = Counter()
    if piped:
        refused = {"--in-place": in_place, "--resume": resume, "--samples": samples > 1, "--severity-map": severity_map, "--shard": shard}
        refused |= {"--dry-run": dry_run, "--csv": csv, "--report": page, "--engine": cluster}
        check_piped(inputs, content, output, json, refused)
        check_free(output, overwrite)
    else:
        jobs = find_pictures(
            inputs, recursive, limit, [] if isinstance(content, bytes) else content, lambda found: without_outputs(found, journal), passed
        )
        # Each part gives names as if it did all, so that no two parts give the same.
        jobs = part.of(with_targets(jobs, output, suffix, ending, in_place, journal.is_of_another))
    tables = Tables(journal, inputs, jobs, csv, page, overwrite, str(part) if shard else None)
    of_operator, of_solver = split(values)

    from flashdiff_cli.hub.download import sha256_of
    from flashdiff_cli.runs.naming import files_of

    changed = {"operator_options": of_operator, "solver_options": of_solver, "start_step": 0 if fast else start_step}
    settings = settings_among(given, **changed)
    settings.check()
    task = Task(settings, model, device, dtype, offline, batch, prompt, samples, severity_map, quality, overwrite, resume)

    if piped:
        job = Job(inputs[0], inputs[0], data=content if isinstance(content, bytes) else None)
        restore_piped(job, task.load, settings, output, ending, quality, overwrite, json, quiet)
        raise typer.Exit(0)
    files = {name: sha256_of(path) for name, path in files_of(settings.operator_options).items()}
    asked = {"quality": quality, "dtype": dtype, "samples": samples, "map": severity_map, "files": files}
    task = replace(task, made_with=fingerprint(**settings.identity(), **asked, **model_identity(model, offline, prompt)))
    decisions = decide(jobs, journal, task.made_with, overwrite, resume, task.beside)
    todo = [d.job for d in decisions if d.action == DO]
    timed = expected.key_of(str(model), device, dtype, settings.start_step == 0, threads)
    expectation = None if cluster else expected.expect(todo, timed, settings.start_step == 0, samples, scale or 1)
    if dry_run:
        raise typer.Exit(say_plan(decisions, expectation, json))
    sweep_outputs(decisions)
    early = known_records(decisions, journal)
    for note in journal.notes():
        say_error(note)

    def work(restorer, shown):
        return task.work(restorer, journal, shown)

    def together(records):
        if samples == 1 and cluster is None:
            expected.learn(timed, records[len(early) :])
        return [*tables.write(records), *journal.unite()]

    def close(records):
        return closing(records, sum(passed.values()), {"report": page, "table": csv})

    claims = Claims(journal, task.made_with, overwrite, resume)
    said = {"expected": expectation, "close": close, "elsewhere": engines.elsewhere(todo, task, cluster)}
    raise typer.Exit(run_pictures(todo, settings, task.load, work, json, quiet, early, claims=claims, together=together, **said)[1])
