"""flashdiff restore"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from flashdiff_cli.commands import complete, helpful, options, process
from flashdiff_cli.commands.flags import OPERATOR_FLAGS, SOLVER_FLAGS, closed, solver_help, split, with_flags


@closed
@with_flags(SOLVER_FLAGS, "Solver settings")
@with_flags(OPERATOR_FLAGS, "Degradation")
def restore(
    inputs: options.Inputs,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File, or folder that mirrors the inputs (default: beside each input)."),
    ] = None,
    recursive: options.Recursive = False,
    limit: options.Limit = None,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Do part I of N, from 1/N to N/N, chosen by names: for job arrays; `report` merges them."),
    ] = None,
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
    seed: options.Seed = 0,
    model: options.Model = "photos",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    offline: options.Offline = False,
    json: options.Json = False,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write all records there as CSV.")] = None,
    page: Annotated[Path | None, typer.Option("--report", help="Write a page with before/after sliders, plot and table there (.html).")] = None,
    quiet: options.Quiet = False,
    threads: process.Threads = None,
    max_megapixels: process.MaxMegapixels = None,
    verbose: process.Verbose = False,
    log_file: process.LogFile = None,
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
    from flashdiff_cli.commands.piped import STANDARD, check_free, check_piped, write_piped
    from flashdiff_cli.commands.run import find_pictures, run_pictures
    from flashdiff_cli.commands.show import meter, say_error, say_json, say_plan
    from flashdiff_cli.commands.table import closing, report
    from flashdiff_cli.errors import UsageError, choose_from
    from flashdiff_cli.pictures.formats import FORMATS
    from flashdiff_cli.runs import expected
    from flashdiff_cli.runs.inputs import Job, with_targets
    from flashdiff_cli.runs.journal import Journal, Origin, fingerprint
    from flashdiff_cli.runs.piped import read_standard_input
    from flashdiff_cli.runs.resume import DO, REFUSE, SKIP, Claims, decide, model_identity, refusal, sweep_outputs, without_outputs
    from flashdiff_cli.runs.shards import Shard
    from flashdiff_cli.runs.tables import Tables

    ending = None
    if format is not None:
        ending = "." + format.lower().lstrip(".")
        if ending not in FORMATS:
            raise UsageError(f"--format {format!r} cannot be written; {choose_from(format, [name[1:] for name in FORMATS])}")
    if fast and start_step is not None:
        raise UsageError("--fast and --start-step exclude each other: --fast is --start-step 0")
    if overwrite and resume:
        raise UsageError("--overwrite and --resume exclude each other: the one does all again, the other keeps all that is there")
    content = read_standard_input(sys.stdin) if STANDARD in inputs else []
    piped = isinstance(content, bytes) or output == STANDARD
    journal, jobs, part = Journal(), [], Shard.parse(shard or "1/1")
    passed: Counter[str] = Counter()
    if piped:
        refused = {"--in-place": in_place, "--resume": resume, "--samples": samples > 1, "--severity-map": severity_map, "--shard": shard}
        check_piped(inputs, content, output, json, refused | {"--dry-run": dry_run, "--csv": csv, "--report": page})
        check_free(output, overwrite)
    else:
        jobs = find_pictures(
            inputs, recursive, limit, [] if isinstance(content, bytes) else content, lambda found: without_outputs(found, journal), passed
        )
        # Each part gives names as if it did all, so that no two parts give the same.
        jobs = part.of(with_targets(jobs, output, suffix, ending, in_place, journal.is_of_another))
    tables = Tables(journal, [*inputs, *([Path(str(part))] if shard else [])], jobs, csv, page, overwrite)
    of_operator, of_solver = split(values)

    from flashdiff_cli.hub.download import sha256_of
    from flashdiff_cli.runs.naming import files_of, names_beside
    from flashdiff_cli.runs.settings import Settings

    settings = Settings(
        operator=operator,
        operator_options=of_operator,
        mask=mask,
        kernel=kernel,
        scale=scale,
        noise_std=noise_std,
        solver=solver,
        solver_options=of_solver,
        steps=steps,
        eta=eta,
        start=start,
        start_step=0 if fast else start_step,
        noise_correction=noise_correction,
        variance_multiplier=variance_multiplier,
        encoder=encoder,
        fidelity=fidelity,
        seed=seed,
        tile=tile,
    )
    settings.check()

    def load():
        from flashdiff_cli.runs.restorer import Restorer

        return Restorer(model, device, dtype, offline=offline)

    if piped:
        job = Job(inputs[0], inputs[0], data=content if isinstance(content, bytes) else None)
        with meter(1, quiet) as shown:
            restorer = load()
            restorer.check(settings)
            shown.begin(str(job.source))
            restored, record = restorer.restore(job.read(), settings, str(job.source), shown.step, phase=shown.phase)
            write_piped(job, restored, record, output, ending, quality, overwrite)
        if output not in (None, STANDARD):
            report([record], json)
        if json:
            say_json(record.to_json())
        raise typer.Exit(0)
    files = {name: sha256_of(path) for name, path in files_of(settings.operator_options).items()}
    asked = {"quality": quality, "dtype": dtype, "samples": samples, "map": severity_map, "files": files}
    made_with = fingerprint(**settings.identity(), **asked, **model_identity(model, offline))
    decisions = decide(jobs, journal, made_with, overwrite, resume, lambda target: names_beside(target, samples, severity_map))
    todo = [d.job for d in decisions if d.action == DO]
    timed = expected.key_of(str(model), device, dtype, settings.start_step == 0, threads)
    expectation = expected.expect(todo, timed, settings.start_step == 0, samples, scale or 1)
    if dry_run:
        say_plan(decisions, json)
        if expectation is not None:
            say_error(str(expectation))
        raise typer.Exit(int(any(d.action == REFUSE for d in decisions)))
    sweep_outputs(decisions)
    early = [journal.record(d.job) for d in decisions if d.action == SKIP]
    early += [refusal(d) for d in decisions if d.action == REFUSE]
    for note in journal.notes():
        say_error(note)

    def work(restorer, job, picture, shown):
        from flashdiff_cli.pictures.files import write_picture
        from flashdiff_cli.runs import extras

        restored, record = restorer.restore(picture, settings, str(job.source), shown.step, phase=shown.phase)
        map_ = extras.severity_map(restorer, picture, settings, record.operator["name"], record.noise_std) if severity_map else None
        more, digest = None, picture.digest.hex()

        def beside(path):
            return journal.file(path, Origin.of(job.source), made_with, digest, of=job.target.name, overwrite=overwrite)

        if samples > 1:
            more = extras.write_samples(restorer, picture, settings, restored, job.target, samples, quality, shown.step, beside)

        def finish(record):
            if map_ is not None:
                record.others.append(str(extras.write_severity_map(map_, job.target, beside)))
            if more is not None:
                more(record)
            record.output = str(job.target)
            write_picture(restored, job.target, quality, lambda path: journal.result(job, made_with, digest, record, overwrite), record.notes)

        shown.phase("writing")
        return record, finish

    def together(records):
        if samples == 1:
            expected.learn(timed, records[len(early) :])
        return tables.write(records)

    def close(records):
        return closing(records, sum(passed.values()), {"report": page, "table": csv})

    claims = Claims(journal, made_with, overwrite, resume)
    said = {"expected": expectation, "close": close}
    raise typer.Exit(run_pictures(todo, settings, load, work, json, quiet, early, claims=claims, together=together, **said)[1])
