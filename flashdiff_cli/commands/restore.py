"""flashdiff restore"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from flashdiff_cli.commands import options
from flashdiff_cli.commands.flags import OPERATOR_FLAGS, SOLVER_FLAGS, closed, solver_help, split, with_flags


@closed
@with_flags(SOLVER_FLAGS, "Solver settings")
@with_flags(OPERATOR_FLAGS, "Degradation")
def restore(
    inputs: options.Inputs,
    output: Annotated[
        Optional[Path],
        typer.Option("--output", "-o", help="File, or folder that mirrors the inputs (default: beside each input)."),
    ] = None,
    recursive: options.Recursive = False,
    suffix: Annotated[str, typer.Option("--suffix", help="Added to names of outputs beside their inputs.")] = "-restored",
    format: Annotated[Optional[str], typer.Option("--format", help="png, jpg, webp or tiff (default: as the input).")] = None,
    quality: Annotated[int, typer.Option("--quality", min=1, max=100, help="Of JPEG and WebP.")] = 95,
    operator: options.Operator = None,
    noise_std: options.Noise = None,
    solver: Annotated[Optional[str], typer.Option("--solver", help=solver_help(), rich_help_panel="Method")] = None,
    steps: options.Steps = None,
    eta: Annotated[
        Optional[float],
        typer.Option("--eta", help="0 deterministic (DDIM) to 1 ancestral (default: the model's).", rich_help_panel="Method"),
    ] = None,
    start: Annotated[
        str, typer.Option("--start", help="Start latent: stochastic or inversion.", rich_help_panel="Method")
    ] = "stochastic",
    start_step: Annotated[
        Optional[int],
        typer.Option("--start-step", help="Start there, not at the step that the severity matches.", rich_help_panel="Method"),
    ] = None,
    noise_correction: Annotated[
        Optional[float],
        typer.Option("--noise-correction", help="Factor on the variance of the start noise (c in the paper).", rich_help_panel="Method"),
    ] = None,
    variance_multiplier: options.Multiplier = None,
    encoder: options.Encoder = None,
    seed: options.Seed = 0,
    model: options.Model = "photos",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    **values,
) -> None:
    """Restore pictures: estimate the severity of each, start where it matches, run just those steps.

    Examples:

    flashdiff restore photo.png

    flashdiff restore photo.png --operator gaussian-blur --blur-std 2 --noise-std 0.05

    flashdiff restore holiday/ -r -o restored/
    """
    from flashdiff_cli.commands.show import meter, report, stream
    from flashdiff_cli.errors import UsageError
    from flashdiff_cli.pictures.files import FORMATS, write_picture
    from flashdiff_cli.runs.many import each
    from flashdiff_cli.runs.plan import find, with_targets

    ending = None
    if format is not None:
        ending = "." + format.lower().lstrip(".")
        if ending not in FORMATS:
            raise UsageError(f"--format {format!r} is unknown; choose png, jpg, webp, tiff or bmp")
    jobs = with_targets(find(inputs, recursive), output, suffix, ending)
    of_operator, of_solver = split(values)
    with meter(len(jobs), quiet) as shown:
        from flashdiff_cli.runs.restorer import Restorer, Settings

        settings = Settings(
            operator=operator,
            operator_options=of_operator,
            noise_std=noise_std,
            solver=solver,
            solver_options=of_solver,
            steps=steps,
            eta=eta,
            start=start,
            start_step=start_step,
            noise_correction=noise_correction,
            variance_multiplier=variance_multiplier,
            encoder=encoder,
            seed=seed,
        )
        settings.check()
        restorer = Restorer(model, device, dtype, offline=offline)
        restorer.check(settings)

        def work(job, picture):
            restored, record = restorer.restore(picture, settings, str(job.source), shown.step)
            write_picture(restored, job.target, quality)
            record.output = str(job.target)
            return record

        records, interrupted = stream(each(jobs, work, lambda job: shown.begin(str(job.source))), json, shown.end)
    report(records, json)
    raise typer.Exit(130 if interrupted else int(any(r.status == "failed" for r in records)))
